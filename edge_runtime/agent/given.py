"""Bundles that a person hands to this device: a file, a folder, or a release in a repository.

Nothing of it is believed. It is looked through here, so that a mistyped name or a damaged file is
told at once and leaves no trace; who signed it is asked later, as for any other bundle. A file is
read a chunk at a time: the supervisor stays small, however large the bundle is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle.archive import Reader, open_bundle
from edge_runtime.bundle.files import Chunk, FileEntry
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import DeviceError, InputError, UntrustedError
from edge_runtime.link.folder import FolderPlace
from edge_runtime.link.repository import Repository
from edge_runtime.messages.fleet import MAX_MESSAGE_BYTES, Release, release_file
from edge_runtime.profile import DeviceProfile
from edge_runtime.text import plain

METADATA = "metadata"
MAX_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Given:
    """A bundle that was looked through. `repository` is where its metadata is, a URL, if beside."""

    reader: Reader
    manifest_sha256: str
    repository: str | None = None


def look_through(
    path: Path,
    release: str | None,
    profile: DeviceProfile,
    store: ChunkStore,
    pulse: Callable[[], None] = lambda: None,
) -> Given:
    """The bundle at `path`; whatever this device needs and `store` lacks was read and checked.

    Args:
        path: a bundle, or a repository's folder.
        release: `NAME==VERSION` out of a repository; None: the only one there.
        pulse: called with every chunk that is read.

    Raises:
        InputError: there is nothing like that.
        UntrustedError, IncompatibleError: it is damaged, or not for this device.
        DeviceError, TransferError: it cannot be read.
    """
    try:
        reader, repository = _open(path, release, profile)
        verified = verify(reader, files=False)
        manifest = verified.manifest
        for entry in manifest.files_of(profile.fits(manifest)):
            if store.missing((entry,)):
                for _ in entry.checked(reader.pieces(entry), reader.where):
                    pulse()
    except OSError as reason:  # A folder that may not be entered, a name that no disk can have.
        raise DeviceError(f"{plain(str(path))}: cannot be read ({reason.strerror})") from None
    except ValueError as reason:
        raise InputError(f"{plain(str(path))}: cannot be the name of a bundle ({reason})") from None
    return Given(reader, verified.manifest_sha256, repository)


def _open(path: Path, release: str | None, profile: DeviceProfile) -> tuple[Reader, str | None]:
    """What reads it, and the URL of the repository that it is in. Raises OSError, ValueError."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{plain(str(path))}: there is nothing at this path") from None
    if (path / METADATA).is_dir():
        # Read as it was named: who owns a service's state may not come down to it from the root.
        url = Path(os.path.realpath(path)).as_uri()
        return _from_repository(path, release, profile), url
    if release is not None:
        raise InputError(
            f"{plain(str(path))}: is no repository, which has a folder {METADATA!r}; no release "
            "can be picked from it"
        )
    return open_bundle(path), None


def _from_repository(folder: Path, release: str | None, profile: DeviceProfile) -> Reader:
    names = sorted(item.name for item in (folder / METADATA).glob(f"*@*@{profile.name}.json"))
    if release is not None:
        name, equals, version = release.partition("==")
        if not equals:
            raise InputError(f"release {release!r}: expected NAME==VERSION")
        wanted = release_file(name, version, profile.name)
    elif len(names) == 1:
        wanted = names[0]
    else:
        raise InputError(
            f"repository {folder}: holds {len(names)} releases for {profile.name}, say which with "
            f"NAME==VERSION{_shown(names)}"
        )
    repository = Repository(FolderPlace(folder))
    data = repository.read(wanted, MAX_MESSAGE_BYTES)
    if data is None:
        raise InputError(
            f"repository {folder}: no release {release} for {profile.name}{_shown(names)}"
        )
    found = Release.from_bytes(data)
    if found.file != wanted:
        raise UntrustedError(f"repository {folder}: {wanted} is of another release, {found.file}")
    return RepositoryReader(repository, found)


def _shown(names: list[str]) -> str:
    """The releases that there are, for a message."""
    words = [plain("==".join(name.split("@")[:2])) for name in names[:MAX_SHOWN]]
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return f"; there are {', '.join(words)}{more}" if words else ""


class RepositoryReader:
    """A release in a repository, as a `Reader`. Every chunk is held to its digest.

    Raises:
        UntrustedError, IncompatibleError, TransferError: its manifest is not to be had, or read.
    """

    def __init__(self, repository: Repository, release: Release) -> None:
        self._repository = repository
        self.where = f"release {release.name}=={release.version} in {repository.address}"
        self._bytes = self._joined(release.manifest.chunks)
        release.manifest.check(self._bytes, self.where)
        self._manifest = Manifest.from_bytes(self._bytes, where=f"{self.where}: {MANIFEST_NAME}")

    def names(self) -> tuple[str, ...]:
        """The manifest and the files that it names."""
        return (MANIFEST_NAME, *(entry.path for entry in self._manifest.files))

    def read(self, path: str, max_bytes: int) -> bytes:
        """One file, its chunks joined.

        Raises:
            UntrustedError: a chunk is missing or spoiled, or the file is larger than `max_bytes`.
            TransferError: a chunk cannot be read.
        """
        if path == MANIFEST_NAME:
            return self._bytes
        entry = self._manifest.file(path)
        if entry.size_bytes > max_bytes:
            raise UntrustedError(
                f"{self.where}: {path!r} has {entry.size_bytes} bytes, at most {max_bytes} expected"
            )
        return self._joined(entry.chunks)

    def pieces(self, entry: FileEntry) -> Iterator[bytes]:
        """One file, chunk after chunk. Raises as `read`."""
        return map(self._chunk, entry.chunks)

    def _joined(self, chunks: tuple[Chunk, ...]) -> bytes:
        return b"".join(map(self._chunk, chunks))

    def _chunk(self, chunk: Chunk) -> bytes:
        data = self._repository.chunk(chunk.sha256)
        if data is None:
            raise UntrustedError(f"{self.where}: chunk {chunk.sha256} is missing")
        chunk.check(data, self.where)
        return data
