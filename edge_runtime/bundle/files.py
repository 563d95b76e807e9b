"""A file as a list of chunks: the unit that is named, moved, stored and checked.

The manifest lists its files so, and a desired state names the manifest itself so: nothing that
travels is larger than a chunk. This module owns the shape and its limits, and touches no disk.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edge_runtime.errors import UntrustedError
from edge_runtime.fields import Fields, Json

MAX_FILE_BYTES = 8 << 30
MAX_CHUNK_BYTES = 128 << 10
"""No cloud broker carries more in a message (AWS IoT Core: 128 KiB)."""
MAX_CHUNKS = MAX_FILE_BYTES // (16 << 10)
MAX_PATH_DEPTH = 16
SHA256 = r"[0-9a-f]{64}"


def sha256_hex(data: bytes) -> str:
    """SHA-256 of `data`, 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of bytes of a file, named by its digest. `size_bytes` is 1..MAX_CHUNK_BYTES."""

    sha256: str
    size_bytes: int

    def check(self, data: bytes | memoryview, where: str) -> None:
        """Raises UntrustedError: `data` is not this chunk."""
        if len(data) != self.size_bytes:
            raise UntrustedError(
                f"{where}: chunk {self.sha256} has {len(data)} bytes, expected {self.size_bytes}"
            )
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise UntrustedError(f"{where}: chunk {self.sha256} has digest {found}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the bundle. The chunks, in order, are the file; an empty file has none."""

    path: str
    size_bytes: int
    sha256: str
    chunks: tuple[Chunk, ...]

    @classmethod
    def parse(cls, f: Fields) -> FileEntry:
        """From an object; on the wire a chunk is the pair [sha256, size_bytes]."""
        entry = cls(
            path=f.text("path", max_len=512),
            size_bytes=f.integer("size_bytes", high=MAX_FILE_BYTES),
            sha256=f.text("sha256", pattern=SHA256),
            chunks=tuple(_chunk(f, item) for item in f.items("chunks", max_items=MAX_CHUNKS)),
        )
        if not safe_path(entry.path):
            f.fault(f"{f.where}: path {entry.path!r} is not a plain relative path")
        total = sum(chunk.size_bytes for chunk in entry.chunks)
        if total != entry.size_bytes:
            f.fault(
                f"{f.where}: chunks add up to {total} bytes, size_bytes says {entry.size_bytes}"
            )
        return entry

    def check(self, data: bytes, where: str) -> None:
        """Raises UntrustedError: `data` is not this file."""
        if len(data) != self.size_bytes:
            raise UntrustedError(
                f"{where}: {self.path!r} has {len(data)} bytes, expected {self.size_bytes}"
            )
        self.check_digest(sha256_hex(data), where)

    def check_digest(self, found: str, where: str) -> None:
        """Raises UntrustedError: `found`, the digest of all its chunks in order, is not its own."""
        if found != self.sha256:
            raise UntrustedError(
                f"{where}: {self.path!r} has digest {found}, expected {self.sha256}"
            )

    def cut(self, data: bytes) -> Iterator[tuple[Chunk, memoryview]]:
        """The chunks with their bytes, for `data` that passed `check`."""
        view = memoryview(data)
        start = 0
        for chunk in self.chunks:
            yield chunk, view[start : start + chunk.size_bytes]
            start += chunk.size_bytes

    def check_chunks(self, data: bytes, where: str) -> None:
        """Raises UntrustedError: the chunk list does not add up to `data`, the whole file."""
        for chunk, piece in self.cut(data):
            chunk.check(piece, f"{where}: {self.path!r}")

    def checked(self, pieces: Iterable[bytes], where: str) -> Iterator[tuple[Chunk, bytes]]:
        """The chunks with their bytes, each held to its digest, then all of them to the file's.

        Args:
            pieces: the file, cut where the chunk list cuts it; no more than one is held.

        Raises:
            UntrustedError: a piece is not its chunk; or, after the last, there are fewer pieces
                than chunks, or the list is at odds with the file.
        """
        whole = hashlib.sha256()
        left = iter(pieces)
        for chunk in self.chunks:
            piece = next(left, b"")
            chunk.check(piece, f"{where}: {self.path!r}")
            whole.update(piece)
            yield chunk, piece
        self.check_digest(whole.hexdigest(), where)

    def as_json(self) -> dict[str, Json]:
        """The object that `parse` reads."""
        return {
            "path": self.path,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "chunks": [[chunk.sha256, chunk.size_bytes] for chunk in self.chunks],
        }


def _chunk(f: Fields, item: object) -> Chunk:
    match item:
        case [str(digest), int(size)] if (
            re.fullmatch(SHA256, digest)
            and not isinstance(size, bool)
            and 0 < size <= MAX_CHUNK_BYTES
        ):
            return Chunk(digest, size)
    f.fault(f"{f.where}: a chunk must be [sha256, 1..{MAX_CHUNK_BYTES}]")
    return Chunk("0" * 64, 0)


def safe_path(path: str) -> bool:
    """Relative, forward slashes, at most MAX_PATH_DEPTH names deep, none of them `.` or `..`.

    Printable ASCII; no name begins or ends with a dot or a space, and nothing is in it that a
    shell or FAT twists.
    """
    parts = path.split("/")
    return (
        0 < len(path) <= 512
        and len(parts) <= MAX_PATH_DEPTH
        and path.isascii()
        and path.isprintable()
        and not set(path) & set('\\:*?"<>|')
        and all(part not in ("", ".", "..") and part == part.strip(" .") for part in parts)
    )
