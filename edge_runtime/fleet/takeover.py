"""Metadata that another copy of the home has published, taken over from the broker.

For a home that was restored from a backup, or that a colleague's machine has overtaken: versions
only ever rise, so it must know the newest ones before it signs again. Nothing is believed that this
fleet's keys have not signed, from the newest root here onwards, and nothing is taken that is older
than what is here, or signed ahead of time: no signature after that would do. Written in the order
of publication; a cut leaves something to be taken again. Chunks and release files stay where they
are: whoever publishes a bundle again brings them.
"""

from __future__ import annotations

from datetime import datetime

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from edge_runtime.errors import InputError, UntrustedError
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.desk import MAX_SKEW
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.metadata import (
    R,
    check_keyids,
    meta_file,
    parse,
    show_time,
    signed_at,
    votes,
)
from edge_runtime.fleet.repository import read_metadata
from edge_runtime.fleet.standing import load_roots
from edge_runtime.fleet.tree import MetadataFolder, role_file

MAX_ROOTS = 1024


def take_over(connection: Connection, home: Home, now: datetime) -> tuple[str, ...]:
    """Bring the home's metadata to what the broker keeps, where that is newer.

    New roots are taken also where the timestamp is refused for its time: what the home signs to
    take the place of its keys follows them.

    Returns:
        The files that are new here, in order.

    Raises:
        UntrustedError: what the broker keeps is not signed by this fleet's keys, or does not fit
            together.
        InputError: the broker keeps none, or a timestamp that was signed ahead of `now`; or what is
            here cannot be read.
        TransferError: the connection was lost.
        DeviceError: the disk failed.
    """
    folder = MetadataFolder(home.metadata)
    roots = load_roots(folder, home.read())
    if not roots:
        raise InputError(f"{home.metadata}: holds no root; bring at least 1.root.json back")
    files: dict[str, bytes] = {}
    root = _roots(connection, roots[-1].signed, files)
    where = f"broker {connection.address}"
    data, timestamp = _read(connection, "timestamp.json", "timestamp", Timestamp, root)
    time = signed_at(timestamp.signed)
    if time is not None and time > now + MAX_SKEW:
        for file, content in files.items():
            folder.write(file, content)
        raise InputError(
            f"{where}: keeps timestamp version {timestamp.signed.version}, which was signed at "
            f"{show_time(time)}, and this machine's clock says {show_time(now)}; set the clock, "
            "or, if it is right, run `edge-fleet rotate timestamp`, because that key was stolen or "
            "used with a wrong clock"
        )
    meta = timestamp.signed.snapshot_meta
    name = role_file("snapshot", meta.version)
    snapshot_data, snapshot = _read(connection, name, "snapshot", Snapshot, root)
    if meta != meta_file(snapshot.signed.version, snapshot_data):
        raise UntrustedError(f"{where}: {name} is not the one that its timestamp names")
    meta = snapshot.signed.meta["targets.json"]
    targets_name = role_file("targets", meta.version)
    targets_data, targets = _read(connection, targets_name, "targets", Targets, root)
    if meta != meta_file(targets.signed.version, targets_data):
        raise UntrustedError(f"{where}: {targets_name} is not the one that its snapshot names")
    files |= {targets_name: targets_data, name: snapshot_data, "timestamp.json": data}
    _check_newer(folder, timestamp.signed, where)
    taken = [file for file, content in files.items() if folder.read(file) != content]
    for file in taken:
        folder.write(file, files[file])
    return tuple(taken)


def _roots(connection: Connection, root: Root, files: dict[str, bytes]) -> Root:
    """The newest root that the broker has, each vouched for by the one before."""
    for version in range(root.version + 1, root.version + MAX_ROOTS):
        file = role_file("root", version)
        data = read_metadata(connection, file)
        if data is None:
            break
        found = parse(data, Root, file)
        check_keyids(found.signed, file)
        if found.signed.version != version or not votes("root", found, found.signed, root).complete:
            raise UntrustedError(
                f"broker {connection.address}: {file} is not signed as the root before it demands"
            )
        files[file] = data
        root = found.signed
    return root


def _read(
    connection: Connection, file: str, role: str, kind: type[R], root: Root
) -> tuple[bytes, Metadata[R]]:
    data = read_metadata(connection, file)
    if data is None:
        raise InputError(f"broker {connection.address}: keeps no {file}; nothing to take over")
    found = parse(data, kind, file)
    if not votes(role, found, root).complete:
        raise UntrustedError(
            f"broker {connection.address}: {file} is not signed by the keys of this fleet"
        )
    return data, found


def _check_newer(folder: MetadataFolder, theirs: Timestamp, where: str) -> None:
    data = folder.read("timestamp.json")
    if data is None:
        return
    ours = parse(data, Timestamp, str(folder.folder / "timestamp.json")).signed
    if theirs.version < ours.version:
        raise InputError(
            f"{where}: keeps timestamp version {theirs.version}, this home has version "
            f"{ours.version} already; publish it with `edge-fleet refresh`"
        )
