"""Bringing the tree up to date with what is complete: safe to interrupt, and to repeat.

The order, backwards from how devices read: root, targets, snapshot, timestamp. Each file is written
whole, and what the old timestamp names stays untouched until the new one is there: a cut at any
point leaves the old state or the new one, and the next `settle` goes on from there. A new root that
changes keys is the exception: until the rest is signed anew, devices wait.

Snapshot and timestamp follow from targets, so whoever has their keys signs them without asking.
"""

from __future__ import annotations

from collections.abc import Mapping

from tuf.api.metadata import MetaFile, Snapshot, Targets, Timestamp

from edge_runtime.errors import InputError
from edge_runtime.fleet.desk import Desk
from edge_runtime.fleet.keys import FILE, scheme
from edge_runtime.fleet.metadata import SignedRole, fresh, meta_file, releases_of
from edge_runtime.fleet.settings import RoleSettings
from edge_runtime.fleet.standing import Standing, role_keys

TARGETS_FILE = "targets.json"


def settle(desk: Desk, *, renew: bool = False) -> None:
    """Publish complete drafts, and sign what follows from them.

    Args:
        renew: a new timestamp in any case, and a new snapshot that lasts as long.

    Raises:
        InputError: nothing can be signed now, or a passphrase is wrong.
        TransferError: a signer failed.
        DeviceError: the disk is full, read-only or failing.
    """
    desk.publish("root")
    if desk.standing.root is None:
        return
    _settle_keys(desk)
    _settle_targets(desk)
    desk.publish("targets")
    _settle_snapshot(desk, renew)
    _settle_timestamp(desk, renew)
    desk.clear()
    if is_published(desk.standing):
        _retire(desk)


def is_published(standing: Standing) -> bool:
    """Whether the timestamp names the newest snapshot, and that the newest targets."""
    timestamp = standing.timestamp
    return (
        _names_targets(standing)
        and timestamp is not None
        and timestamp.current
        and timestamp.signed.snapshot_meta == _snapshot_meta(standing)
    )


def _settle_keys(desk: Desk) -> None:
    """`fleet.toml` names the keys of the newest root, and only these."""
    root = desk.standing.root
    if root is None or "root" in desk.standing.drafts:
        return
    roles: dict[str, RoleSettings] = {}
    for role, was in desk.settings.roles.items():
        signed = root.roles[role]
        keys = {keyid: was.keys.get(keyid, "") for keyid in signed.keyids}
        roles[role] = RoleSettings(signed.threshold, was.expiry_days, keys)
        if was.threshold != signed.threshold:
            desk.notes.append(
                f"fleet.toml: {role}: threshold set to {signed.threshold}, as root version "
                f"{root.version} has it; it was {was.threshold}"
            )
        for keyid in was.keys.keys() - root.keys.keys():
            uri = desk.ring.uri(keyid)
            if scheme(uri) == FILE and desk.ring.is_here(keyid):
                path = uri.partition(":")[2]
                desk.notes.append(f"{path} signs nothing any more: delete it, and every copy")
    desk.set_roles(roles)


def _settle_targets(desk: Desk) -> None:
    """The first targets; or the same ones again, signed by the keys of a new root."""
    standing, kept = desk.standing, desk.standing.targets
    if "targets" in standing.drafts or (kept is not None and kept.current):
        return
    keys = role_keys(standing, "targets")
    try:
        desk.ring.check(keys.values())
    except InputError as reason:
        # Whoever has just completed a root may hold another passphrase than that of targets.
        desk.notes.append(f"targets: not signed yet ({reason}); run `edge-fleet refresh` with it")
        return
    if any(desk.ring.is_here(keyid) for keyid in keys):
        desk.draft("targets", fresh(kept.signed) if kept is not None else Targets())
        if kept is not None and releases_of(kept.signed):
            desk.notes.append(
                f"targets: {len(kept.signed.targets)} releases are signed again with the new keys; "
                "look at them with `edge-fleet releases`"
            )


def _settle_snapshot(desk: Desk, renew: bool) -> None:
    kept, meta = desk.standing.snapshot, _targets_meta(desk.standing)
    if meta is None:
        return
    if not _names_targets(desk.standing) or desk.is_due("snapshot", soon=renew):
        version = kept.signed.version if kept is not None else 0
        _derive(desk, "snapshot", Snapshot(version=version + 1, meta={TARGETS_FILE: meta}))


def _settle_timestamp(desk: Desk, renew: bool) -> None:
    meta = _snapshot_meta(desk.standing)
    if meta is None or not _names_targets(desk.standing):
        return  # The snapshot waits for a signature.
    if renew or not is_published(desk.standing) or desk.is_due("timestamp"):
        _derive(desk, "timestamp", Timestamp(snapshot_meta=meta))


def _derive(desk: Desk, role: str, signed: Snapshot | Timestamp) -> None:
    """Sign what follows from the rest, where a key is here."""
    if not any(desk.ring.is_here(keyid) for keyid in role_keys(desk.standing, role)):
        desk.notes.append(
            f"{role}: its key is not here; take repository/metadata to where it is, and run "
            "`edge-fleet refresh` there"
        )
        return
    draft = desk.standing.drafts.get(role)
    if draft is not None and _meta(draft.signed) == _meta(signed):
        desk.vote(role)
    else:
        desk.draft(role, signed)
    desk.publish(role)


def _targets_meta(standing: Standing) -> MetaFile | None:
    kept = standing.targets
    current = kept is not None and kept.current
    return meta_file(kept.signed.version, kept.data) if kept is not None and current else None


def _snapshot_meta(standing: Standing) -> MetaFile | None:
    kept = standing.snapshot
    current = kept is not None and kept.current
    return meta_file(kept.signed.version, kept.data) if kept is not None and current else None


def _names_targets(standing: Standing) -> bool:
    """Whether the newest snapshot names the newest targets, and both count."""
    kept, meta = standing.snapshot, _targets_meta(standing)
    return (
        kept is not None and kept.current and meta is not None
        and kept.signed.meta == {TARGETS_FILE: meta}
    )  # fmt: skip


def _meta(signed: SignedRole) -> Mapping[str, MetaFile]:
    """What a snapshot or timestamp says, but for its time."""
    if isinstance(signed, Snapshot):
        return signed.meta
    return {"snapshot.json": signed.snapshot_meta} if isinstance(signed, Timestamp) else {}


def _retire(desk: Desk) -> None:
    """Remove what no device asks for any more."""
    desk.tree.metadata.prune()
    wanted: set[str] = set()
    kept, draft = desk.standing.targets, desk.standing.drafts.get("targets")
    for targets in (kept.signed if kept else None, draft.signed if draft else None):
        wanted |= set(targets.targets) if isinstance(targets, Targets) else set()
    desk.tree.retire(desk.tree.releases().keys() - wanted)
