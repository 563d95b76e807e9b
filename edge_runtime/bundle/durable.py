"""Files that outlive what happens to disks.

Changing one, a power cut leaves the old bytes or the new ones, never half of each. Order: write a
temporary file beside the target, fsync it, rename it over the target, fsync the folder. Without the
first fsync a rename can survive with an empty file behind it; without the second the rename itself
can be lost.

Looking at one, a disk that fails a call is asked once more: memory cards and USB disks fail one
and recover, and a bundle must not be given up, nor what happened forgotten, for that.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from edge_runtime.errors import DeviceError

T = TypeVar("T")

log = logging.getLogger(__name__)


def insist(look: Callable[[], T]) -> T:
    """What `look` returns; called again where the disk failed it. Raises OSError."""
    try:
        return look()
    except OSError as reason:
        if reason.errno != errno.EIO:
            raise
        log.warning("disk: %s, asking once more", reason)
    return look()


def read(path: Path, max_bytes: int) -> bytes:
    """The file's first `max_bytes`. Raises OSError: it cannot be read, or is no regular file.

    A pipe or a device in its place would make us wait, and is not opened: opening some devices
    powers them up.
    """

    def look() -> bytes:
        demand_regular(path)
        # A pipe that took its place meanwhile must not block us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _demand_regular(os.fstat(descriptor), path)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(max_bytes)
        finally:
            os.close(descriptor)

    return insist(look)


def demand_regular(path: Path) -> None:
    """Raises OSError: there is nothing at `path`, or no regular file."""
    try:
        _demand_regular(os.stat(path), path)
    except ValueError:
        raise OSError(errno.EINVAL, "no name that a file can have", str(path)) from None


def _demand_regular(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))


PASSING = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.EINTR}
)
"""Errors that say nothing about a file: too few descriptors, too little memory, not our user."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well.

    There is one temporary name for each target: one writer at a time, and what a cut left behind
    is removed by the next try.

    Raises:
        DeviceError: disk full, read-only or failing; `path` is untouched and nothing stays behind.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        try:
            # What a cut left behind, or a link that somebody put there to be written through.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)
    except OSError as reason:
        raise DeviceError(f"{path}: cannot be written ({reason.strerror})") from None


def replace(path: Path, data: bytes) -> None:
    """Make `data` the content of `path`.

    Raises:
        DeviceError: disk full, read-only or failing; `path` is untouched.
    """
    with replacing(path) as file:
        file.write(data)


def torn(folder: Path) -> list[Path]:
    """What cuts left in `folder` of files that were being replaced. Raises OSError."""
    names = (item.name for item in os.scandir(folder))
    return [folder / name for name in names if name.startswith(".") and name.endswith(".tmp")]


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
