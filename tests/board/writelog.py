"""The log of a disk's writes and flushes, and what a power cut leaves of them.

The emulator's `blklogwrites` driver keeps it, in the form of Linux's dm-log-writes. Killing an
emulator alone is a mild power cut: the guest's memory is gone, but whatever it had handed to its
disk is kept. A disk has a cache of its own, and promises only what was flushed. So here the disk is
made anew: every write before the last flush, and of those after it some, in pieces, or none.

Source: Linux, Documentation/admin-guide/device-mapper/log-writes.rst; QEMU, block/blklogwrites.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import BinaryIO

SECTOR = 512
PIECE = 4096
"""What a disk writes whole or not at all; the file system's block as well."""
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
KNOWN_FLAGS = FLUSH | FUA | DISCARD | MARK
MAGIC = 0x6A736677736872
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
SHARES = (0.0, 0.5, 1.0)
"""How much of what was not flushed may survive: nothing, each piece by chance, everything."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. `at` is where its bytes begin in the log."""

    offset: int
    size: int
    flags: int
    at: int


@dataclass(frozen=True, slots=True)
class Left:
    """What a cut left: flushed writes, and pieces after them that survived or did not."""

    flushed: int = 0
    survived: int = 0
    lost: int = 0


def read_entries(log: BinaryIO) -> list[Entry]:
    """Every request that reached the log whole; it ends where the emulator was killed.

    Raises:
        ValueError: this is no log of writes.
    """
    head = log.read(SECTOR)
    if not head:
        return []  # Killed before its first write.
    magic, version, _, sector = _SUPER.unpack_from(head)
    if (magic, version, sector) != (MAGIC, 1, SECTOR):
        raise ValueError(f"magic {magic:#x}, version {version}, sectors of {sector} bytes")
    size = log.seek(0, 2)
    found, at = [], SECTOR
    while at + SECTOR <= size:
        log.seek(at)
        first, sectors, flags, _ = _ENTRY.unpack(log.read(_ENTRY.size))
        # Requests are logged side by side, so that a killed emulator may leave a hole.
        if not (flags & FLUSH or sectors) or flags & ~KNOWN_FLAGS:
            break
        entry = Entry(first * SECTOR, sectors * SECTOR, flags, at + SECTOR)
        at = entry.at + (0 if flags & DISCARD else entry.size)
        if at > size:
            break
        found.append(entry)
    return found


def last_flush(entries: Sequence[Entry]) -> int:
    """How many of `entries` the last flush covers, itself included."""
    return max((n + 1 for n, entry in enumerate(entries) if entry.flags & FLUSH), default=0)


def pieces(entry: Entry) -> Iterator[tuple[int, int]]:
    """(offset in the entry, size), each within one piece of the disk."""
    begin = 0
    while begin < entry.size:
        size = min(PIECE - (entry.offset + begin) % PIECE, entry.size - begin)
        yield begin, size
        begin += size


def count(log: Path) -> int:
    """How many requests there are."""
    with log.open("rb") as source:
        return len(read_entries(source))


def settle(log: Path, image: Path, random: Random | None, upto: int | None = None) -> Left:
    """Make `image`, as it was when the log began, what a cut left of it.

    Args:
        random: decides what survives of the writes after the last flush; None: nothing does.
        upto: the power went after so many requests; None: after the last one.
    """
    with log.open("rb") as source, image.open("r+b") as disk:
        entries = read_entries(source)[:upto]
        covered = last_flush(entries)
        for entry in entries[:covered]:
            _write(source, disk, entry, 0, entry.size)
        share = random.choice(SHARES) if random is not None else 0.0
        survived = lost = 0
        for entry in entries[covered:]:
            for begin, size in pieces(entry):
                if random is not None and random.random() < share:
                    _write(source, disk, entry, begin, size)
                    survived += 1
                else:
                    lost += 1
    written = sum(1 for entry in entries[:covered] if entry.size)
    return Left(written, survived, lost)


def _write(source: BinaryIO, disk: BinaryIO, entry: Entry, begin: int, size: int) -> None:
    if entry.flags & DISCARD:
        data = bytes(size)
    else:
        source.seek(entry.at + begin)
        data = source.read(size)
    disk.seek(entry.offset + begin)
    disk.write(data)
