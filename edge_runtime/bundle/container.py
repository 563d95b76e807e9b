"""The small part of the zip format that a `.edge` file is made of, read strictly.

A `.edge` file is local headers and their bytes one after the other, then the directory, then the
end record, and nothing else: no gap, no overlap, no comment, no zip64, no compression, no extra
fields. Whatever a lenient reader could understand in two ways is refused. Python's `zipfile` looks
for the directory from the end and follows its offsets anywhere, so we do not hand it a stranger's
file; both it and `unzip` read ours.

Order for a reader: 1. the end record, by size and place; 2. the directory, at most
`MAX_DIRECTORY_BYTES`; 3. every local header against its directory entry.
Source: APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12, 4.3.16 (PKWARE).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from edge_runtime.bundle.files import safe_path
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_FILES
from edge_runtime.errors import UntrustedError

MAX_MEMBERS = MAX_FILES + 1
MAX_PATH_BYTES = 512
MAX_ARCHIVE_BYTES = 0xFFFF_FFFE
"""Beyond this a zip file needs zip64."""

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
MAX_DIRECTORY_BYTES = MAX_MEMBERS * (_ENTRY.size + MAX_PATH_BYTES)

_VERSION = 20
_MADE_BY_UNIX = 3 << 8 | _VERSION
_UTF8_NAME = 0x0800
_MIDNIGHT, _FIRST_OF_1980 = 0, 0x0021
_PLAIN_FILE = (stat.S_IFREG | 0o644) << 16
_DOS_FOLDER = 0x10


@dataclass(frozen=True, slots=True)
class Member:
    """A stored file: its bytes are `data_offset` .. `data_offset + size_bytes` of the archive."""

    path: str
    size_bytes: int
    crc32: int
    data_offset: int


def read_members(file: BinaryIO, size_bytes: int, where: str) -> tuple[Member, ...]:
    """Every member of an archive of `size_bytes`, in order; the manifest is the first.

    Raises:
        UntrustedError: not a `.edge` file in every detail above. OSError passes.
    """
    # 1. The end record stands at the very end, and the directory ends where it begins.
    if not _END.size <= size_bytes <= MAX_ARCHIVE_BYTES:
        raise UntrustedError(
            f"{where}: {size_bytes} bytes, an .edge file has {_END.size}..{MAX_ARCHIVE_BYTES}"
        )
    end_offset = size_bytes - _END.size
    signature, disk, start_disk, here, count, directory_bytes, directory, comment = _END.unpack(
        _read(file, end_offset, _END.size, where)
    )
    if signature != b"PK\5\6" or disk or start_disk or here != count or comment:
        raise UntrustedError(f"{where}: not an .edge file (no plain zip end record at its end)")
    if not 0 < count <= MAX_MEMBERS:
        raise UntrustedError(f"{where}: {count} members, expected 1..{MAX_MEMBERS}")
    if directory_bytes > MAX_DIRECTORY_BYTES or directory + directory_bytes != end_offset:
        raise UntrustedError(
            f"{where}: directory of {directory_bytes} bytes at {directory} does not end at the "
            f"end record at {end_offset}"
        )
    # 2. The directory.
    members: list[Member] = []
    seen: set[str] = set()
    entries = _read(file, directory, directory_bytes, where)
    position = data_end = 0
    for _ in range(count):
        if position + _ENTRY.size > len(entries):
            raise UntrustedError(f"{where}: the directory ends early")
        member, position = _entry(entries, position, data_end, where)
        if not members and member.path != MANIFEST_NAME:
            raise UntrustedError(f"{where}: starts with {member.path!r}, not {MANIFEST_NAME}")
        if member.path.casefold() in seen:
            raise UntrustedError(f"{where}: {member.path!r} is there twice")
        # 3. Its local header must say the same.
        local_bytes = member.data_offset - data_end
        if _read(file, data_end, local_bytes, where) != _as_local(
            member, _read(file, data_end, _LOCAL.size, where)
        ):
            raise UntrustedError(f"{where}: {member.path!r}: local header and directory disagree")
        members.append(member)
        seen.add(member.path.casefold())
        data_end = member.data_offset + member.size_bytes
    if position != len(entries) or data_end != directory:
        raise UntrustedError(f"{where}: bytes that belong to no member")
    return tuple(members)


def _entry(entries: bytes, position: int, offset: int, where: str) -> tuple[Member, int]:
    """The directory entry at `position` and where the next one starts.

    `offset` is where its local header must stand: right behind the previous member's bytes.
    """
    (signature, _, _, flags, method, _, _, crc, packed, size, name_bytes, extra, comment, disk,
     _, attributes, found_offset) = _ENTRY.unpack_from(entries, position)  # fmt: skip
    position += _ENTRY.size
    raw = entries[position : position + name_bytes]
    path = raw.decode("ascii", "replace")
    if signature != b"PK\1\2" or len(raw) != name_bytes or not safe_path(path):
        raise UntrustedError(f"{where}: member {path[:80]!r} has no plain relative path")
    if flags & ~_UTF8_NAME or method or packed != size:
        raise UntrustedError(f"{where}: {path!r} is not stored plainly (compressed or encrypted)")
    if extra or comment or disk:
        raise UntrustedError(f"{where}: {path!r} has extra fields, a comment or another disk")
    if attributes & _DOS_FOLDER or stat.S_IFMT(attributes >> 16) not in (0, stat.S_IFREG):
        raise UntrustedError(f"{where}: {path!r} is a folder, a link or a device, not a file")
    if found_offset != offset:
        raise UntrustedError(f"{where}: {path!r} stands at {found_offset}, expected {offset}")
    return Member(path, size, crc, offset + _LOCAL.size + name_bytes), position + name_bytes


def _as_local(member: Member, found: bytes) -> bytes:
    """What the local header of `member` must be; version and time may be as in `found`."""
    _, version, flags, _, time, date, *_ = _LOCAL.unpack(found)
    return _local(member, version, flags & _UTF8_NAME, time, date)


def _local(member: Member, version: int, flags: int, time: int, date: int) -> bytes:
    name = member.path.encode("ascii")
    size = member.size_bytes
    return (
        _LOCAL.pack(
            b"PK\3\4", version, flags, 0, time, date, member.crc32, size, size, len(name), 0
        )
        + name
    )


def _read(file: BinaryIO, offset: int, size: int, where: str) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise UntrustedError(f"{where}: ends early, expected {size} bytes at {offset}")
    return data


def local_header(path: str, size_bytes: int, crc32: int, offset: int) -> tuple[Member, bytes]:
    """A member to be written at `offset`, and the header that goes before its bytes."""
    member = Member(path, size_bytes, crc32, offset + _LOCAL.size + len(path))
    return member, _local(member, _VERSION, 0, _MIDNIGHT, _FIRST_OF_1980)


def directory(members: Iterable[Member], offset: int) -> bytes:
    """The directory and the end record that close an archive whose members end at `offset`."""
    entries = bytearray()
    count = 0
    for member in members:
        name = member.path.encode("ascii")
        entries += _ENTRY.pack(
            b"PK\1\2", _MADE_BY_UNIX, _VERSION, 0, 0, _MIDNIGHT, _FIRST_OF_1980, member.crc32,
            member.size_bytes, member.size_bytes, len(name), 0, 0, 0, 0, _PLAIN_FILE,
            member.data_offset - _LOCAL.size - len(name),
        )  # fmt: skip
        entries += name
        count += 1
    return bytes(entries) + _END.pack(b"PK\5\6", 0, 0, count, count, len(entries), offset, 0)
