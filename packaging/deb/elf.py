"""What shared libraries ask of the system: the fields of ELF that matter for Depends.

Only 64-bit little-endian files are read, which all of ours are; anything else is an error, because
a package must not carry it.

Source: System V ABI, chapter 5, and the Linux Standard Base, "Symbol Versioning".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from suites import PackagingError

_PT_LOAD, _PT_DYNAMIC = 1, 2
_NEEDED, _STRTAB, _VERNEED, _VERNEEDNUM = 1, 5, 0x6FFFFFFE, 0x6FFFFFFF


@dataclass(frozen=True, slots=True)
class Library:
    """One file: its processor, the libraries it loads, and which versions of their symbols."""

    machine: int
    needed: tuple[str, ...]
    versions: frozenset[str]


def is_elf(data: bytes) -> bool:
    """Whether these are the bytes of an ELF file."""
    return data[:4] == b"\x7fELF"


def read(data: bytes, name: str) -> Library:
    """What the library in `data` asks for.

    Raises:
        PackagingError: it is no 64-bit little-endian ELF file, or damaged.
    """
    if not is_elf(data) or data[4:6] != b"\x02\x01":
        raise PackagingError(f"{name}: expected a 64-bit little-endian ELF file")
    try:
        return _read(data)
    except (struct.error, ValueError, IndexError) as reason:
        raise PackagingError(f"{name}: not to be read as ELF: {reason}") from reason


def _read(data: bytes) -> Library:
    (machine,) = struct.unpack_from("<H", data, 18)
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    loads: list[tuple[int, int, int]] = []
    dynamic: dict[int, list[int]] = {}
    for position in range(table, table + size * count, size):
        kind, _, offset, address, _, in_file = struct.unpack_from("<IIQQQQ", data, position)
        if kind == _PT_LOAD:
            loads.append((address, offset, in_file))
        elif kind == _PT_DYNAMIC:
            for tag, value in struct.iter_unpack("<qQ", data[offset : offset + in_file]):
                dynamic.setdefault(tag, []).append(value)

    def place(address: int) -> int:
        for begin, offset, in_file in loads:
            if begin <= address < begin + in_file:
                return offset + address - begin
        raise ValueError(f"address {address:#x} is not in the file")

    def text(offset: int) -> str:
        begin = strings + offset
        return data[begin : data.index(b"\0", begin)].decode("ascii")

    if _STRTAB not in dynamic:
        return Library(machine, (), frozenset())
    strings = place(dynamic[_STRTAB][0])
    versions = set()
    if _VERNEED in dynamic:
        position = place(dynamic[_VERNEED][0])
        for _ in range(dynamic[_VERNEEDNUM][0]):
            _, entries, _, first, following = struct.unpack_from("<HHIII", data, position)
            entry = position + first
            for _ in range(entries):
                _, _, _, name, next_entry = struct.unpack_from("<IHHII", data, entry)
                versions.add(text(name))
                entry += next_entry
            position += following
    needed = tuple(text(offset) for offset in dynamic.get(_NEEDED, ()))
    return Library(machine, needed, frozenset(versions))
