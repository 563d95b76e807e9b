"""What an ext4 says of itself in its superblock, held against the partition that it is in.

A file system that says it is larger than its partition would be written over what lies behind it.

Source: the kernel's Documentation/filesystems/ext4, "Super Block".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fleet.flash.partitions import Partition

_AT = 1024
_BYTES = 1024
_MAGIC = 0xEF53
_NEEDS_RECOVERY = 0x4
_64BIT = 0x80
_CLEAN, _ERRORS = 1, 2


@dataclass(frozen=True, slots=True)
class Space:
    """What a file system has, and what is left of it. Groups are what it grows by."""

    size_bytes: int
    block_bytes: int
    free_bytes: int
    free_inodes: int
    group_bytes: int
    group_inodes: int


def is_ext(path: Path, partition: Partition) -> bool:
    """Whether it looks like ext2, 3 or 4; `read_space` says whether it is sound."""
    return bool(struct.unpack_from("<H", _read(path, partition), 56)[0] == _MAGIC)


def read_space(path: Path, partition: Partition, where: str) -> Space:
    """Of the file system in `partition`.

    Raises:
        InputError: there is none, it contradicts itself or its partition, or was not left clean.
        DeviceError: the image cannot be read.
    """
    block = _read(path, partition)
    inodes, blocks, _, free, free_inodes = struct.unpack_from("<IIIII", block, 0)
    (shift,) = struct.unpack_from("<I", block, 24)
    per_group, _, inodes_per_group = struct.unpack_from("<III", block, 32)
    magic, state = struct.unpack_from("<HH", block, 56)
    (incompatible,) = struct.unpack_from("<I", block, 96)
    if magic != _MAGIC:
        raise InputError(f"{where}: is none")
    if incompatible & _64BIT:
        blocks |= struct.unpack_from("<I", block, 336)[0] << 32
        free |= struct.unpack_from("<I", block, 344)[0] << 32
    if shift > 6 or not blocks or not per_group or not inodes_per_group or free > blocks:
        raise InputError(f"{where}: its superblock is damaged")
    size = 1024 << shift
    if blocks * size > partition.size_bytes:
        raise InputError(
            f"{where}: says it has {blocks * size} bytes, its partition has {partition.size_bytes}"
        )
    if not state & _CLEAN or state & _ERRORS or incompatible & _NEEDS_RECOVERY:
        raise InputError(
            f"{where}: was not left clean, as if a board had run from this image; take a fresh one"
        )
    return Space(
        size_bytes=blocks * size,
        block_bytes=size,
        free_bytes=free * size,
        free_inodes=min(free_inodes, inodes),
        group_bytes=per_group * size,
        group_inodes=inodes_per_group,
    )


def _read(path: Path, partition: Partition) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(partition.start_bytes + _AT)
            return file.read(_BYTES).ljust(_BYTES, b"\0")
    except OSError as reason:
        raise DeviceError(f"{path}: cannot be read ({reason.strerror})") from None
