"""Images as vendors make them, with small trees: Raspberry Pi OS in its two flavours, and a Jetson.

Real partition tables, FAT and ext4, made by the same programs as the vendors': sfdisk, mkfs.vfat,
mke2fs. No root, no mounts.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path

MIB = 1 << 20
BOOT_MIB = 64
TOOLS = ("sfdisk", "mkfs.vfat", "mke2fs", "debugfs", "e2fsck", "resize2fs", "mcopy")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
CMDLINE = (
    "console=serial0,115200 console=tty1 root=PARTUUID=1ab0c0de-02 rootfstype=ext4 "
    "fsck.repair=yes rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n"
)
STOCK_USER_DATA = (
    "#cloud-config\n\n# Set up the system here.\n#hostname: raspberrypi\nssh_pwauth: false\n"
)
PRETTY = {"bookworm": "Debian GNU/Linux 12 (bookworm)", "trixie": "Debian GNU/Linux 13 (trixie)",
          "jammy": "Ubuntu 22.04.5 LTS", "forky": "Debian GNU/Linux 14 (forky)"}  # fmt: skip
AARCH64, ARM = 0xB7, 0x28


def missing_tools() -> list[str]:
    return [name for name in TOOLS if shutil.which(name, path=PATH) is None]


def run(*words: str | Path, folder: Path | None = None, say: str | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        input=say,
        env={**os.environ, "PATH": PATH, "LC_ALL": "C", "MTOOLSRC": "/dev/null"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout


def tree(folder: Path, codename: str, *more: str, machine: int = AARCH64) -> Path:
    """What of a root tells which system it is; `more` are paths of files that are there too."""
    for name in ("etc/systemd/system/multi-user.target.wants", "var/lib", "usr/lib", "usr/bin",
                 "usr/sbin", "etc/modprobe.d"):  # fmt: skip
        (folder / name).mkdir(parents=True)
    (folder / "usr/lib/os-release").write_text(
        f'PRETTY_NAME="{PRETTY[codename]}"\nVERSION_CODENAME={codename}\nID=debian\n'
    )
    (folder / "etc/os-release").symlink_to("../usr/lib/os-release")
    elf = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 3, machine)
    (folder / "usr/bin/dpkg").write_bytes(elf.ljust(4096, b"\0"))
    for name in more:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    return folder


def mbr_image(image: Path, root: Path, boot: dict[str, str], root_mib: int = 48) -> Path:
    """As Raspberry Pi's: FAT at 4 MiB, ext4 behind it."""
    start = 4 + BOOT_MIB
    with image.open("wb") as file:
        file.truncate((start + root_mib) * MIB)
    run("sfdisk", "-q", image, say=(
        f"label: dos\nlabel-id: 0x1ab0c0de\nstart=8192, size={BOOT_MIB * 2048}, type=c\n"
        f"start={start * 2048}, size={root_mib * 2048}, type=83\n"))  # fmt: skip
    # So small clusters that there are enough of them for FAT32, as mtools counts.
    run(
        "mkfs.vfat",
        "-F",
        "32",
        "-s",
        "1",
        "-n",
        "bootfs",
        "--offset",
        "8192",
        image,
        str(BOOT_MIB * 1024),
    )
    for name, text in boot.items():
        one = image.parent / f"boot-{name}"
        one.write_text(text)
        run("mcopy", "-i", f"{image}@@4M", one, f"::/{name}")
        one.unlink()
    _ext4(image, root, start, root_mib)
    return image


def gpt_image(image: Path, root: Path, root_mib: int = 48, *, last: bool = True) -> Path:
    """As NVIDIA's: many small partitions, and APP, the first by number, behind all of them."""
    app, other = (16, 8) if last else (8, 8 + root_mib)
    with image.open("wb") as file:
        file.truncate((17 + root_mib + (0 if last else 8)) * MIB)
    run("sfdisk", "-q", image, say=(
        "label: gpt\n"
        f'1 : start={app * 2048}, size={root_mib * 2048}, name="APP"\n'
        f'2 : start={other * 2048}, size=2048, name="A_kernel"\n'
        f'3 : start={(other + 1) * 2048}, size=2048, name="esp", '
        "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n"))  # fmt: skip
    _ext4(image, root, app, root_mib)
    return image


def _ext4(image: Path, root: Path, start_mib: int, size_mib: int) -> None:
    run("mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-d", root, "-E",
        f"offset={start_mib * MIB},root_owner=0:0", image, f"{size_mib}M")  # fmt: skip


def bookworm(folder: Path, root_mib: int = 48) -> Path:
    """Raspberry Pi OS that provisions by its own firstboot."""
    root = tree(
        folder / "bookworm", "bookworm", "usr/lib/raspberrypi-sys-mods/init_config",
        "usr/sbin/NetworkManager", "etc/NetworkManager/NetworkManager.conf",
    )  # fmt: skip
    boot = {"cmdline.txt": CMDLINE, "config.txt": "arm_64bit=1\n"}
    return mbr_image(folder / "bookworm.img", root, boot, root_mib)


def trixie(folder: Path, user_data: str = STOCK_USER_DATA) -> Path:
    """Raspberry Pi OS that provisions by cloud-init."""
    root = tree(
        folder / "trixie", "trixie", "usr/sbin/NetworkManager", "usr/sbin/netplan",
        "etc/cloud/cloud.cfg",
    )  # fmt: skip
    boot = {"cmdline.txt": "console=tty1 root=PARTUUID=1ab0c0de-02 rootwait resize\n",
            "user-data": user_data, "meta-data": "instance_id: rpios\n",
            "network-config": "# none\n"}  # fmt: skip
    return mbr_image(folder / "trixie.img", root, boot)


def jetson(folder: Path, root_mib: int = 48, *, last: bool = True) -> Path:
    """A card image of JetPack 6, which boots into NVIDIA's questions."""
    root = tree(folder / "jetson", "jammy", "etc/nv_tegra_release", "usr/sbin/NetworkManager")
    (root / "etc/systemd/system/default.target").symlink_to("nv-oem-config.target")
    return gpt_image(folder / "jetson.img", root, root_mib, last=last)


def deb(
    folder: Path, suite: str = "deb12", arch: str = "arm64", version: str = "0.1.0",
    payload: bytes = b"", name: str = "edge-agent",
) -> Path:  # fmt: skip
    """A package that dpkg would install."""
    full = f"{version}+{suite}" if suite else version
    control = f"Package: {name}\nVersion: {full}\nArchitecture: {arch}\nMaintainer: nobody\n" \
              "Installed-Size: 64\nDescription: agent\n"  # fmt: skip
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": _tar({"./control": control.encode()}),
        "data.tar.gz": _tar({"./usr/lib/edge-agent/x": payload}),
    }
    data = b"!<arch>\n"
    for member, content in members.items():
        head = f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        data += head.encode() + content + b"\n" * (len(content) % 2)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{full}_{arch}.deb"
    path.write_bytes(data)
    return path


def _tar(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(data.getvalue())
