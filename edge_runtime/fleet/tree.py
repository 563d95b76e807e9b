"""The repository as a folder: what devices read from a web server, a USB stick, or by the broker.

`metadata/` holds TUF metadata (`<N>.root.json` for ever, the newest of `<N>.targets.json` and
`<N>.snapshot.json`, `timestamp.json`) and one release file for each release; `chunks/` is a chunk
store. Every file changes whole or not at all. This module writes and finds files; what is in them
it does not judge. Who publishes keeps the order: chunks, release file, root, targets, snapshot,
timestamp.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from edge_runtime.bundle import durable
from edge_runtime.bundle.files import Chunk
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.errors import DeviceError, EdgeError, InputError
from edge_runtime.fleet import deltas
from edge_runtime.fleet.repository import in_order, is_role_file, release_of
from edge_runtime.messages.fleet import Release

KEPT_VERSIONS = 3
"""Of targets and snapshot: a device may be reading what an older timestamp names."""
MAX_FILE_BYTES = 1 << 20
WRITERS = 8
_TEMPORARY = ".new"
"""As the chunk store calls what a cut left behind, and removes."""


def role_file(role: str, version: int) -> str:
    """What a role's metadata is called."""
    return "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"


class MetadataFolder:
    """Files of metadata in one folder, which may not be there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Of the files, sorted; what a cut left behind and hidden files are none.

        Raises:
            DeviceError: the disk failed.
        """
        try:
            found = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as reason:
            raise DeviceError(f"{self.folder}: cannot be read ({reason.strerror})") from None
        return sorted(name for name in found if not name.startswith("."))

    def versions(self, role: str) -> list[int]:
        """Of a role that has numbered files, ascending.

        Raises:
            DeviceError: the disk failed.
        """
        form = re.compile(rf"([1-9][0-9]{{0,9}})\.{role}\.json")
        matches = (form.fullmatch(name) for name in self.names())
        return sorted(int(match[1]) for match in matches if match)

    def read(self, file: str) -> bytes | None:
        """A file's bytes; None: there is none.

        Raises:
            InputError: larger than any metadata.
            DeviceError: the disk failed.
        """
        path = self.folder / file
        try:
            with open(path, "rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as reason:
            raise DeviceError(f"{path}: cannot be read ({reason.strerror})") from None
        if len(data) > MAX_FILE_BYTES:
            raise InputError(f"{path}: more than {MAX_FILE_BYTES} bytes, no metadata is so large")
        return data

    def write(self, file: str, data: bytes) -> None:
        """Put `data` in place of a file.

        Raises:
            DeviceError: the disk is full, read-only or failing.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            durable.sync_folder(self.folder.parent)
        except OSError as reason:
            raise DeviceError(f"{self.folder}: cannot be made ({reason.strerror})") from None
        durable.replace(self.folder / file, data)

    def remove(self, files: Iterable[str]) -> list[str]:
        """Those of `files` that were there; now they are not.

        Raises:
            DeviceError: the disk is read-only or failing.
        """
        gone: list[str] = []
        try:
            for file in files:
                if (self.folder / file).exists():
                    os.unlink(self.folder / file)
                    gone.append(file)
            if gone:
                durable.sync_folder(self.folder)
        except OSError as reason:
            raise DeviceError(f"{self.folder}: cannot be cleaned ({reason.strerror})") from None
        return gone

    def prune(self) -> list[str]:
        """Remove versions of targets and snapshot that no device asks for any more."""
        old = [
            role_file(role, version)
            for role in ("targets", "snapshot")
            for version in self.versions(role)[:-KEPT_VERSIONS]
        ]
        return self.remove(old)


class Tree:
    """The repository in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata = MetadataFolder(folder / "metadata")
        self.chunks = ChunkStore(folder / "chunks")

    def add(self, bundle: VerifiedBundle, release: Release, manifest: bytes) -> int:
        """Keep what a release consists of: its chunks and deltas, then its release file.

        Deltas lead to it from older releases here; where it is here already, it keeps its own.

        Returns:
            Bytes of chunks and deltas that were new.

        Raises:
            UntrustedError: the bundle changed since it was verified.
            DeviceError: the disk is full, read-only or failing.
        """
        known = self.releases()
        offer = deltas.Offer()
        if known.get(release.file) == release:
            release = known[release.file]
        else:
            source, found = deltas.Source.of(bundle), in_order(known.values())
            made = deltas.from_bases(source, release, found, self.manifest, self._get)
            offer = deltas.Offer.of(made)
            release = dataclasses.replace(release, deltas=offer.refs)
        entries = (*bundle.manifest.files, release.manifest)
        wanted = {chunk.sha256 for chunk in self.chunks.missing(entries)}
        with _Writing(self.chunks.root) as writing:
            for entry in entries:
                if any(chunk.sha256 in wanted for chunk in entry.chunks):
                    data = manifest if entry is release.manifest else bundle.read(entry.path)
                    pieces = {chunk.sha256: (chunk, piece) for chunk, piece in entry.cut(data)}
                    writing.put([pieces[digest] for digest in pieces.keys() & wanted])
                    wanted -= pieces.keys()
            blobs = {blob: memoryview(data) for blob, data in offer.blobs.items()}
            writing.put([item for item in blobs.items() if not self.chunks.has(item[0].sha256)])
        self.metadata.write(release.file, release.to_bytes())
        return writing.written_bytes

    def releases(self) -> dict[str, Release]:
        """Release files that can be read, by name."""
        found: dict[str, Release] = {}
        for file in self.metadata.names():
            data = None if is_role_file(file) else self.metadata.read(file)
            try:
                if data is not None:
                    found[file] = release_of(data, file)
            except EdgeError:
                continue
        return found

    def manifest(self, release: Release) -> Manifest:
        """The manifest of a release, held to the digest that the release names.

        Raises:
            UntrustedError, IncompatibleError, DeviceError: it cannot be read here.
        """
        data = b"".join(self.chunks.get(chunk) for chunk in release.manifest.chunks)
        release.manifest.check(data, f"release {release.file}")
        return Manifest.from_bytes(data, where=f"release {release.file}: {MANIFEST_NAME}")

    def chunks_of(self, release: Release) -> set[str]:
        """Digests of all that a release consists of, its deltas among it.

        Raises:
            UntrustedError, IncompatibleError, DeviceError: it cannot be read here.
        """
        entries = (release.manifest, *self.manifest(release).files)
        digests = {chunk.sha256 for entry in entries for chunk in entry.chunks}
        return digests | deltas.blobs_of(release.deltas, self._get)

    def offer(self, release: Release) -> deltas.Offer:
        """The deltas to a release that are whole here."""
        kept = self.releases().get(release.file)
        return deltas.Offer.kept(kept.deltas if kept == release else (), self._get)

    def _get(self, chunks: Iterable[Chunk]) -> dict[str, bytes]:
        """Those of `chunks` that are here, by digest."""
        return {c.sha256: self.chunks.get(c) for c in chunks if self.chunks.has(c.sha256)}

    def retire(self, files: Iterable[str]) -> tuple[str, ...]:
        """Remove releases by their files, and the chunks that no other release needs.

        Where a manifest cannot be read, all chunks stay: on a machine without them there are none.

        Returns:
            Digests of the chunks that are gone.

        Raises:
            DeviceError: the disk is read-only or failing.
        """
        releases = self.releases()
        going = [file for file in files if file in releases]
        try:
            theirs = [self.chunks_of(releases.pop(file)) for file in going]
            kept = [self.chunks_of(release) for release in releases.values()]
        except EdgeError:
            theirs, kept = [], []
        gone = set().union(*theirs) - set().union(*kept)
        self.metadata.remove(going)
        if gone:
            self.chunks.prune(_AllBut(gone))
        return tuple(sorted(gone))


class _Writing:
    """Many chunks into a chunk store at once, all of them durable when the block ends well.

    A store writes one chunk after the other, which on a disk that is asked to keep each of them
    for certain takes seconds for a bundle. What is written side by side the disk keeps in one go.
    """

    def __init__(self, root: Path) -> None:
        self.written_bytes = 0
        self._root = root
        self._folders: set[Path] = set()
        self._pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="chunks")

    def __enter__(self) -> _Writing:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            for left in self._root.glob(f"{_TEMPORARY}*"):
                left.unlink()
        except OSError as reason:
            raise self._failed(reason) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                list(self._pool.map(durable.sync_folder, [*self._folders, self._root]))
        except OSError as reason:
            raise self._failed(reason) from None
        finally:
            self._pool.shutdown(cancel_futures=True)

    def put(self, pieces: Sequence[tuple[Chunk, memoryview]]) -> None:
        """Chunks with their bytes, which were checked.

        Raises:
            DeviceError: the disk is full, read-only or failing; nothing torn has a chunk's name.
        """
        try:
            for chunk, _ in pieces:
                folder = self._root / chunk.sha256[:2]
                folder.mkdir(exist_ok=True)
                self._folders.add(folder)
            list(self._pool.map(self._write, pieces))
        except OSError as reason:
            raise self._failed(reason) from None
        self.written_bytes += sum(chunk.size_bytes for chunk, _ in pieces)

    def _write(self, piece: tuple[Chunk, memoryview]) -> None:
        chunk, data = piece
        temporary = self._root / f"{_TEMPORARY}-{chunk.sha256}"
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._root / chunk.sha256[:2] / chunk.sha256)

    def _failed(self, reason: OSError) -> DeviceError:
        return DeviceError(f"{self._root}: chunks cannot be written ({reason.strerror})")


class _AllBut(Container[str]):
    """Every digest there is, but for some: what else lies in the store is not ours to judge."""

    def __init__(self, gone: set[str]) -> None:
        self._gone = gone

    def __contains__(self, digest: object) -> bool:
        return digest not in self._gone
