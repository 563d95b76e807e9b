"""Publishing a bundle: every chunk first, all acknowledged, and only then its releases.

The order: 1. verify the bundle; 2. read the releases that are there and refuse to change one;
3. send the chunks, a bounded number under way; 4. wait for every acknowledgement; 5. read a few
back, because an MQTT 3.1.1 broker acknowledges what its access list forbids; 6. send the releases
and read them back. A device that sees a release finds everything it names.

A bundle for several boards has a release for each of their profiles, all of them of one manifest:
a device is given, and holds to the signatures, what is called after its own profile.

Chunks that another readable release lists are not sent again: the broker got them when that one
was published, and asking for them would cost as much as sending them. Where a release of this very
bundle is there already, each of its chunks is asked for, and those that the broker has lost or
spoiled are sent: publishing again mends. `force` asks for nothing and sends everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from functools import partial

from edge_runtime.bundle.agent_package import AGENT, TASK
from edge_runtime.bundle.archive import Reader
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.files import Chunk
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from edge_runtime.bundle.verify import VerifiedBundle, verify
from edge_runtime.errors import EdgeError, InputError, TransferError
from edge_runtime.fields import Json
from edge_runtime.fleet import deltas
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.repository import (
    fetch,
    fetch_manifest,
    intact,
    read_catalog,
    read_metadata,
    release_json,
    release_of,
)
from edge_runtime.messages.fleet import Release

SAMPLE = 8
"""Chunks read back after sending, spread over all of them."""
MAX_MANIFESTS = 64
"""Manifests of other releases that are looked through, those of the same name first."""

OnProgress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What publishing did. `again` says that the very same releases were there already.

    There is a release for each profile, the bundle's own in front. Every chunk is either sent or
    skipped; the manifest's count as well. `size_bytes` is of all files, whichever board needs them.
    """

    releases: tuple[Release, ...]
    size_bytes: int
    again: bool
    sent_chunks: int
    sent_bytes: int
    skipped_chunks: int
    skipped_bytes: int
    delta_bytes: int = 0

    @property
    def release(self) -> Release:
        """That of the bundle's own profile."""
        return self.releases[0]

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        return {
            **release_json(self.release),
            "profiles": [release.profile for release in self.releases],
            "size_bytes": self.size_bytes,
            "again": self.again,
            "sent_chunks": self.sent_chunks,
            "sent_bytes": self.sent_bytes,
            "skipped_chunks": self.skipped_chunks,
            "skipped_bytes": self.skipped_bytes,
            "deltas": sum(len(release.deltas) for release in self.releases),
            "delta_bytes": self.delta_bytes,
        }


def publish(
    connection: Connection,
    reader: Reader,
    *,
    force: bool = False,
    replace: bool = False,
    offers: Mapping[str, deltas.Offer] | None = None,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Publication:
    """Put the bundle behind `reader` on the broker.

    Args:
        connection: to the broker.
        reader: the bundle.
        force: send every chunk, and replace another bundle of its name, version and profiles.
        replace: only the latter; for a bundle that is signed.
        offers: deltas by release file; None: made here, from what the broker has of older ones.
        on_progress: is called as chunks are sent.

    Raises:
        UntrustedError, IncompatibleError: the bundle is broken, or not to be read.
        InputError: another bundle is published under its name, version and a profile, and neither
            `force` nor `replace`.
        TransferError: the broker stands still, forbids, or does not keep what it acknowledged.
        DeviceError: the disk failed.
    """
    bundle = verify(reader)  # 1
    releases, manifest_bytes = releases_in(bundle, reader)
    chunks = _unique(bundle, releases[0])
    there = [_already_there(connection, release, force or replace) for release in releases]  # 2
    held = set() if force else _held(connection, releases, chunks.values(), again=any(there))
    to_send = {digest: chunk for digest, chunk in chunks.items() if digest not in held}
    if offers is None:
        offers = _offers(connection, bundle, releases)
    releases = tuple(
        changed(release, deltas=offers[release.file].refs if release.file in offers else ())
        for release in releases
    )
    blobs = {chunk: data for offer in offers.values() for chunk, data in offer.blobs.items()}
    delta_bytes = sum(map(len, blobs.values()))
    total = sum(chunk.size_bytes for chunk in to_send.values()) + delta_bytes
    done = 0
    on_progress(0, total)
    left = dict(to_send)
    for chunk, data in _pieces(bundle, releases[0], manifest_bytes):  # 3
        if left.pop(chunk.sha256, None) is not None:
            connection.send("chunk", connection.topics.chunk(chunk.sha256), data)
            done += chunk.size_bytes
            on_progress(done, total)
    for chunk, data in blobs.items():
        connection.send("chunk", connection.topics.chunk(chunk.sha256), data)
        done += chunk.size_bytes
        on_progress(done, total)
    connection.settle()  # 4
    _prove(connection, [*to_send.values(), *blobs])  # 5
    for release in releases:  # 6
        _send(connection, release)
    size_bytes = sum(chunk.size_bytes for chunk in chunks.values())
    return Publication(
        releases=releases,
        size_bytes=bundle.manifest.size_bytes,
        again=all(there),
        sent_chunks=len(to_send),
        sent_bytes=total - delta_bytes,
        skipped_chunks=len(chunks) - len(to_send),
        skipped_bytes=size_bytes - (total - delta_bytes),
        delta_bytes=delta_bytes,
    )


def _offers(
    connection: Connection, bundle: VerifiedBundle, releases: Iterable[Release]
) -> dict[str, deltas.Offer]:
    """Deltas for each release, by its file, from what the broker has of older ones."""
    found = read_catalog(connection).releases
    get, manifest_of = partial(fetch, connection), partial(fetch_manifest, connection)
    source = deltas.Source.of(bundle)
    return {
        one.file: deltas.Offer.of(deltas.from_bases(source, one, found, manifest_of, get))
        for one in releases
    }


def _send(connection: Connection, release: Release) -> None:
    payload = release.to_bytes()
    connection.send("metadata", connection.topics.metadata(release.file), payload)
    connection.settle()
    kept = read_metadata(connection, release.file)
    if kept != payload:
        raise TransferError(
            f"release {release.name}=={release.version}: broker {connection.address} acknowledged "
            f"it but keeps {'nothing' if kept is None else 'something else'} under its name; "
            "does this user have the right to publish?"
        )


def releases_in(bundle: VerifiedBundle, reader: Reader) -> tuple[tuple[Release, ...], bytes]:
    """A release for each profile, and the bytes of the manifest that was verified.

    A release's size is that of the files which boards of its profile need.

    Raises:
        InputError: the bundle changed meanwhile, or has the name that is the agent's.
    """
    data = reader.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
    entry = file_entry(MANIFEST_NAME, data)
    if entry.sha256 != bundle.manifest_sha256:
        raise InputError(f"{bundle.where}: {MANIFEST_NAME} changed while it was published")
    m = bundle.manifest
    if (m.name == AGENT) != (m.task == TASK):
        raise InputError(
            f"{bundle.where}: is called {m.name} and of task {m.task}; {AGENT} and {TASK} are kept "
            "for packages of the agent itself; give it another name"
        )
    releases = []
    for profile in m.profiles:
        if m.variants_for(profile):  # One that no variant was made for has nothing to run.
            size_bytes = sum(file.size_bytes for file in deltas.files_for(m, profile))
            releases.append(Release(m.name, m.version, profile, size_bytes, entry))
    return tuple(releases), data


def _already_there(connection: Connection, release: Release, replace: bool) -> bool:
    """Whether this very release is published; with `replace`, another one may be in its place."""
    payload = read_metadata(connection, release.file)
    if payload is None:
        return False
    where = (
        f"release {release.name}=={release.version} for {release.profile}: "
        f"broker {connection.address} holds"
    )
    try:
        other = release_of(payload, release.file)
    except EdgeError as reason:
        if replace:
            return False
        raise InputError(
            f"{where} something unreadable under this name, version and profile ({reason}); "
            "use --force to replace it"
        ) from None
    if other != release and not replace:
        raise InputError(
            f"{where} another bundle under this name, version and profile (manifest "
            f"{other.manifest.sha256[:12]}…, this one is {release.manifest.sha256[:12]}…); "
            "raise the version, or use --force"
        )
    return other == release


def _held(
    connection: Connection, releases: Sequence[Release], chunks: Iterable[Chunk], *, again: bool
) -> set[str]:
    """Chunks that need not be sent, among others."""
    if again:
        return intact(connection, chunks)
    ours = {release.file for release in releases}
    found = [r for r in read_catalog(connection).releases if r.file not in ours]
    others = {r.manifest.sha256: r for r in sorted(found, key=lambda r: _far(r, releases[0]))}
    held: set[str] = set()
    for other in list(others.values())[:MAX_MANIFESTS]:
        try:
            manifest = fetch_manifest(connection, other)
        except EdgeError:
            continue  # Incomplete or unreadable: nothing of it is relied upon.
        for entry in (other.manifest, *manifest.files):
            held.update(chunk.sha256 for chunk in entry.chunks)
    return held


def _far(other: Release, release: Release) -> tuple[bool, bool]:
    """How unlikely it is that the two share chunks."""
    return other.name != release.name, other.profile != release.profile


def _unique(bundle: VerifiedBundle, release: Release) -> dict[str, Chunk]:
    entries = (*bundle.manifest.files, release.manifest)
    return {chunk.sha256: chunk for entry in entries for chunk in entry.chunks}


def _pieces(
    bundle: VerifiedBundle, release: Release, manifest_bytes: bytes
) -> Iterator[tuple[Chunk, bytes]]:
    """Every chunk with its bytes, one file in memory at a time; the manifest's come last."""
    for entry in bundle.manifest.files:
        for chunk, piece in entry.cut(bundle.read(entry.path)):
            yield chunk, bytes(piece)
    for chunk, piece in release.manifest.cut(manifest_bytes):
        yield chunk, bytes(piece)


def _prove(connection: Connection, sent: list[Chunk]) -> None:
    """Raises TransferError: the broker does not keep what it has acknowledged."""
    sample = sent[:: max(1, len(sent) // SAMPLE)][:SAMPLE] + sent[-1:]
    got = fetch(connection, sample)
    lost = [chunk.sha256 for chunk in sample if chunk.sha256 not in got]
    if lost:
        raise TransferError(
            f"broker {connection.address}: acknowledged chunk {lost[0][:12]}… but does not keep "
            "it; does this user have the right to publish, and does the broker keep retained "
            "messages of 128 KiB?"
        )
