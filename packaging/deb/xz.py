"""Segments of bytes as one .xz file, one block for each, compressed side by side and remembered.

liblzma compresses every segment by itself; its block is taken out of the small .xz it makes, and
the blocks get one common index. So a segment that did not change costs nothing in the next build,
has the same bytes in the next release (an update over the air fetches only what is new), and the
result depends neither on the number of processors nor on what was remembered.

Source: The .xz File Format 1.2.1, https://tukaani.org/xz/xz-file-format.txt
"""

from __future__ import annotations

import hashlib
import lzma
import os
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# Preset 6 needs 9 MiB to be unpacked; 9 would need 65, on boards of 512.
PRESET = 6
_MAGIC = b"\xfd7zXZ\0"
_FLAGS = b"\x00\x01"  # CRC32, as dpkg-deb takes
_HEADER = _MAGIC + _FLAGS + zlib.crc32(_FLAGS).to_bytes(4, "little")
_FOOTER_SIZE = 12


@dataclass(frozen=True, slots=True)
class Block:
    """A compressed segment, and what the index says about it."""

    data: bytes
    unpadded_size: int
    uncompressed_size: int


def compress(
    segments: Sequence[bytes], cache: Path, done: Callable[[int], None] = lambda index: None
) -> bytes:
    """One .xz file whose content is the segments, one after the other.

    Args:
        cache: a folder for compressed segments, by digest.
        done: told the number of each segment that is compressed, in order.
    """
    cache.mkdir(parents=True, exist_ok=True)
    blocks = []
    filled = [segment for segment in segments if segment]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, packed in enumerate(pool.map(lambda each: _remembered(each, cache), filled)):
            blocks.append(_block(packed))
            done(number)
    index = _index(blocks)
    backward = (len(index) // 4 - 1).to_bytes(4, "little")
    footer = zlib.crc32(backward + _FLAGS).to_bytes(4, "little") + backward + _FLAGS + b"YZ"
    return b"".join([_HEADER, *(block.data for block in blocks), index, footer])


def _remembered(segment: bytes, cache: Path) -> bytes:
    """The segment as a .xz file of its own."""
    known = hashlib.sha256(b"%d\n" % PRESET + segment).hexdigest()
    path = cache / f"{known}.xz"
    if not path.exists():
        packed = lzma.compress(segment, lzma.FORMAT_XZ, lzma.CHECK_CRC32, PRESET)
        # Another build, or an equal segment of this one, may be at it too.
        passing = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.new")
        passing.write_bytes(packed)
        passing.replace(path)
    return path.read_bytes()


def _block(packed: bytes) -> Block:
    """The one block of a .xz file.

    Raises:
        ValueError: it has another number of blocks.
    """
    index_size = (int.from_bytes(packed[-8:-4], "little") + 1) * 4
    index = packed[-_FOOTER_SIZE - index_size : -_FOOTER_SIZE]
    records, rest = _number(index[1:])
    unpadded_size, rest = _number(rest)
    uncompressed_size, _ = _number(rest)
    data = packed[len(_HEADER) : -_FOOTER_SIZE - index_size]
    if packed[: len(_HEADER)] != _HEADER or records != 1 or len(data) != -(-unpadded_size // 4) * 4:
        raise ValueError("not one block")
    return Block(data, unpadded_size, uncompressed_size)


def _index(blocks: Sequence[Block]) -> bytes:
    body = b"\0" + _encoded(len(blocks))
    for block in blocks:
        body += _encoded(block.unpadded_size) + _encoded(block.uncompressed_size)
    body += bytes(-len(body) % 4)
    return body + zlib.crc32(body).to_bytes(4, "little")


def _encoded(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _number(data: bytes) -> tuple[int, bytes]:
    """The number at the beginning, and what comes after it."""
    value = 0
    for position, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, data[position + 1 :]
    raise ValueError("a number without an end")
