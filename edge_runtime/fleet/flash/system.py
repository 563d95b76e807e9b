"""Which system an image holds, and how that one takes settings before its first boot.

Found from the image itself, never from its name: os-release, the program dpkg and vendors' files in
the ext4 root, and the files on the FAT partition.

Sources: os-release(5); passwd(5), Debian Policy 9.2.2 (user ids); ELF-64 object file format,
e_machine; raspberrypi-sys-mods (`firstboot`, `init_config`) and pi-gen's stage2/04-cloud-init, both
at github.com/RPi-Distro; NVIDIA's Jetson Linux: /etc/nv_tegra_release, and nv-oem-config.target,
which the first boot stops at.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.fleet.flash.ext4 import Ext4
from edge_runtime.fleet.flash.fat import Fat, is_fat
from edge_runtime.fleet.flash.partitions import FAT_TYPES, Partition, Table, read_table
from edge_runtime.fleet.flash.superblock import is_ext
from edge_runtime.fleet.flash.tools import IMAGE
from edge_runtime.text import plain

OS_RELEASE = "/usr/lib/os-release"
SUITES = {"bookworm": "deb12", "trixie": "deb13", "jammy": "jammy"}
"""A distribution's VERSION_CODENAME and what packages for it are called."""
MACHINES = {0xB7: "arm64", 0x3E: "amd64", 0x28: "armhf"}
ARCHITECTURES = ("arm64", "amd64")
FIRSTBOOT = "init=/usr/lib/raspberrypi-sys-mods/firstboot"
INIT_CONFIG = "/usr/lib/raspberrypi-sys-mods/init_config"
APPLICATION = "APP"
PASSWD = "/etc/passwd"
FIRST_PERSON, NOBODY = 1000, 65534
"""Of the user ids, those between are people's."""
DEFAULT_TARGET = "/etc/systemd/system/default.target"
_MAX_TEXT = 64 << 10


class Flavour(Enum):
    """How an image takes user, keys and host name."""

    FIRST_RUN = "raspberry-pi-first-run"
    CLOUD_INIT = "raspberry-pi-cloud-init"
    JETSON = "jetson"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class System:
    """What was found. `fat` has the boot files, where there is one.

    `network` is what connects it: "NetworkManager", "netplan" or "". `boots_into` is the systemd
    target that the image starts, where that is not the usual one. `users` are its own, which no
    person may be called as.
    """

    name: str
    suite: str
    arch: str
    flavour: Flavour
    network: str
    boots_into: str
    users: frozenset[str]
    root: Partition
    ext4: Ext4
    fat: Fat | None


def find_system(folder: Path, where: str) -> tuple[Table, System]:
    """The system in the image that is called `image` in `folder`.

    Raises:
        InputError: no image of a board, damaged, or a system that no package is made for.
    """
    path = folder / IMAGE
    table = read_table(path, where)
    root, ext4 = _root(folder, table, where)
    release = _os_release(ext4.read(OS_RELEASE, _MAX_TEXT) or b"")
    name = plain(release.get("PRETTY_NAME", release.get("ID", "an unknown system")))
    codename = release.get("VERSION_CODENAME", "")
    if codename not in SUITES:
        raise InputError(f"{where}: holds {name}; there are packages for {', '.join(SUITES)} only")
    arch = _arch(ext4)
    if arch not in ARCHITECTURES:
        raise InputError(
            f"{where}: holds {name} for {arch}; packages are made for {' and '.join(ARCHITECTURES)}"
            ": take the 64-bit image"
        )
    fat = _boot(folder, table, where)
    target = ext4.link(DEFAULT_TARGET).rpartition("/")[2]
    return table, System(
        name=name,
        suite=SUITES[codename],
        arch=arch,
        flavour=_flavour(ext4, fat),
        network=_network(ext4),
        boots_into=target if re.fullmatch(r"[A-Za-z0-9_-]+\.target", target) else "",
        users=_system_users(ext4.read(PASSWD, _MAX_TEXT) or b""),
        root=root,
        ext4=ext4,
        fat=fat,
    )


def _root(folder: Path, table: Table, where: str) -> tuple[Partition, Ext4]:
    """NVIDIA's application partition, or else the ext4 that holds a system."""
    path = folder / IMAGE
    candidates = [p for p in table.partitions if is_ext(path, p)]
    named = [p for p in candidates if p.name == APPLICATION]
    faults: list[InputError] = []
    for partition in named or sorted(candidates, key=lambda p: -p.size_bytes):
        try:
            ext4 = Ext4(folder, partition, where)
            if ext4.kind(OS_RELEASE) == "regular":
                return partition, ext4
        except InputError as fault:
            faults.append(fault)
    if faults:
        raise faults[0]
    if not candidates:
        raise InputError(f"{where}: has no ext4 partition, so no system that can be set up")
    raise InputError(f"{where}: no ext4 partition has {OS_RELEASE}: no system was found in it")


def _boot(folder: Path, table: Table, where: str) -> Fat | None:
    """The FAT that a Raspberry Pi boots from."""
    path = folder / IMAGE
    for partition in table.partitions:
        if (table.scheme == "gpt" or partition.kind in FAT_TYPES) and is_fat(path, partition):
            fat = Fat(folder, partition, where)
            if "cmdline.txt" in fat.names():
                return fat
    return None


def _flavour(ext4: Ext4, fat: Fat | None) -> Flavour:
    if ext4.kind("/etc/nv_tegra_release"):
        return Flavour.JETSON
    if fat is None:
        return Flavour.PLAIN
    if "user-data" in fat.names():
        return Flavour.CLOUD_INIT
    # Once it has booted, firstboot is gone from the line, and custom.toml would not be read.
    words = fat.read("cmdline.txt").decode("utf-8", "replace").split()
    if FIRSTBOOT in words and ext4.kind(INIT_CONFIG):
        return Flavour.FIRST_RUN
    return Flavour.PLAIN


def _network(ext4: Ext4) -> str:
    for name, program in (("NetworkManager", "NetworkManager"), ("netplan", "netplan")):
        if ext4.kind(f"/usr/sbin/{program}"):
            return name
    return ""


def _arch(ext4: Ext4) -> str:
    """Of the program dpkg, by its ELF header."""
    head = ext4.read("/usr/bin/dpkg", 20) or b""
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return "an unknown machine (it has no program /usr/bin/dpkg)"
    machine: int = struct.unpack_from("<H", head, 18)[0]
    return MACHINES.get(machine, f"machine {machine:#x}")


def _system_users(passwd: bytes) -> frozenset[str]:
    rows = [line.split(":") for line in passwd.decode("utf-8", "replace").splitlines()]
    return frozenset(
        row[0]
        for row in rows
        if len(row) > 2 and row[2].isdecimal() and not FIRST_PERSON <= int(row[2][:10]) < NOBODY
    )


def _os_release(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            found[key.strip()] = value.strip().strip("\"'")
    return found
