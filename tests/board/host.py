"""Programs of this host that the board is made and run with."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.errors import DeviceError, InputError

PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-system-aarch64": "qemu-system-arm",
    "mke2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "mosquitto": "mosquitto",
}
"""And the Debian packages that have them."""
IMAGES = {
    "mcopy": "mtools",
    "mkfs.vfat": "dosfstools",
    "mtype": "mtools",
    "sfdisk": "fdisk",
}
"""Besides, for an image with partitions."""
_SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin"


def missing(*, images: bool = False) -> list[str]:
    """In words, the programs that are not here; with those for `images`."""
    return [
        f"{name} (Debian package {package})"
        for name, package in {**PROGRAMS, **(IMAGES if images else {})}.items()
        if _found(name) is None
    ]


def program(name: str) -> str:
    """Its path, also where the user's PATH leaves out what is the administrator's.

    Raises:
        InputError: it is not installed.
    """
    path = _found(name)
    if path is None:
        raise InputError(f"{name} is not installed (Debian package {(PROGRAMS | IMAGES)[name]})")
    return path


def call(
    name: str, *arguments: str | Path, fine: Sequence[int] = (0,), given: str | None = None
) -> int:
    """Run a program to its end, `given` on its stdin; its exit code.

    Raises:
        DeviceError: another one than those that are `fine`; with the end of what it said.
    """
    return _run(name, arguments, fine, given).returncode


def ask(name: str, *arguments: str | Path) -> str:
    """What a program says; raises like `call`."""
    return _run(name, arguments, (0,), None).stdout


def _run(
    name: str, arguments: Sequence[str | Path], fine: Sequence[int], given: str | None
) -> subprocess.CompletedProcess[str]:
    command = [program(name), *map(str, arguments)]
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode not in fine:
        said = " ".join(f"{done.stderr} {done.stdout}".split())[-600:]
        raise DeviceError(f"{name}: exit code {done.returncode} ({said})")
    return done


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM}")
