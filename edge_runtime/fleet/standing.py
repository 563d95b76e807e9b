"""The home's signed metadata as it stands, held to the keys that `fleet.toml` names.

The steps: 1. every root from the first one on, each vouched for by the one before; 2. the first is
the one that `fleet.toml` names, or, in a home that is too old to name it, one of them has just the
root keys and the threshold of `fleet.toml`, else somebody has put another chain into the folder,
which may be served from a machine that others reach; 3. the newest of each other role is signed
under one of these roots. Where the newest root does not count its signatures, because keys were
rotated since, it is held as not current, to be signed again. Expiry is no fault here: renewing is
what operators come for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from edge_runtime.errors import InputError, UntrustedError
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.metadata import (
    AnyMetadata,
    R,
    check_keyids,
    digest,
    keys_of,
    parse,
    signed_at,
    votes,
)
from edge_runtime.fleet.settings import ROLES, Settings
from edge_runtime.fleet.tree import MetadataFolder, role_file

KINDS: Mapping[str, type[Root] | type[Targets] | type[Snapshot] | type[Timestamp]] = {
    "root": Root,
    "targets": Targets,
    "snapshot": Snapshot,
    "timestamp": Timestamp,
}
RoleName = Literal["targets", "snapshot", "timestamp"]


@dataclass(frozen=True, slots=True)
class Kept(Generic[R]):
    """A role's newest metadata in the tree; `current`: the newest root counts its signatures."""

    metadata: Metadata[R]
    data: bytes
    current: bool

    @property
    def signed(self) -> R:
        """What is signed."""
        return self.metadata.signed


@dataclass(slots=True)
class Standing:
    """What is in the tree and what is staged. `roots` are all of them, the first one first."""

    roots: list[Metadata[Root]] = field(default_factory=list)
    targets: Kept[Targets] | None = None
    snapshot: Kept[Snapshot] | None = None
    timestamp: Kept[Timestamp] | None = None
    drafts: dict[str, AnyMetadata] = field(default_factory=dict)

    @property
    def root(self) -> Root | None:
        """The newest complete root; None: the very first one still lacks signatures."""
        return self.roots[-1].signed if self.roots else None

    def of(self, role: str) -> AnyMetadata | None:
        """A role's newest metadata in the tree."""
        if role == "root":
            return self.roots[-1] if self.roots else None
        kept = {"targets": self.targets, "snapshot": self.snapshot, "timestamp": self.timestamp}
        found = kept[role]
        return found.metadata if found is not None else None

    def version(self, role: str) -> int:
        """Of a role's newest metadata in the tree; 0: there is none."""
        found = self.of(role)
        return found.signed.version if found is not None else 0

    def keys(self) -> dict[str, Key]:
        """Every public key that signs something, or is about to, by id."""
        roots = [metadata.signed for metadata in self.roots[-1:]]
        draft = self.drafts.get("root")
        if draft is not None and isinstance(draft.signed, Root):
            roots.append(draft.signed)
        return {keyid: key for root in roots for keyid, key in root.keys.items()}

    def newest_signing(self, leave_out: Collection[str] = ()) -> datetime | None:
        """The latest time that devices were told, by root or timestamp, and will not forget.

        A timestamp whose keys are rotated away, or will be by what is staged, is forgotten with
        them; the time of a root with the root. Snapshot and targets tell devices no time.

        Args:
            leave_out: roles that do not count, because they are about to be replaced.
        """
        root = self.drafts.get("root") or self.of("root")
        found = [(root, "root"), (self.drafts.get("timestamp"), "timestamp")]
        kept = self.timestamp
        if kept is not None and kept.current and root is not None:
            new = root.signed
            if isinstance(new, Root) and votes("timestamp", kept.metadata, new).complete:
                found.append((kept.metadata, "timestamp"))
        times = [
            signed_at(m.signed) for m, role in found if m is not None and role not in leave_out
        ]
        return max((time for time in times if time is not None), default=None)

    def again(self) -> None:
        """Hold every role to the newest root, after there is a new one."""
        self.targets = _again(self.targets, "targets", self.root)
        self.snapshot = _again(self.snapshot, "snapshot", self.root)
        self.timestamp = _again(self.timestamp, "timestamp", self.root)


def load(home: Home, settings: Settings) -> Standing:
    """What stands in the home.

    Raises:
        UntrustedError: a file is none of this fleet's.
        InputError: a file is missing, or a staged one is out of date.
        DeviceError: the disk failed.
    """
    folder = MetadataFolder(home.metadata)
    roots = load_roots(folder, settings)
    standing = Standing(roots)
    standing.targets = _newest(folder, "targets", Targets, roots)
    standing.snapshot = _newest(folder, "snapshot", Snapshot, roots)
    standing.timestamp = _newest(folder, "timestamp", Timestamp, roots)
    standing.drafts = _drafts(MetadataFolder(home.staged), folder, standing)
    return standing


def load_roots(folder: MetadataFolder, settings: Settings) -> list[Metadata[Root]]:
    """The chain of roots in `folder`, all of it.

    Raises:
        UntrustedError: a link is broken, or the chain is another fleet's.
        InputError: one is missing.
        DeviceError: the disk failed.
    """
    versions = folder.versions("root")
    roots: list[Metadata[Root]] = []
    for version in range(1, versions[-1] + 1 if versions else 1):  # 1
        where = f"{folder.folder / role_file('root', version)}"
        data = folder.read(role_file("root", version))
        if data is None:
            raise InputError(f"{where}: is missing; every root is kept for ever, bring it back")
        found = parse(data, Root, where)
        previous = roots[-1].signed if roots else None
        check_keyids(found.signed, where)
        if found.signed.version != version:
            raise UntrustedError(f"{where}: holds version {found.signed.version}")
        if not votes("root", found, found.signed, previous).complete:
            raise UntrustedError(f"{where}: is not signed as the root before it demands")
        roots.append(found)
    if roots:
        _check_anchor(roots, settings, folder)  # 2
    return roots


def _check_anchor(roots: list[Metadata[Root]], settings: Settings, folder: MetadataFolder) -> None:
    """Raises UntrustedError: a chain that holds together, and is not this fleet's.

    Whoever has one key of several can sign a first root that asks for no other, so keys alone say
    nothing: the threshold belongs to them.
    """
    if settings.first_root:
        known, what = digest(roots[0]) == settings.first_root, "its first root is not the one"
    else:
        ours = settings.roles["root"]
        wanted = (set(ours.keys), ours.threshold)
        theirs = [root.signed.roles["root"] for root in roots]
        known = any((set(role.keyids), role.threshold) == wanted for role in theirs)
        what = "none of its roots has the keys and the threshold"
    if not known:
        raise UntrustedError(
            f"{folder.folder}: {what} that fleet.toml names; bring back the metadata of this "
            "fleet, or the fleet.toml that belongs to this one"
        )


def _newest(
    folder: MetadataFolder, role: RoleName, kind: type[R], roots: list[Metadata[Root]]
) -> Kept[R] | None:
    versions = [1] if role == "timestamp" else folder.versions(role)
    file = role_file(role, versions[-1]) if versions else ""
    data = folder.read(file) if file else None
    if data is None:
        return None
    where = str(folder.folder / file)
    found = parse(data, kind, where)
    if role != "timestamp" and found.signed.version != versions[-1]:
        raise UntrustedError(f"{where}: holds version {found.signed.version}")
    if not any(votes(role, found, root.signed).complete for root in roots):  # 3
        raise UntrustedError(
            f"{where}: is not signed by the keys of this fleet; somebody changed it, bring it back"
        )
    return _again(Kept(found, data, current=False), role, roots[-1].signed)


def _again(kept: Kept[R] | None, role: RoleName, root: Root | None) -> Kept[R] | None:
    if kept is None or root is None:
        return kept
    current = votes(role, kept.metadata, root).complete
    return Kept(kept.metadata, kept.data, current)


def _drafts(
    staged: MetadataFolder, folder: MetadataFolder, standing: Standing
) -> dict[str, AnyMetadata]:
    drafts: dict[str, AnyMetadata] = {}
    for role in ROLES:
        file = staged_file(staged, role)
        data = staged.read(file) if file else None
        if not file or data is None:
            continue
        where = staged.folder / file
        found: AnyMetadata = parse(data, KINDS[role], str(where))  # type: ignore[type-var, assignment]
        if isinstance(found.signed, Root):
            check_keyids(found.signed, str(where))
        version, current = found.signed.version, standing.of(role)
        if current is not None and current.signed == found.signed:
            continue  # A cut after it was published, and before it was removed here.
        if version != standing.version(role) + 1:
            raise InputError(
                f"{where}: is version {version}, but {role} stands at version "
                f"{standing.version(role)} by now; delete it, and do again what it was made for"
            )
        drafts[role] = found
    return drafts


def staged_file(staged: MetadataFolder, role: str) -> str:
    """The name of what is staged of a role; empty where nothing is."""
    if role == "timestamp":
        return "timestamp.json" if "timestamp.json" in staged.names() else ""
    versions = staged.versions(role)
    return role_file(role, versions[-1]) if versions else ""


def role_keys(standing: Standing, role: str) -> dict[str, Key]:
    """Whose signatures `role` needs: for a root those of the root before it as well."""
    draft = standing.drafts.get("root")
    if role != "root":
        return keys_of(standing.root, role) if standing.root is not None else {}
    keys = keys_of(standing.root, role) if standing.root is not None else {}
    if draft is not None and isinstance(draft.signed, Root):
        keys |= keys_of(draft.signed, role)
    return keys
