"""A memory card as a whole disk: whether it may be written, writing it, and reading it back.

Looked at in /sys and /proc before anything is opened; the kernel is asked once more by opening it
exclusively, which it refuses while any part of the disk is in use. What was read back must have the
digest of what was to be written, and is read past the cache.

Sources: sysfs(5), Documentation/ABI/stable/sysfs-block; open(2), O_EXCL on block devices.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fleet.flash.source import OnProgress
from edge_runtime.text import plain, size

MAX_UNFORCED_BYTES = 512 * 10**9
_PIECE = 4 << 20
_BLKRRPART, _BLKFLSBUF = 0x125F, 0x1261


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the kernel tells of disks; tests have another one."""

    sys: Path = Path("/sys")
    proc: Path = Path("/proc")
    number: Callable[[Path], str] = field(default=lambda path: _number(path))
    """Of a block device, as 8:16. Raises OSError, InputError."""
    may_write: Callable[[Path], bool] = field(
        default=lambda path: os.access(path, os.R_OK | os.W_OK, effective_ids=True)
    )


@dataclass(frozen=True, slots=True)
class Disk:
    """One that may be written."""

    path: Path
    size_bytes: int


def find_disk(path: Path, *, force: bool, machine: Machine | None = None) -> Disk:
    """The disk at `path`, if it is one to write an image to.

    Args:
        force: it may be larger than 512 GB, or not removable. In use it may never be.

    Raises:
        InputError: it is none; says why.
    """
    machine = machine or Machine()
    where = plain(str(path))
    try:
        number = machine.number(path)
    except OSError as reason:
        raise InputError(f"{where}: cannot be looked at ({reason.strerror})") from None
    folder = machine.sys / "dev" / "block" / number
    if not folder.exists():
        raise InputError(f"{where}: the kernel knows no disk with this number, {number}")
    if (folder / "partition").exists():
        whole = os.path.basename(os.path.dirname(os.path.realpath(folder)))
        raise InputError(f"{where}: is a partition, expected the whole disk, /dev/{whole}")
    if _word(folder / "ro") != "0":
        raise InputError(f"{where}: is read-only; look at the switch on the card")
    size_bytes = int(_word(folder / "size") or 0) * 512
    if size_bytes == 0:
        raise InputError(f"{where}: has no medium in it")
    _demand_unused(folder, where, machine)
    if not force:
        if size_bytes > MAX_UNFORCED_BYTES:
            raise InputError(
                f"{where}: has {size(size_bytes)}, more than a card usually has "
                f"({size(MAX_UNFORCED_BYTES)}); if it really is the one, --force"
            )
        if not _is_removable(folder):
            raise InputError(
                f"{where}: is built in, no card or stick; if it really is the one, --force"
            )
    if not machine.may_write(path):
        raise InputError(_not_yours(path))
    return Disk(path, size_bytes)


def write(disk: Disk, image: Path, on_progress: OnProgress = lambda _done, _total: None) -> str:
    """Write `image` over the beginning of `disk`; the sha256 of what was written.

    Raises:
        InputError: the disk is too small, or in use after all.
        DeviceError: it, or the image's disk, fails.
    """
    total = image.stat().st_size
    if total > disk.size_bytes:
        raise InputError(
            f"{disk.path}: has {size(disk.size_bytes)} ({disk.size_bytes} bytes), the image "
            f"{size(total)} ({total} bytes); take a larger card"
        )
    digest = hashlib.sha256()
    with _opened(disk, os.O_WRONLY) as target, image.open("rb") as source:
        done = 0
        while piece := source.read(_PIECE):
            digest.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(target, view) :]
            done += len(piece)
            # Otherwise the bar is at its end when the card has just begun.
            if done % (8 * _PIECE) == 0:
                os.fdatasync(target)
            on_progress(done, total)
        os.fsync(target)
    return digest.hexdigest()


def verify(
    disk: Disk, sha256: str, total: int, on_progress: OnProgress = lambda _done, _total: None
) -> None:
    """Read back the first `total` bytes of `disk`, from the medium.

    Raises:
        DeviceError: they are others; the card is worn or fake.
    """
    digest = hashlib.sha256()
    with _opened(disk, os.O_RDONLY) as source:
        with contextlib.suppress(OSError):
            fcntl.ioctl(source, _BLKFLSBUF)
        with contextlib.suppress(OSError):
            os.posix_fadvise(source, 0, 0, os.POSIX_FADV_DONTNEED)
        done = 0
        with mmap.mmap(-1, _PIECE) as buffer:  # Aligned, as reading past the cache demands.
            while done < total and (count := os.readv(source, [buffer])):
                count = min(count, total - done)
                digest.update(memoryview(buffer)[:count])
                done += count
                on_progress(done, total)
    if digest.hexdigest() != sha256:
        raise DeviceError(
            f"{disk.path}: what was read back is not what was written; the card is worn or fake, "
            "take another one"
        )


def read_table_anew(disk: Disk) -> None:
    """Let the kernel see the new partitions. Where it does not, pulling the card out does."""
    with (
        contextlib.suppress(OSError, InputError, DeviceError),
        _opened(disk, os.O_RDONLY) as target,
    ):
        fcntl.ioctl(target, _BLKRRPART)


@contextlib.contextmanager
def _opened(disk: Disk, flags: int) -> Iterator[int]:
    """The disk, exclusively; and its errors as ours."""
    try:
        direct = os.O_DIRECT if flags == os.O_RDONLY else 0
        try:
            descriptor = os.open(disk.path, flags | os.O_EXCL | os.O_CLOEXEC | direct)
        except OSError as reason:
            if not direct or reason.errno != errno.EINVAL:
                raise
            descriptor = os.open(disk.path, flags | os.O_EXCL | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except PermissionError:
        raise InputError(_not_yours(disk.path)) from None
    except OSError as reason:
        if reason.errno == errno.EBUSY:
            raise InputError(f"{disk.path}: is in use; unmount it first") from None
        raise DeviceError(f"{disk.path}: failed ({reason.strerror})") from None


def _not_yours(path: Path) -> str:
    return (
        f"{plain(str(path))}: you may not write it; run as root (sudo -E edge-fleet …), or join "
        "the group that may, usually disk"
    )


def _demand_unused(folder: Path, where: str, machine: Machine) -> None:
    """Raises InputError: it, or a partition of it, is mounted, swap, or part of another disk."""
    parts = [item for item in sorted(folder.iterdir()) if (item / "partition").exists()]
    numbers = {_word(item / "dev"): item.resolve().name for item in (folder, *parts)}
    for line in _lines(machine.proc / "self" / "mountinfo"):
        words = line.split()
        if len(words) < 10:
            continue
        source = words[words.index("-") + 2] if "-" in words[:-2] else ""
        if words[2] in numbers or _number_or_none(source, machine) in numbers:
            raise InputError(f"{where}: is mounted at {plain(words[4])}; unmount it first")
    for line in _lines(machine.proc / "swaps")[1:]:
        if _number_or_none(line.split()[0], machine) in numbers:
            raise InputError(f"{where}: holds swap that is in use; swapoff it first")
    for item in (folder, *parts):
        holders = item / "holders"
        held = sorted(os.listdir(holders)) if holders.is_dir() else []
        if held:
            raise InputError(
                f"{where}: is part of {held[0]} (LVM, RAID or an encrypted disk), in use"
            )


def _is_removable(folder: Path) -> bool:
    """A card or a stick. Readers of SD cards in laptops call themselves not removable."""
    if _word(folder / "removable") == "1" or _word(folder / "device" / "type") == "SD":
        return True
    return any(part.startswith("usb") for part in folder.resolve().parts)


def _number(path: Path) -> str:
    found = path.stat()
    if not stat.S_ISBLK(found.st_mode):
        raise InputError(f"{plain(str(path))}: is no disk; for a file use --out")
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


def _number_or_none(name: str, machine: Machine) -> str | None:
    try:
        return machine.number(Path(name)) if name.startswith("/") else None
    except (OSError, InputError):
        return None


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
