"""The tree's signed metadata onto the broker, where devices read it as retained messages.

The order: 1. see what the broker keeps, and stop where that is another fleet's, or ahead of this
home; 2. every root that it lacks; 3. targets; 4. snapshot; 5. timestamp, each read back, because an
MQTT 3.1.1 broker acknowledges what its access list forbids; 6. only then remove what no device asks
for any more. Cut short at any point it leaves what the old timestamp names, and may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from tuf.api.metadata import Root, Timestamp

from edge_runtime.errors import EdgeError, InputError, TransferError, UntrustedError
from edge_runtime.fields import Json
from edge_runtime.fleet.authority import Authority
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.deltas import blobs_of
from edge_runtime.fleet.metadata import parse, votes
from edge_runtime.fleet.repository import fetch, fetch_manifest, read_catalog
from edge_runtime.fleet.tree import KEPT_VERSIONS, role_file

WINDOW = 32
"""Topics asked for at a time."""
OLD_VERSIONS = 16
"""How many versions back leftovers are looked for."""
FIRST_ROOT, TIMESTAMP_FILE = "1.root.json", "timestamp.json"
_TAKE_OVER = (
    "another copy of the home has published; take that over with `edge-fleet refresh "
    "--from-broker`, and do this again"
)


@dataclass(frozen=True, slots=True)
class Upload:
    """Files that the broker got, in order, and those that it no longer keeps."""

    sent: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        return {"metadata_sent": list(self.sent), "metadata_removed": list(self.removed)}


def upload(connection: Connection, authority: Authority) -> Upload:
    """Bring the broker's metadata to the state of the tree.

    Raises:
        InputError: the tree is not whole, or the broker has newer metadata of this fleet.
        TransferError: the broker stands still, forbids, or does not keep what it acknowledged.
    """
    files = published(authority)
    foreign = check(connection, authority)  # 1
    there = _kept(connection, list(files))
    sent: list[str] = []
    for file, data in files.items():  # 2, 3, 4, 5
        if there.get(file) != data:
            _send(connection, file, data)
            sent.append(file)
    return Upload(tuple(sent), _remove(connection, [*foreign, *_old(authority)]))  # 6


def check(connection: Connection, authority: Authority) -> list[str]:
    """Whether this home may publish on this broker, before anything is sent.

    Returns:
        Files that are no metadata of this fleet, and that devices would stumble over.

    Raises:
        InputError: the tree is not whole; or the broker's metadata is newer, or another fleet's.
        TransferError: the connection was lost.
    """
    files = published(authority)
    there = _kept(connection, [FIRST_ROOT, TIMESTAMP_FILE])
    _check_fleet(connection, there.get(FIRST_ROOT), files[FIRST_ROOT])
    _check_ahead(connection, authority, there.get(TIMESTAMP_FILE), files[TIMESTAMP_FILE])
    return _check_root(connection, authority)


def published(authority: Authority) -> dict[str, bytes]:
    """The files of the tree's roles that devices read, in the order of publication.

    Raises:
        InputError: signatures are missing, or files.
    """
    outcome = authority.outcome()
    if not outcome.published:
        why = "; ".join(outcome.notes) or "it lacks signatures"
        raise InputError(f"{authority.desk.home.metadata}: is not ready to be published: {why}")
    versions = {role.role: role.version for role in outcome.roles}
    names = [role_file("root", version) for version in range(1, versions["root"] + 1)]
    names += [role_file(role, versions[role]) for role in ("targets", "snapshot", "timestamp")]
    files: dict[str, bytes] = {}
    for name in names:
        data = authority.tree.metadata.read(name)
        if data is None:
            raise InputError(f"{authority.tree.metadata.folder / name}: is gone; bring it back")
        files[name] = data
    return files


def retire(connection: Connection, files: Iterable[str]) -> tuple[str, ...]:
    """Remove releases from the broker by their files, and their chunks that no other one needs.

    Where a release cannot be read, all chunks stay.

    Returns:
        The files that were there.

    Raises:
        TransferError: the connection was lost, or the broker forbids it.
    """
    there = _kept(connection, list(files))
    gone = _unneeded(connection, set(there)) if there else set()
    for file in there:
        connection.send("metadata", connection.topics.metadata(file), b"")
    connection.settle()
    for digest in gone:
        connection.send("chunk", connection.topics.chunk(digest), b"")
    connection.settle()
    return tuple(there)


def _unneeded(connection: Connection, going: set[str]) -> set[str]:
    """Digests of chunks of the releases that go, and of none that stays; none, if in doubt."""
    catalog = read_catalog(connection)
    theirs: set[str] = set()
    kept: set[str] = set()
    for release in catalog.releases:
        try:
            manifest = fetch_manifest(connection, release)
            digests = blobs_of(release.deltas, partial(fetch, connection))
        except EdgeError:
            return set()
        for entry in (release.manifest, *manifest.files):
            digests |= {chunk.sha256 for chunk in entry.chunks}
        (theirs if release.file in going else kept).update(digests)
    return theirs - kept if not catalog.unreadable else set()


def _check_fleet(connection: Connection, theirs: bytes | None, ours: bytes) -> None:
    """Raises InputError: the broker belongs to another fleet, or to this one's former life."""
    if theirs is None or theirs == ours:
        return
    try:
        found = parse(theirs, Root, FIRST_ROOT)
    except UntrustedError:
        return
    if votes("root", found, found.signed).complete:
        topic = connection.topics.metadata(FIRST_ROOT)
        raise InputError(
            f"broker {connection.address}: keeps the metadata of another fleet; is this the right "
            f"home, and has each fleet a --prefix of its own? Where that fleet is no more, clear "
            f"the retained {topic}"
        )


def _check_root(connection: Connection, authority: Authority) -> list[str]:
    """What the broker keeps in the next root's place and is none; devices would stumble over it.

    Raises:
        InputError: it is a root, newer than ours, which ours vouches for.
    """
    root = authority.root
    if root is None:
        return []
    file = role_file("root", root.version + 1)
    data = _kept(connection, [file]).get(file)
    if data is None:
        return []
    try:
        found = parse(data, Root, file)
    except UntrustedError:
        return [file]
    if votes("root", found, root).complete:
        raise InputError(
            f"broker {connection.address}: keeps root version {found.signed.version} of this "
            f"fleet, this home has version {root.version}: {_TAKE_OVER}"
        )
    return [file]


def _check_ahead(
    connection: Connection, authority: Authority, theirs: bytes | None, ours: bytes
) -> None:
    """Raises InputError: the broker's timestamp is this fleet's, and not older than ours.

    What these keys have not signed is in nobody's way: it is replaced.
    """
    root = authority.root
    if theirs is None or root is None:
        return
    try:
        found = parse(theirs, Timestamp, TIMESTAMP_FILE)
    except UntrustedError:
        return
    own = parse(ours, Timestamp, TIMESTAMP_FILE)
    if not votes("timestamp", found, root).complete or found.signed == own.signed:
        return
    if found.signed.version >= own.signed.version:
        raise InputError(
            f"broker {connection.address}: keeps timestamp version {found.signed.version} of this "
            f"fleet, this home has version {own.signed.version}: {_TAKE_OVER}"
        )


def _kept(connection: Connection, files: Sequence[str]) -> dict[str, bytes]:
    """What the broker keeps of `files`."""
    found: dict[str, bytes] = {}
    for start in range(0, len(files), WINDOW):
        topics = {connection.topics.metadata(file): file for file in files[start : start + WINDOW]}
        for topic, payload in connection.retained(list(topics), tell=False).items():
            found[topics[topic]] = payload
    return found


def _send(connection: Connection, file: str, data: bytes) -> None:
    connection.send("metadata", connection.topics.metadata(file), data)
    connection.settle()
    kept = _kept(connection, [file]).get(file)
    if kept != data:
        raise TransferError(
            f"metadata {file}: broker {connection.address} acknowledged it but keeps "
            f"{'nothing' if kept is None else 'something else'}; does this user have the right to "
            "publish?"
        )


def _old(authority: Authority) -> list[str]:
    """Versions that no device asks for any more, there or not."""
    return [
        role_file(role.role, version)
        for role in authority.outcome().roles
        if role.role in ("targets", "snapshot")
        for newest in [role.version - KEPT_VERSIONS]
        for version in range(max(1, newest - OLD_VERSIONS + 1), newest + 1)
    ]


def _remove(connection: Connection, files: Sequence[str]) -> tuple[str, ...]:
    there = _kept(connection, files)
    for file in there:
        connection.send("metadata", connection.topics.metadata(file), b"")
    connection.settle()
    return tuple(sorted(there))
