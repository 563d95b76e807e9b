"""Both sides of signed metadata: fleet homes with keys, and the reference client that judges them.

The client is python-tuf's own, over a folder or over what a broker keeps; its clock is the test's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface, Updater

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.fleet.authority import Authority
from edge_runtime.fleet.founding import Plan, RolePlan, found
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.signed_publish import SignedRelease, sign_bundle
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.messages.topics import Topics
from tests.fakes.bundles import FILES, noise, write_bundle

PASSPHRASE = "correct horse battery"
NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=timezone.utc)
DAY = timedelta(days=1)
FILE = "demo@1.0.0@generic-x86_64.json"

Read = Callable[[str], "bytes | None"]


def new_home(
    folder: Path,
    now: datetime = NOW,
    *,
    broker: str = "",
    roles: Mapping[str, RolePlan] | None = None,
) -> Home:
    """A fleet home in `folder`."""
    home = Home(folder)
    found(home, Plan("edge/v1", broker, roles or {}), now, lambda: PASSPHRASE)
    return home


@contextmanager
def authority(
    home: Home, now: datetime = NOW, *words: str, passphrase: str | None = PASSPHRASE
) -> Iterator[Authority]:
    """The home's, held."""
    with home.hold():
        yield Authority.open(home, now, lambda: passphrase, words)


def sign(home: Home, bundle: Path, now: datetime = NOW, *, force: bool = False) -> SignedRelease:
    """Sign a bundle's folder into the home's repository."""
    with authority(home, now) as by:
        return sign_bundle(by, FolderReader(bundle), force=force)


def bundle(folder: Path, version: str = "1.0.0", **changed: object) -> Path:
    """A bundle whose large file is the same in every version, and whose small one is not."""
    files = {**FILES, "golden.safetensors": noise(700, sum(map(ord, version)))}
    return write_bundle(folder / version, files, version=version, **changed)[0]


def content(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def tree(home: Home) -> Read:
    """What a web server on the home's repository answers."""

    def read(file: str) -> bytes | None:
        path = home.metadata / file
        return path.read_bytes() if path.is_file() else None

    return read


def retained(broker: MemoryBroker, topics: Topics | None = None) -> Read:
    """What a broker answers."""
    where = topics or Topics()

    def read(file: str) -> bytes | None:
        message = broker.retained.get(where.metadata(file))
        return message.payload or None if message is not None else None

    return read


class _Fetcher(FetcherInterface):
    def __init__(self, read: Read) -> None:
        self._read = read

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._read(url.rpartition("/")[2])
        if data is None:
            raise DownloadHTTPError(f"no {url}", 404)
        return iter([data])


class Client:
    """A device as python-tuf is one: it keeps what it has trusted, over any number of refreshes."""

    def __init__(self, folder: Path, root: bytes) -> None:
        self._folder = folder
        self._root = root
        folder.mkdir(parents=True)

    @classmethod
    def of(cls, folder: Path, home: Home) -> Client:
        """One that was flashed when the home was new."""
        return cls(folder, (home.metadata / "1.root.json").read_bytes())

    def refresh(self, read: Read, now: datetime = NOW) -> Updater:
        """Follow the repository. Raises what the client refuses it with."""
        updater = Updater(
            str(self._folder), "repo://metadata", fetcher=_Fetcher(read), bootstrap=self._root
        )
        updater._trusted_set.reference_time = now
        updater.refresh()
        return updater

    def target(self, read: Read, file: str = FILE, now: datetime = NOW) -> TargetFile | None:
        """What the repository says of a release, after a refresh."""
        return self.refresh(read, now).get_targetinfo(file)


def manifest_of(home: Home, target: TargetFile) -> bytes:
    """The target's bytes out of the home's chunks, held to length and hashes."""
    from edge_runtime.fleet.tree import Tree

    release = Tree(home.repository).releases()[target.path]
    chunks = Tree(home.repository).chunks
    data = b"".join(chunks.get(chunk) for chunk in release.manifest.chunks)
    target.verify_length_and_hashes(data)
    assert hashlib.sha256(data).hexdigest() == target.hashes["sha256"]
    return data


class PowerCut(BaseException):
    """Nothing more happens."""


@contextmanager
def cut_at(step: int, *, after: bool) -> Iterator[list[str]]:
    """Stop the process before or after the `step`-th file is put in its place.

    Yields:
        The files that were put in place.
    """
    real, done = os.replace, list[str]()

    def replace(source: str | Path, target: str | Path) -> None:
        if len(done) == step and not after:
            raise PowerCut
        real(source, target)
        done.append(Path(target).name)
        if len(done) == step + 1 and after:
            raise PowerCut

    os.replace = replace  # type: ignore[assignment]
    try:
        yield done
    finally:
        os.replace = real


def keys_of(home: Home, role: str) -> Mapping[str, str]:
    """Signers of a role as fleet.toml names them, by key id."""
    return home.read().roles[role].keys
