"""Changing files so that a power cut leaves the old bytes or the new ones, never half of each.

Order: write a temporary file beside the target, fsync it, rename it over the target, fsync the
folder. Without the first fsync a rename can survive with an empty file behind it; without the
second the rename itself can be lost.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge_runtime.errors import DeviceError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well.

    There is one temporary name for each target: one writer at a time, and what a cut left behind
    is overwritten by the next try.

    Raises:
        DeviceError: disk full, read-only or failing; `path` is untouched and nothing stays behind.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        try:
            with open(temporary, "wb") as file:
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


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
