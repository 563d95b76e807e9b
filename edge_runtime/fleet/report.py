"""The state of a home's signed metadata, as scripts, monitoring and people read it."""

from __future__ import annotations

from edge_runtime.fleet.desk import Desk
from edge_runtime.fleet.metadata import changes, show_time, signed_at, votes
from edge_runtime.fleet.outcome import Outcome, RoleStatus, Staged
from edge_runtime.fleet.settings import ROLES
from edge_runtime.fleet.settle import is_published
from edge_runtime.fleet.standing import role_keys
from edge_runtime.fleet.tree import role_file


def report(desk: Desk) -> Outcome:
    """The state of every role, and what was done at `desk`."""
    drafts = desk.standing.drafts
    return Outcome(
        roles=tuple(_status(desk, role) for role in ROLES),
        staged=tuple(_waiting(desk, role) for role in ROLES if role in drafts),
        written=tuple(desk.written),
        published=is_published(desk.standing),
        notes=tuple(dict.fromkeys([*desk.notes, *_warnings(desk)])),
    )


def _status(desk: Desk, role: str) -> RoleStatus:
    current, root = desk.standing.of(role), desk.standing.root
    known = [*role_keys(desk.standing, role)]
    keys = tuple(root.roles[role].keyids if root is not None else known)
    here = tuple(keyid for keyid in keys if desk.ring.is_here(keyid))
    if current is None or root is None:
        return RoleStatus(role, 0, None, 0.0, 0, 0, keys, here)
    found = votes(role, current, root)
    return RoleStatus(
        role=role,
        version=current.signed.version,
        expires=current.signed.expires,
        left_s=(current.signed.expires - desk.now).total_seconds(),
        signatures=len(found.signed),
        threshold=found.threshold,
        keys=keys,
        here=here,
    )


def _waiting(desk: Desk, role: str) -> Staged:
    draft, found = desk.standing.drafts[role], desk.votes(role)
    return Staged(
        role=role,
        version=draft.signed.version,
        file=str(desk.home.staged / role_file(role, draft.signed.version)),
        signed=found.signed,
        unsigned=found.unsigned,
        missing=found.missing,
        changes=tuple(changes(draft, desk.standing.of(role))),
    )


def _warnings(desk: Desk) -> list[str]:
    """What an operator should know of the state, whatever was done."""
    said: list[str] = []
    for role in ROLES:
        current = desk.standing.of(role)
        if current is None or not desk.is_due(role):
            continue
        name = f"{role} version {current.signed.version}"
        if desk.is_ahead(role):
            said.append(
                f"{name} was signed at {show_time(signed_at(current.signed) or desk.now)}, ahead "
                "of this machine's clock"
            )
            continue
        if current.signed.expires <= desk.now:
            said.append(f"{name} has expired: devices take no update")
        else:
            said.append(f"{name} expires in {desk.left(role)}")
        said[-1] += "; run `edge-fleet refresh` where its keys are"
    kept = desk.standing.targets
    if kept is not None and not kept.current:
        said.append(
            f"targets version {kept.signed.version} is not signed by the keys of root version "
            f"{desk.standing.version('root')}: devices take no update until it is"
        )
    return said
