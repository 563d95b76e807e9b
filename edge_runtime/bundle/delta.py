"""A new chunk as its difference from bytes of an older bundle, and how such differences travel.

A retrained model moves most of its quantized weights by a step or two and keeps its layout: the
bytes of a new chunk minus those at the same place of the old file are mostly 0, 1 and 255, and
compress to a fraction. The subtraction is byte by byte, modulo 256, and zlib does the rest: it is
in every Python, and its decoder takes 32 KiB.

`news` puts the chunks that a new bundle has and an old one lacks into an order that both sides
know. A *piece* holds the differences of a few of them, one after the other in that order; it is no
larger than a chunk and travels as one. An *index*, a small JSON file, names the pieces; a *ref* in
the release says from which bundle a device may come and how the index is fetched.

Nothing here is signed and nothing here is believed: what `restore` returns is to be held to the
digest of the chunk that it claims to be, which the manifest names. This module touches no disk.
"""

from __future__ import annotations

import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from edge_runtime.bundle.files import MAX_CHUNK_BYTES, MAX_CHUNKS, SHA256, Chunk, FileEntry
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.errors import IncompatibleError, UntrustedError
from edge_runtime.fields import Fields, Json, decode_json, encode_json

FORMAT = 1
INDEX_NAME = "delta.json"
MAX_INDEX_BYTES = 256 << 10
MAX_PIECE_CHUNKS = 16
"""Chunks that one piece makes: each is a write to the device's disk, all within one call."""
MAX_REFS = 4
_HEAD = struct.Struct(">HQI")
"""Of a difference: number of the old file, offset in it, bytes that follow."""
_LEVEL = 6
"""Level 9 saves 4 % more and takes nine times as long."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How one new chunk comes out of file number `file` of the old manifest, from `offset` on.

    Past the file's end the old bytes count as 0. `coded` is empty where there is no difference to
    be had: the chunk is fetched as it is.
    """

    file: int = 0
    offset: int = 0
    coded: bytes = b""


@dataclass(frozen=True, slots=True)
class Piece:
    """A blob of differences, for the chunks `first` .. `first + count - 1` of `news`."""

    blob: Chunk
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class DeltaRef:
    """Whoever holds the bundle with the manifest `base_sha256` may use the delta in `index`."""

    base_sha256: str
    index: FileEntry

    @classmethod
    def parse(cls, f: Fields) -> DeltaRef:
        """From an object."""
        index = FileEntry.parse(f.object("index"))
        if index.path != INDEX_NAME or not 0 < index.size_bytes <= MAX_INDEX_BYTES:
            f.fault(
                f"{f.where}: index must be {INDEX_NAME} of 1..{MAX_INDEX_BYTES} bytes, found "
                f"{index.path!r} of {index.size_bytes}"
            )
        return cls(base_sha256=f.text("base_sha256", pattern=SHA256), index=index)

    def as_json(self) -> dict[str, Json]:
        """The object that `parse` reads."""
        return {"base_sha256": self.base_sha256, "index": self.index.as_json()}


@dataclass(frozen=True, slots=True)
class DeltaIndex:
    """The pieces that lead from one bundle to another, by the digests of their manifests."""

    base_sha256: str
    manifest_sha256: str
    pieces: tuple[Piece, ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> DeltaIndex:
        """Parse and check.

        Raises:
            UntrustedError: too large or malformed.
            IncompatibleError: another format.
        """
        where = "delta index"
        value = decode_json(data, max_bytes=MAX_INDEX_BYTES, where=where, error=UntrustedError)
        f = Fields(value, where, UntrustedError)
        found = f.integer("format")
        if found != FORMAT:
            raise IncompatibleError(f"{where}: format {found}, this software reads {FORMAT}")
        return cls(
            base_sha256=f.text("base_sha256", pattern=SHA256),
            manifest_sha256=f.text("manifest_sha256", pattern=SHA256),
            pieces=tuple(_piece(f, item) for item in f.items("pieces", max_items=MAX_CHUNKS)),
        )

    def to_bytes(self) -> bytes:
        """The JSON that `from_bytes` reads; a piece is [sha256, size_bytes, first, count]."""
        return encode_json(
            {
                "format": FORMAT,
                "base_sha256": self.base_sha256,
                "manifest_sha256": self.manifest_sha256,
                "pieces": [
                    [piece.blob.sha256, piece.blob.size_bytes, piece.first, piece.count]
                    for piece in self.pieces
                ],
            }
        )


def _piece(f: Fields, item: object) -> Piece:
    match item:
        case [str(digest), int(size), int(first), int(count)] if (
            re.fullmatch(SHA256, digest)
            and 0 < size <= MAX_CHUNK_BYTES
            and 0 <= first < MAX_CHUNKS
            and 0 < count <= MAX_PIECE_CHUNKS
        ):
            return Piece(Chunk(digest, size), first, count)
    f.fault(
        f"{f.where}: a piece must be [sha256, 1..{MAX_CHUNK_BYTES}, 0..{MAX_CHUNKS - 1}, "
        f"1..{MAX_PIECE_CHUNKS}]"
    )
    return Piece(Chunk("0" * 64, 0), 0, 0)


def news(old: Manifest, new: Manifest) -> tuple[Chunk, ...]:
    """Chunks of `new` that `old` lacks, each once, in the order of the files."""
    held = {chunk.sha256 for entry in old.files for chunk in entry.chunks}
    chunks = dict.fromkeys(chunk for entry in new.files for chunk in entry.chunks)
    return tuple(chunk for chunk in chunks if chunk.sha256 not in held)


class OldFiles:
    """The files of the old bundle, by range; `read` gives a chunk of it, believed or not."""

    def __init__(self, manifest: Manifest, read: Callable[[Chunk], bytes]) -> None:
        self._files = manifest.files
        self._read = read
        self._ends: dict[int, list[int]] = {}

    def range(self, file: int, offset: int, size: int) -> bytes:
        """Bytes of file number `file`, fewer than `size` where it ends before.

        Raises:
            UntrustedError: there is no such file.
            EdgeError: of `read`.
        """
        if file >= len(self._files):
            raise UntrustedError(
                f"delta: names file {file} of the old bundle, which has {len(self._files)}"
            )
        chunks = self._files[file].chunks
        ends = self._ends.setdefault(file, list(accumulate(chunk.size_bytes for chunk in chunks)))
        place = bisect_right(ends, offset)
        out = bytearray()
        while place < len(chunks) and len(out) < size:
            begins = ends[place] - chunks[place].size_bytes
            piece = self._read(chunks[place])
            skipped = max(offset - begins, 0)
            out += piece[skipped : skipped + size - len(out)]
            place += 1
        return bytes(out)


def difference(new: bytes | memoryview, old: bytes | memoryview) -> bytes:
    """`new` coded as its difference from `old`, which counts as 0 past its end; never empty."""
    changes = _minus(bytes(new), _padded(bytes(old), len(new)))
    # Where nearly every byte differs, matches cost more than they save.
    strategies = (zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY)
    return min((_compressed(changes, strategy) for strategy in strategies), key=len)


def restore(coded: bytes, old: bytes, size_bytes: int) -> bytes:
    """The chunk of `size_bytes` that `difference` coded. It is not checked.

    Raises:
        UntrustedError: not zlib, or another number of bytes; no more than one too many is made.
    """
    decoder = zlib.decompressobj()
    try:
        changes = decoder.decompress(coded, size_bytes + 1)
    except zlib.error as reason:
        raise UntrustedError(f"delta: a difference cannot be decompressed ({reason})") from None
    if len(changes) != size_bytes or not decoder.eof or decoder.unused_data:
        raise UntrustedError(f"delta: a difference is not of exactly {size_bytes} bytes")
    return _plus(changes, _padded(old, size_bytes))


def join(differences: Iterable[Difference]) -> bytes:
    """The piece that holds them."""
    return b"".join(
        _HEAD.pack(one.file, one.offset, len(one.coded)) + one.coded for one in differences
    )


def split(piece: bytes, count: int) -> Iterator[Difference]:
    """The `count` differences in `piece`.

    Raises:
        UntrustedError: it holds fewer, or something after them.
    """
    start = 0
    for _ in range(count):
        if start + _HEAD.size > len(piece):
            raise UntrustedError(f"delta: a piece ends before its {count} differences")
        file, offset, size = _HEAD.unpack_from(piece, start)
        start += _HEAD.size + size
        if start > len(piece):
            raise UntrustedError(f"delta: a piece ends before its {count} differences")
        yield Difference(file, offset, piece[start - size : start])
    if start != len(piece):
        raise UntrustedError(f"delta: a piece holds {len(piece) - start} bytes after its last one")


def coded_size(differences: Sequence[Difference]) -> int:
    """Bytes of the piece that `join` would make."""
    return sum(_HEAD.size + len(one.coded) for one in differences)


def _compressed(data: bytes, strategy: int) -> bytes:
    coder = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return coder.compress(data) + coder.flush()


def _padded(data: bytes, size: int) -> bytes:
    return data[:size].ljust(size, b"\0")


# All bytes of a chunk at once, as one long integer: a loop in Python takes a hundred times as long,
# and the device's supervisor loads no numpy. No carry leaves a byte, because its top bit is kept
# out of the sum and put right afterwards.


def _plus(a: bytes, b: bytes) -> bytes:
    """Byte by byte, modulo 256."""
    x, y, top = _long(a), _long(b), _long(b"\x80" * len(a))
    low = top ^ _long(b"\xff" * len(a))
    return (((x & low) + (y & low)) ^ ((x ^ y) & top)).to_bytes(len(a), "little")


def _minus(a: bytes, b: bytes) -> bytes:
    """Byte by byte, modulo 256."""
    x, y, top = _long(a), _long(b), _long(b"\x80" * len(a))
    low = top ^ _long(b"\xff" * len(a))
    return (((x | top) - (y & low)) ^ ((x ^ y ^ top) & top)).to_bytes(len(a), "little")


def _long(data: bytes) -> int:
    return int.from_bytes(data, "little")
