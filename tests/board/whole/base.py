"""An image like that of Raspberry Pi OS Lite, as it is downloaded. Made once, cached.

MBR; a FAT partition with `cmdline.txt` and `config.txt`, and in the flavour of Debian 13 the files
of cloud-init; an ext4 root of Debian's packages for ARM64, installed and configured, so that
`dpkg -i` works on the board. What Raspberry Pi OS adds to Debian and matters here is in `overlay/`.
The kernel is Debian 12's, is unpacked only, and is given to the emulator from outside.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import DeviceError, InputError
from tests.board import host, image
from tests.board.cpio import initramfs
from tests.board.modules import in_order
from tests.board.whole import binfmt

OVERLAY = Path(__file__).with_name("overlay")
SAID = Callable[[str], None]
SECTOR = 512
BOOT_BEGIN, BOOT_MIB = 8192, 512
"""As Raspberry Pi OS has them, in sectors and MiB."""
ROOM_MIB = 400
"""What is free on the root file system of an image; a card has more."""
DISK_ID = "1ab0c0de"
GPT_BEGIN = 40960
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
LOADED = ("virtio_pci", "virtio_blk", "virtio_net", "ext4", "crc32c_generic")
APPLETS = ("sh", "mount", "insmod", "switch_root", "echo", "cat", "sleep", "dd", "hexdump")
COMMON = (
    "ca-certificates", "dbus", "dosfstools", "e2fsprogs", "fdisk", "iproute2", "kmod",
    "libpam-systemd", "network-manager", "procps", "python3", "systemd", "systemd-sysv",
    "systemd-timesyncd", "tzdata", "udev",
)  # fmt: skip
UNPACKED = ("busybox-static", "linux-image-cloud-arm64")
LEFT_OUT = ("man", "doc", "locale", "info")
FORM = 1
"""Raised when the same parts are put together in another way."""


@dataclass(frozen=True, slots=True)
class Flavour:
    """A kind of image: the Debian that it is made of, the agent's package for it, its table."""

    suite: str
    deb: str
    packages: tuple[str, ...] = ()
    gpt: bool = False


FLAVOURS = {
    "bookworm": Flavour("bookworm", "deb12"),
    "trixie": Flavour("trixie", "deb13", ("cloud-init", "netplan.io", "python3-yaml")),
    "jetson": Flavour("bookworm", "deb12", gpt=True),
}


@dataclass(frozen=True, slots=True)
class Base:
    """The image, and what the emulator needs beside it."""

    kernel: Path
    initrd: Path
    image: Path


def make(cache: Path, name: str, say: SAID, mirror: str = image.MIRROR) -> Base:
    """The base image of the flavour called `name`, from the cache or made.

    Raises:
        InputError: a program is missing, or this is not root, which configuring packages needs.
        DeviceError: a package cannot be had, or a program fails.
    """
    flavour = FLAVOURS[name]
    debian = cache / f"debian-{flavour.suite}-{_key(FORM, flavour.suite, _packages(flavour))}.tar"
    key = _key(debian.name, name, flavour, UNPACKED, LOADED, ROOM_MIB, _overlay())
    folder = cache / f"whole-{name}-{key}"
    if not (folder / "base.img").is_file():
        if os.geteuid() != 0:
            raise InputError("the base image is made as root, once: packages are configured in it")
        binfmt.ensure()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=cache) as place:
            work, new = Path(place), Path(place) / folder.name
            new.mkdir()
            if not debian.is_file():
                say(f"Debian {flavour.suite} for arm64, configured: some minutes, once")
                _debian(work / "debian.tar", flavour, mirror)
                (work / "debian.tar").rename(debian)
            _make(new, work, name, debian, say, mirror)
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
    return Base(folder / "kernel", folder / "initrd", folder / "base.img")


def _key(*parts: object) -> str:
    """Names everything that goes into something."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _overlay() -> list[tuple[str, int, bytes]]:
    return [
        (str(path.relative_to(OVERLAY)), path.stat().st_mode & 0o111, path.read_bytes())
        for path in sorted(OVERLAY.rglob("*"))
        if path.is_file()
    ]


def _packages(flavour: Flavour) -> tuple[str, ...]:
    return (*COMMON, *flavour.packages)


def _make(new: Path, work: Path, name: str, debian: Path, say: SAID, mirror: str) -> None:
    tree, unpacked = work / "tree", work / "unpacked"
    say(f"kernel of Debian {image.SUITE} for arm64")
    image.unpacked(unpacked, image.SUITE, UNPACKED, mirror)
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    shutil.copyfile(kernel, new / "kernel")
    (new / "initrd").write_bytes(_initrd(unpacked))
    say("what makes Debian like the board's own system")
    tree.mkdir()
    _run("tar", "--extract", "--numeric-owner", "--file", debian, "--directory", tree)
    _dress(tree, unpacked, name)
    say("the image")
    if FLAVOURS[name].gpt:
        _write_gpt(new / "base.img", tree)
    else:
        _write(new / "base.img", tree, OVERLAY / f"boot-{name}")


def _initrd(unpacked: Path) -> bytes:
    busybox = (unpacked / "bin" / "busybox").resolve().read_bytes()
    files = {
        "init": (0o755, (OVERLAY / "init").read_bytes()),
        "bin/busybox": (0o755, busybox),
    }
    (modules,) = (unpacked / "lib" / "modules").iterdir()
    for number, path in enumerate(in_order(modules, LOADED)):
        files[f"modules/{number:02}-{path.name}"] = (0o644, path.read_bytes())
    folders = ("bin", "modules", "proc", "sys", "dev", "root")
    return initramfs(files, folders, {f"bin/{name}": "busybox" for name in APPLETS})


def _debian(packed: Path, flavour: Flavour, mirror: str) -> None:
    host.call(
        "mmdebstrap", "--quiet", "--variant=minbase", "--architectures=arm64",
        f"--include={','.join(_packages(flavour))}", '--aptopt=Apt::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in LEFT_OUT),
        flavour.suite, packed, mirror,
    )  # fmt: skip


def _dress(tree: Path, unpacked: Path, name: str) -> None:
    (modules,) = (unpacked / "lib" / "modules").iterdir()
    shutil.copytree(modules, tree / "usr" / "lib" / "modules" / modules.name, symlinks=True)
    for overlay in (OVERLAY / "both", OVERLAY / name):
        shutil.copytree(overlay, tree, dirs_exist_ok=True)
    (tree / "boot" / "firmware").mkdir(parents=True, exist_ok=True)
    # An image starts without an identity of its own, and without being a "first boot" of systemd's.
    (tree / "etc" / "machine-id").write_text("")
    (tree / "etc" / "resolv.conf").unlink(missing_ok=True)
    _run("chroot", tree, "depmod", "-a", modules.name)
    _run("chroot", tree, "systemctl", "enable", "board-http.socket", "board-says.service")


def _run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())[-600:]
        raise DeviceError(f"{' '.join(map(str, command[:4]))}: {said}")


def _write(path: Path, tree: Path, boot: Path) -> None:
    size_mib = (image.tree_size(tree) >> 20) * 21 // 20 + ROOM_MIB
    boot_sectors = BOOT_MIB << 11
    root_begin = BOOT_BEGIN + boot_sectors
    with path.open("wb") as file:
        file.truncate((root_begin + (size_mib << 11)) * SECTOR)
    table = (
        f"label: dos\nlabel-id: 0x{DISK_ID}\n"
        f"start={BOOT_BEGIN}, size={boot_sectors}, type=c\n"
        f"start={root_begin}, size={size_mib << 11}, type=83\n"
    )
    host.call("sfdisk", "--quiet", path, given=table)
    host.call("mkfs.vfat", "-F", "32", "-n", "bootfs", "--offset", str(BOOT_BEGIN), path,
              str(BOOT_MIB << 10))  # fmt: skip
    host.call("mcopy", "-i", f"{path}@@{BOOT_BEGIN * SECTOR}", *sorted(boot.iterdir()), "::/")
    host.call(
        "mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-d", tree, "-E",
        f"offset={root_begin * SECTOR}", path, f"{size_mib}M",
    )  # fmt: skip


def _write_gpt(path: Path, tree: Path) -> None:
    """As a Jetson's card has it: the root file system is the partition APP, the first of a GPT."""
    size_mib = (image.tree_size(tree) >> 20) * 21 // 20 + ROOM_MIB
    begin, sectors = GPT_BEGIN, size_mib << 11
    with path.open("wb") as file:
        file.truncate((begin + sectors + GPT_BEGIN) * SECTOR)
    table = (
        f'label: gpt\nfirst-lba: 2048\nstart={begin}, size={sectors}, type={LINUX}, name="APP"\n'
    )
    host.call("sfdisk", "--quiet", path, given=table)
    host.call(
        "mke2fs", "-q", "-t", "ext4", "-d", tree, "-E", f"offset={begin * SECTOR}", path,
        f"{size_mib}M",
    )  # fmt: skip
