"""One partition of an image as a file of its own, and what has changed in it back into the image.

Holes stay holes, and what is written back is only what differs: growing a file system changes some
megabytes of some gigabytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.fleet.flash.partitions import Partition

_PIECE = 1 << 20


def carve(image: Path, partition: Partition, to: Path) -> None:
    """Make `to`, the content of `partition`. Raises OSError."""
    start = partition.start_bytes
    descriptor = os.open(to, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "r+b") as target, image.open("rb") as source:
        target.truncate(partition.size_bytes)
        for at, end in data_ranges(source.fileno(), start, partition.end_bytes):
            while at < end:
                count = os.copy_file_range(
                    source.fileno(), target.fileno(), end - at, at, at - start
                )
                if count == 0:
                    raise OSError(5, "the image became shorter")
                at += count


def put_back(carved: Path, image: Path, partition: Partition) -> None:
    """Make `partition` of `image` what `carved` is. Raises OSError."""
    start = partition.start_bytes
    with carved.open("rb") as source, image.open("r+b") as target:
        for at, end in data_ranges(source.fileno(), 0, partition.size_bytes):
            while at < end:
                piece = os.pread(source.fileno(), min(_PIECE, end - at), at)
                if os.pread(target.fileno(), len(piece), start + at) != piece:
                    os.pwrite(target.fileno(), piece, start + at)
                at += len(piece)


def data_ranges(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where a file has content between `start` and `end`: what lies between is zeros."""
    at = start
    while at < end:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:  # Nothing but a hole from here on.
            return
        if data >= end:
            return
        hole = min(end, os.lseek(descriptor, data, os.SEEK_HOLE))
        yield data, hole
        at = hole
