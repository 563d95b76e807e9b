"""The chunk store: all bundle content on a device, by digest, under `<root>/<aa>/<sha256>`.

Progress of a transfer is what the store holds; an installed bundle is a manifest, and here the
chunks of the files that this device needs of it. One process writes (the supervisor), others may
read at the same time. A chunk appears whole or not at all: it is written under a temporary name,
fsynced, renamed, and the folder is fsynced. What is read is checked again, since a disk forgets; a
spoiled chunk is removed, so that the next transfer fetches it anew. Imports no numpy.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from edge_runtime.bundle import durable
from edge_runtime.bundle.archive import Reader
from edge_runtime.bundle.files import MAX_CHUNK_BYTES, SHA256, Chunk, FileEntry
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edge_runtime.errors import DeviceError, UntrustedError

_TEMPORARY = ".new"


class ChunkStore:
    """A folder of chunks. Made on the first write; reading one that is not there finds nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ready = False

    def has(self, sha256: str) -> bool:
        """Whether a chunk of that name is here."""
        return self._size(sha256) is not None

    def missing(self, entries: Iterable[FileEntry]) -> list[Chunk]:
        """Chunks of `entries` that are not here, each once, in the order of the files."""
        wanted = dict.fromkeys(chunk for entry in entries for chunk in entry.chunks)
        return [chunk for chunk in wanted if self._size(chunk.sha256) != chunk.size_bytes]

    def put(self, chunk: Chunk, data: bytes | memoryview) -> bool:
        """Keep `data`, durably. False where it was here already.

        Raises:
            UntrustedError: `data` is not that chunk.
            DeviceError: disk full, read-only or failing; nothing torn stays behind.
        """
        chunk.check(data, "chunk store")
        if self._size(chunk.sha256) == chunk.size_bytes:
            return False
        path = self._path(chunk.sha256)
        temporary = self.root / f"{_TEMPORARY}-{os.getpid()}"
        try:
            self._prepare()
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                _make_folder(path.parent)
                os.replace(temporary, path)
                durable.sync_folder(path.parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as reason:
            raise DeviceError(
                f"chunk store {self.root}: {chunk.size_bytes} bytes cannot be written "
                f"({reason.strerror})"
            ) from None
        return True

    def get(self, chunk: Chunk) -> bytes:
        """The bytes of `chunk`, checked.

        Raises:
            DeviceError: not here, unreadable, or spoiled; a spoiled chunk is removed.
        """
        data = self.read(chunk)
        try:
            chunk.check(data, f"chunk store {self.root}")
        except UntrustedError as reason:
            with contextlib.suppress(OSError):
                os.unlink(self._path(chunk.sha256))
            raise DeviceError(f"{reason}; removed, to be fetched again") from None
        return data

    def read(self, chunk: Chunk) -> bytes:
        """The bytes under the name of `chunk`, unchecked: for a caller who checks the whole file.

        Raises:
            DeviceError: not here or unreadable.
        """
        try:
            return durable.read(self._path(chunk.sha256), MAX_CHUNK_BYTES + 1)
        except OSError as reason:
            raise DeviceError(
                f"chunk store {self.root}: chunk {chunk.sha256} cannot be read ({reason.strerror})"
            ) from None

    def ingest(self, reader: Reader, entries: Iterable[FileEntry]) -> int:
        """Keep every chunk of a bundle's files `entries`; returns the bytes that were new.

        One chunk is in memory at a time; a file whose chunks are all here is not read.

        Raises:
            UntrustedError: a file is missing or differs from the manifest; what agreed with the
                manifest before that stays, until it is pruned.
            DeviceError: disk full, read-only or failing.
        """
        added = 0
        for entry in entries:
            if not self.missing((entry,)):
                continue
            for chunk, piece in entry.checked(reader.pieces(entry), reader.where):
                added += chunk.size_bytes if self.put(chunk, piece) else 0
        return added

    def prove(self, entry: FileEntry, where: str) -> None:
        """Read `entry` a chunk at a time and hold every chunk, and the whole, to its digest.

        Raises:
            UntrustedError: every chunk is right and the file is not: the list is at odds with it.
            DeviceError: a chunk is missing or spoiled; a spoiled one is removed.
        """
        whole = hashlib.sha256()
        for chunk in entry.chunks:
            whole.update(self.get(chunk))
        entry.check_digest(whole.hexdigest(), where)

    def prune(self, keep: Container[str]) -> int:
        """Remove every chunk whose digest is not in `keep`; returns the bytes that became free.

        Raises:
            DeviceError: the disk is read-only or failing.
        """
        freed = 0
        try:
            self._prepare()
            for folder in self._folders():
                before = freed
                for item in list(os.scandir(folder)):
                    if re.fullmatch(SHA256, item.name) and item.name not in keep:
                        freed += item.stat(follow_symlinks=False).st_size
                        os.unlink(item.path)
                if freed != before:
                    durable.sync_folder(folder)
        except OSError as reason:
            raise DeviceError(
                f"chunk store {self.root}: cannot be pruned ({reason.strerror})"
            ) from None
        return freed

    def _prepare(self) -> None:
        """Before this process writes for the first time: the folder is there, torn files gone."""
        if self._ready:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        for item in list(os.scandir(self.root)):
            if item.name.startswith(_TEMPORARY):
                os.unlink(item.path)
        self._ready = True

    def _folders(self) -> Iterator[Path]:
        for item in list(os.scandir(self.root)):
            if re.fullmatch("[0-9a-f]{2}", item.name) and item.is_dir(follow_symlinks=False):
                yield Path(item.path)

    def _path(self, sha256: str) -> Path:
        if not re.fullmatch(SHA256, sha256):
            raise RuntimeError(f"{sha256[:80]!r} is not a digest")
        return self.root / sha256[:2] / sha256

    def _size(self, sha256: str) -> int | None:
        """Size of the chunk of that name, or None where there is none."""
        try:
            return durable.insist(self._path(sha256).stat).st_size
        except OSError:
            return None


def _make_folder(folder: Path) -> None:
    """Make `folder` durably, unless it is there."""
    try:
        folder.mkdir()
    except FileExistsError:
        return
    durable.sync_folder(folder.parent)


class StoreReader:
    """A bundle whose chunks are in a store, as a `Reader`.

    Raises:
        UntrustedError, IncompatibleError: `manifest_bytes` is not a manifest that we read.
    """

    def __init__(self, store: ChunkStore, manifest_bytes: bytes) -> None:
        self._store = store
        self._bytes = manifest_bytes
        self._manifest = Manifest.from_bytes(manifest_bytes)
        self.where = f"bundle {self._manifest.name} {self._manifest.version} in {store.root}"

    def names(self) -> tuple[str, ...]:
        """The manifest and those of its files that are here: a board keeps what it can run."""
        held = (entry for entry in self._manifest.files if not self._store.missing((entry,)))
        return (MANIFEST_NAME, *(entry.path for entry in held))

    def read(self, path: str, max_bytes: int) -> bytes:
        """The file's chunks joined; its digest was checked, and not that of every chunk as well.

        Raises:
            UntrustedError: the manifest names no such file, or it is larger than `max_bytes`.
            DeviceError: a chunk is missing or spoiled; a spoiled one is removed.
        """
        if path == MANIFEST_NAME:
            size_bytes = len(self._bytes)
        else:
            entry = self._manifest.file(path)
            size_bytes = entry.size_bytes
        if size_bytes > max_bytes:
            raise UntrustedError(
                f"{self.where}: {path!r} has {size_bytes} bytes, at most {max_bytes} expected"
            )
        if path == MANIFEST_NAME:
            return self._bytes
        data = b"".join(self._store.read(chunk) for chunk in entry.chunks)
        try:
            entry.check(data, self.where)
        except UntrustedError:
            # Find the spoiled chunk; where all are sound, the manifest is at odds with itself.
            for chunk in entry.chunks:
                self._store.get(chunk)
            raise
        return data

    def pieces(self, entry: FileEntry) -> Iterator[bytes]:
        """The chunks as they are here, unchecked.

        Raises:
            DeviceError: a chunk is missing.
        """
        return (self._store.read(chunk) for chunk in entry.chunks)
