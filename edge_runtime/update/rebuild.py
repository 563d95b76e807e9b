"""New chunks out of old ones and a delta: what of it a device needs, and what comes of a piece.

Nothing of a delta is believed and nothing of it is kept: a chunk that was rebuilt is held to the
digest that the manifest names, as one that was fetched, and only then goes into the store. So a
delta that lies, or an old chunk that the disk has spoiled, costs time and no more: what could not
be rebuilt is fetched as it is. One chunk is in memory at a time, beside the piece.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge_runtime.bundle.delta import (
    DeltaIndex,
    DeltaRef,
    Difference,
    OldFiles,
    Piece,
    news,
    restore,
    split,
)
from edge_runtime.bundle.files import Chunk, FileEntry
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.errors import EdgeError, UntrustedError


@dataclass(frozen=True, slots=True)
class Slot:
    """A manifest with the digest of its bytes."""

    sha256: str
    manifest: Manifest


class Rebuild:
    """The way from the bundle `old`, which is in `store`, to `new`, as far as `ref` knows it.

    Only chunks of the files `entries` of `new` are asked for and made: a delta may know the way to
    files of other boards as well, whose old bytes are not here.

    `made` counts the chunks that came of it, `failed` the differences that gave something else.
    """

    def __init__(
        self, store: ChunkStore, old: Slot, new: Slot, ref: DeltaRef, entries: Iterable[FileEntry]
    ) -> None:
        self._store = store
        self._base_sha256 = old.sha256
        self._manifest_sha256 = new.sha256
        self._news = news(old.manifest, new.manifest)
        self._needed = {chunk.sha256 for entry in entries for chunk in entry.chunks}
        self._old = OldFiles(old.manifest, store.read)
        self._pieces: dict[str, Piece] = {}
        self.index: FileEntry = ref.index
        self.made = 0
        self.failed = 0

    def pieces(self, data: bytes) -> tuple[Chunk, ...]:
        """The pieces to ask for, by what the index in `data` says and the store lacks.

        None where they would be as much as the chunks themselves.

        Raises:
            UntrustedError, IncompatibleError: not the index, not to be read, or at odds with the
                two bundles.
        """
        self.index.check(data, "release")
        index = DeltaIndex.from_bytes(data)
        if (index.base_sha256, index.manifest_sha256) != (self._base_sha256, self._manifest_sha256):
            raise UntrustedError("delta index: is of two other bundles than the release says")
        if any(piece.first + piece.count > len(self._news) for piece in index.pieces):
            raise UntrustedError(
                f"delta index: names a chunk past the {len(self._news)} that are new"
            )
        lacking = {chunk.sha256 for chunk in self._news if self._lacks(chunk)}
        self._pieces = {
            piece.blob.sha256: piece
            for piece in index.pieces
            if any(chunk.sha256 in lacking for chunk in self._made(piece))
        }
        wanted = tuple(piece.blob for piece in self._pieces.values())
        plain_bytes = sum(chunk.size_bytes for chunk in self._news if chunk.sha256 in lacking)
        return wanted if sum(blob.size_bytes for blob in wanted) < plain_bytes else ()

    def apply(self, sha256: str, data: bytes) -> list[str]:
        """Make and store what the piece of that digest makes; digests of the chunks stored.

        Raises:
            UntrustedError: `data` is not that piece.
            DeviceError: a chunk cannot be stored.
        """
        piece = self._pieces[sha256]
        piece.blob.check(data, "delta")
        stored: list[str] = []
        differences = split(data, piece.count)
        for chunk in self._made(piece):
            try:
                one = next(differences)
            except UntrustedError:  # Where the next one begins is not known: leave the rest.
                self.failed += 1
                break
            if one.coded and self._lacks(chunk) and self._restore(one, chunk):
                stored.append(chunk.sha256)
        self.made += len(stored)
        return stored

    def _restore(self, one: Difference, chunk: Chunk) -> bool:
        """Make and store `chunk`; False where what comes out is not it, or the old bytes are lost.

        Raises:
            DeviceError: it cannot be stored.
        """
        try:
            old = self._old.range(one.file, one.offset, chunk.size_bytes)
            made = restore(one.coded, old, chunk.size_bytes)
        except EdgeError:
            self.failed += 1
            return False
        try:
            return self._store.put(chunk, made)
        except UntrustedError:
            self.failed += 1
            return False

    def _lacks(self, chunk: Chunk) -> bool:
        """Whether it is needed and not here."""
        return chunk.sha256 in self._needed and not self._store.has(chunk.sha256)

    def _made(self, piece: Piece) -> tuple[Chunk, ...]:
        return self._news[piece.first : piece.first + piece.count]
