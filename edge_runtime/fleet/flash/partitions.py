"""Where partitions lie in an image: MBR or GPT, read by ourselves and never believed.

A table is taken only if all of it fits: every partition inside the file, none over another, GPT's
checksums right. That is why no tool is asked: they report what a table says, mend it, or stay
silent. The one thing that is ever changed is the end of the last partition, with `grow`.

Sources: UEFI specification 2.10, chapter 5 (GPT); for MBR, chapter 5.2.1 there.
"""

from __future__ import annotations

import binascii
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from edge_runtime.errors import DeviceError, InputError
from edge_runtime.text import plain

SECTOR = 512
MAX_ENTRIES = 256
PROTECTIVE = 0xEE
EXTENDED = (0x05, 0x0F, 0x85)
FAT_TYPES = ("01", "04", "06", "0b", "0c", "0e")
LINUX_TYPE = "83"
_SIGNATURE = b"\x55\xaa"
_MBR_ENTRIES = 446
_HEADER = struct.Struct("<8s4sII4xQQQQ16sQIII")
_GPT = b"EFI PART"
_UNUSED = bytes(16)
_END_OF_CHS = b"\xfe\xff\xff"


@dataclass(frozen=True, slots=True)
class Partition:
    """`kind` is MBR's type in hex, or GPT's type GUID in hex; only GPT gives names."""

    number: int
    start_bytes: int
    size_bytes: int
    kind: str
    name: str = ""

    @property
    def end_bytes(self) -> int:
        """The first byte behind it."""
        return self.start_bytes + self.size_bytes


@dataclass(frozen=True, slots=True)
class Table:
    """The partitions of an image, in the order of their numbers. `scheme` is "mbr" or "gpt"."""

    scheme: str
    partitions: tuple[Partition, ...]

    def is_last(self, partition: Partition) -> bool:
        """Whether nothing lies behind it on the disk."""
        return all(p.end_bytes <= partition.end_bytes for p in self.partitions)


def read_table(path: Path, where: str = "") -> Table:
    """The table of the image at `path`, which messages call `where`.

    Raises:
        InputError: there is none, or it lies.
        DeviceError: the file cannot be read.
    """
    where = where or plain(str(path))
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            sector = file.read(SECTOR)
            if len(sector) < SECTOR or sector[510:] != _SIGNATURE:
                raise InputError(f"{where}: no disk image: it has no partition table")
            kinds = [sector[_MBR_ENTRIES + 16 * n + 4] for n in range(4)]
            if PROTECTIVE in kinds:
                table = Table("gpt", _Gpt.read(file, size_bytes, where).partitions())
            else:
                table = Table("mbr", _mbr(sector, where))
    except OSError as reason:
        raise DeviceError(f"{where}: cannot be read ({reason.strerror})") from None
    _check(table.partitions, size_bytes, where)
    return table


def grow(
    path: Path, table: Table, partition: Partition, add_bytes: int, where: str = ""
) -> Partition:
    """Make the file and its last partition larger; `add_bytes` are whole MiB.

    Raises:
        InputError: the table cannot say so much.
        DeviceError: the disk is full, or failing.
    """
    if not table.is_last(partition) or add_bytes % (1 << 20) or add_bytes <= 0:
        raise RuntimeError("only the last partition grows, by whole MiB")
    where = where or plain(str(path))
    try:
        with path.open("r+b") as file:
            size_bytes = -(-os.fstat(file.fileno()).st_size // (1 << 20)) * (1 << 20) + add_bytes
            file.truncate(size_bytes)
            if table.scheme == "gpt":
                end_bytes = _Gpt.read(file, size_bytes, where).grow(
                    file, partition.number, size_bytes
                )
            else:
                end_bytes = _grow_mbr(file, partition, size_bytes, where)
            file.flush()
            os.fsync(file.fileno())
    except OSError as reason:
        raise DeviceError(
            f"{where}: cannot be grown in {plain(str(path.parent))} ({reason.strerror})"
        ) from None
    return next(
        p for p in read_table(path, where).partitions
        if p.number == partition.number and p.end_bytes == end_bytes
    )  # fmt: skip


def _check(partitions: Sequence[Partition], size_bytes: int, where: str) -> None:
    if not partitions:
        raise InputError(f"{where}: its partition table is empty")
    for p in partitions:
        if p.end_bytes > size_bytes:
            raise InputError(
                f"{where}: partition {p.number} ends at byte {p.end_bytes}, the image has "
                f"{size_bytes}: it is cut off, download it again"
            )
    for before, after in pairwise(sorted(partitions, key=lambda p: p.start_bytes)):
        if before.end_bytes > after.start_bytes:
            raise InputError(f"{where}: partitions {before.number} and {after.number} overlap")


# MBR


def _mbr(sector: bytes, where: str) -> tuple[Partition, ...]:
    found: list[Partition] = []
    for n in range(4):
        entry = sector[_MBR_ENTRIES + 16 * n : _MBR_ENTRIES + 16 * n + 16]
        kind, (start, count) = entry[4], struct.unpack("<II", entry[8:])
        if kind == 0:
            continue
        if start == 0 or count == 0:
            raise InputError(
                f"{where}: partition {n + 1} starts at {start} and has {count} sectors"
            )
        found.append(Partition(n + 1, start * SECTOR, count * SECTOR, f"{kind:02x}"))
    return tuple(found)


def _grow_mbr(file: BinaryIO, partition: Partition, size_bytes: int, where: str) -> int:
    count = (size_bytes - partition.start_bytes) // SECTOR
    if count > 0xFFFFFFFF:
        raise InputError(f"{where}: {size_bytes} bytes are more than its partition table can say")
    at = _MBR_ENTRIES + 16 * (partition.number - 1)
    file.seek(at + 5)
    file.write(_END_OF_CHS)
    file.seek(at + 12)
    file.write(struct.pack("<I", count))
    return partition.start_bytes + count * SECTOR


# GPT


@dataclass(slots=True)
class _Gpt:
    """The first header and its entries, which were checked."""

    header: bytes
    entries: bytearray
    entries_lba: int
    alternate_lba: int
    first_usable: int
    last_usable: int
    count: int
    entry_bytes: int
    where: str

    @classmethod
    def read(cls, file: BinaryIO, size_bytes: int, where: str) -> _Gpt:
        """Raises InputError: damaged, or it contradicts itself."""
        file.seek(SECTOR)
        raw = file.read(SECTOR)
        if len(raw) < SECTOR or raw[:8] != _GPT:
            raise InputError(f"{where}: its table says GPT, but there is no GPT header")
        _, _, length, crc, own, alternate, first, last, _, *rest = _HEADER.unpack_from(raw)
        entries_lba, count, size, entries_crc = rest
        if (
            not _HEADER.size <= length <= SECTOR
            or own != 1
            or _crc(_without_crc(raw, length)) != crc
        ):
            raise InputError(f"{where}: its GPT header is damaged")
        if not 1 <= count <= MAX_ENTRIES or size not in (128, 256, 512) or entries_lba < 2:
            raise InputError(
                f"{where}: its GPT has {count} entries of {size} bytes at sector {entries_lba}, "
                f"expected 1..{MAX_ENTRIES} of 128, 256 or 512, from sector 2 on"
            )
        if (entries_lba * SECTOR + count * size) > first * SECTOR or first > last:
            raise InputError(f"{where}: its GPT leaves no room for itself")
        if not last < alternate < size_bytes // SECTOR:
            raise InputError(
                f"{where}: its GPT ends at sector {alternate}, the image has "
                f"{size_bytes // SECTOR}: it is cut off, download it again"
            )
        file.seek(entries_lba * SECTOR)
        entries = bytearray(file.read(count * size))
        if _crc(entries) != entries_crc:
            raise InputError(f"{where}: the entries of its GPT are damaged")
        header = raw[:length]
        return cls(header, entries, entries_lba, alternate, first, last, count, size, where)

    def partitions(self) -> tuple[Partition, ...]:
        """Raises InputError: one is not within what the header leaves to partitions."""
        found: list[Partition] = []
        for n in range(self.count):
            entry = bytes(self.entries[n * self.entry_bytes : (n + 1) * self.entry_bytes])
            if entry[:16] == _UNUSED:
                continue
            start, last = struct.unpack_from("<QQ", entry, 32)
            if not self.first_usable <= start <= last <= self.last_usable:
                raise InputError(
                    f"{self.where}: partition {n + 1} has the sectors {start} to {last}, "
                    f"allowed are {self.first_usable} to {self.last_usable}"
                )
            name = entry[56:128].decode("utf-16-le", "replace").split("\0", 1)[0]
            size_bytes = (last - start + 1) * SECTOR
            found.append(
                Partition(n + 1, start * SECTOR, size_bytes, entry[:16].hex(), plain(name))
            )
        return tuple(found)

    def grow(self, file: BinaryIO, number: int, size_bytes: int) -> int:
        """Let partition `number` end where a disk of `size_bytes` ends; returns its end."""
        file.seek(self.alternate_lba * SECTOR)
        file.write(bytes(SECTOR))
        alternate = size_bytes // SECTOR - 1
        table_sectors = -(-len(self.entries) // SECTOR)
        last_usable = alternate - table_sectors - 1
        # Whole 4 KiB blocks, which is what the file system in it counts in.
        start = struct.unpack_from("<Q", self.entries, (number - 1) * self.entry_bytes + 32)[0]
        last = start + (last_usable + 1 - start) // 8 * 8 - 1
        struct.pack_into("<Q", self.entries, (number - 1) * self.entry_bytes + 40, last)
        second = alternate - table_sectors
        for own, other, entries_lba in (
            (alternate, 1, second),
            (1, alternate, self.entries_lba),
        ):
            file.seek(entries_lba * SECTOR)
            file.write(self.entries)
            file.seek(own * SECTOR)
            file.write(self._head(own, other, entries_lba, last_usable))
        # The protective MBR covers the disk, or as much of it as it can say.
        file.seek(_MBR_ENTRIES + 12)
        file.write(struct.pack("<I", min(alternate, 0xFFFFFFFF)))
        return int(last + 1) * SECTOR

    def _head(self, own: int, other: int, entries_lba: int, last_usable: int) -> bytes:
        head = bytearray(self.header)
        struct.pack_into("<QQ", head, 24, own, other)
        struct.pack_into("<Q", head, 48, last_usable)
        struct.pack_into("<Q", head, 72, entries_lba)
        struct.pack_into("<I", head, 88, _crc(self.entries))
        struct.pack_into("<I", head, 16, 0)
        struct.pack_into("<I", head, 16, _crc(head))
        return bytes(head).ljust(SECTOR, b"\0")


def _crc(data: bytes | bytearray) -> int:
    return binascii.crc32(data)


def _without_crc(raw: bytes, length: int) -> bytes:
    return raw[:16] + bytes(4) + raw[20:length]
