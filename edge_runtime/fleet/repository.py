"""The repository on the broker, as it is read: releases, their manifests, chunks.

Releases are retained under `repo/metadata/<name>@<version>@<profile>.json`, beside the signed
metadata of TUF's roles, which is none of them; chunks under `repo/chunk/<sha256>`. Whoever may
publish on the broker may have written them: a release that cannot be read is named with its reason
and hides no other one, and a chunk is held to its digest. Chunks are asked for by exact topic, a
window at a time, as devices do: brokers drop without a word what exceeds a client's queue.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from edge_runtime.bundle.files import Chunk, sha256_hex
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edge_runtime.errors import EdgeError, TransferError, UntrustedError
from edge_runtime.fields import Json
from edge_runtime.fleet.connection import Connection
from edge_runtime.messages.fleet import Release, release_file

WINDOW = 32
"""Chunks asked for at a time: 4 MiB at most."""
ROLE_FILE = r"timestamp\.json|[1-9][0-9]{0,9}\.[^@]+\.json"
"""What TUF's metadata is called; no release is, whose file holds two `@`."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """Releases by name, version and profile; `unreadable` pairs file and reason."""

    releases: tuple[Release, ...]
    unreadable: tuple[tuple[str, str], ...]

    def as_json(self, signed: Mapping[str, str] | None = None) -> dict[str, Json]:
        """For scripts; whether each release is signed, where `signed` has manifests by file."""
        releases = [release_json(release) for release in self.releases]
        if signed is not None:
            for release, words in zip(self.releases, releases, strict=True):
                words["signed"] = is_signed(release, signed)
        return {
            "releases": releases,
            "unreadable": [{"file": file, "reason": why} for file, why in self.unreadable],
        }


def is_signed(release: Release, signed: Mapping[str, str]) -> bool:
    """Whether `signed`, digests of manifests by release file, names this very release."""
    return signed.get(release.file) == release.manifest.sha256


def release_json(release: Release) -> dict[str, Json]:
    """A release for scripts, without its chunk list."""
    return {
        "name": release.name,
        "version": release.version,
        "profile": release.profile,
        "size_bytes": release.size_bytes,
        "manifest_sha256": release.manifest.sha256,
    }


def is_role_file(file: str) -> bool:
    """Whether a metadata file is one of TUF's."""
    return re.fullmatch(ROLE_FILE, file) is not None


def read_catalog(connection: Connection) -> Catalog:
    """Every release that the broker keeps.

    Raises:
        TransferError: the connection was lost.
    """
    found = connection.retained([connection.topics.metadata("+")])
    releases: list[Release] = []
    unreadable: list[tuple[str, str]] = []
    for topic, payload in sorted(found.items()):
        file = topic.rpartition("/")[2]
        if is_role_file(file):
            continue
        try:
            releases.append(release_of(payload, file))
        except EdgeError as reason:
            unreadable.append((file, str(reason)))
    return Catalog(in_order(releases), tuple(unreadable))


def in_order(releases: Iterable[Release]) -> tuple[Release, ...]:
    """By name, the oldest version first, and by profile."""
    return tuple(sorted(releases, key=_order))


def _order(release: Release) -> tuple[str, list[int], bool, str, str]:
    """1.9.0 before 1.10.0, and 2.0.0-rc.1 before 2.0.0."""
    core, _, pre = release.version.partition("+")[0].partition("-")
    numbers = [int(number) for number in core.split(".")]
    return release.name, numbers, not pre, release.version, release.profile


def read_release(connection: Connection, name: str, version: str, profile: str) -> Release | None:
    """The release called `name` `version` that is made for `profile`; None: not published.

    Raises:
        UntrustedError, IncompatibleError: what is kept under its name cannot be read, or is
            another release.
        TransferError: the connection was lost.
    """
    file = release_file(name, version, profile)
    payload = read_metadata(connection, file)
    return release_of(payload, file) if payload is not None else None


def read_metadata(connection: Connection, file: str) -> bytes | None:
    """What the broker keeps as `file`, unchecked.

    Raises:
        InputError: no name of a metadata file.
        TransferError: the connection was lost.
    """
    topic = connection.topics.metadata(file)
    return connection.retained([topic]).get(topic)


def release_of(payload: bytes, file: str) -> Release:
    """The release in `payload`, which the broker keeps as `file`.

    Raises:
        UntrustedError, IncompatibleError: not to be read, or not the release that `file` names.
    """
    release = Release.from_bytes(payload)
    if release.file != file:
        raise UntrustedError(
            f"metadata {file}: holds release {release.name}=={release.version} for "
            f"{release.profile}, not its own"
        )
    return release


def fetch(connection: Connection, chunks: Iterable[Chunk]) -> dict[str, bytes]:
    """Chunks by digest; one that the broker does not keep is absent.

    Raises:
        UntrustedError: the broker keeps other bytes under a chunk's name.
        TransferError: the connection was lost.
    """
    got: dict[str, bytes] = {}
    for chunk, payload in _kept(connection, chunks):
        chunk.check(payload, f"broker {connection.address}")
        got[chunk.sha256] = payload
    return got


def intact(connection: Connection, chunks: Iterable[Chunk]) -> set[str]:
    """Digests of those chunks that the broker keeps, byte for byte; each is downloaded.

    Raises:
        TransferError: the connection was lost.
    """
    return {
        chunk.sha256
        for chunk, payload in _kept(connection, chunks)
        if sha256_hex(payload) == chunk.sha256
    }


def _kept(connection: Connection, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, bytes]]:
    """What is kept under each chunk's name, unchecked, a window at a time."""
    left = iter({chunk.sha256: chunk for chunk in chunks}.values())
    while window := list(islice(left, WINDOW)):
        topics = {connection.topics.chunk(chunk.sha256): chunk for chunk in window}
        for topic, payload in connection.retained(list(topics), tell=False).items():
            yield topics[topic], payload


def fetch_manifest(connection: Connection, release: Release) -> Manifest:
    """The manifest of `release`, held to the digest that the release names.

    Raises:
        TransferError: the broker lost a chunk of it, or the connection was lost.
        UntrustedError, IncompatibleError: not what the release names, or not to be read.
    """
    got = fetch(connection, release.manifest.chunks)
    where = f"release {release.name}=={release.version}"
    missing = [c.sha256 for c in release.manifest.chunks if c.sha256 not in got]
    if missing:
        raise TransferError(
            f"{where}: broker {connection.address} lacks {len(missing)} chunks of its manifest"
        )
    data = b"".join(got[chunk.sha256] for chunk in release.manifest.chunks)
    release.manifest.check(data, where)
    return Manifest.from_bytes(data, where=f"{where}: {MANIFEST_NAME}")
