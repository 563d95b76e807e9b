"""Reading files that anybody may have put there: never a pipe or a device, which would wait.

Nothing that is no regular file is opened: opening some devices powers them up.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from edge_runtime.bundle import durable


def read(path: Path, max_bytes: int) -> bytes:
    """The file's first `max_bytes`. Raises OSError: it cannot be read, or is no regular file."""

    def look() -> bytes:
        demand(path)
        # A pipe that took its place meanwhile must not block us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _demand(os.fstat(descriptor), path)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(max_bytes)
        finally:
            os.close(descriptor)

    return durable.insist(look)


def demand(path: Path) -> None:
    """Raises OSError: there is nothing at `path`, or no regular file."""
    try:
        _demand(os.stat(path), path)
    except ValueError:
        raise OSError(errno.EINVAL, "no name that a file can have", str(path)) from None


def _demand(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))
