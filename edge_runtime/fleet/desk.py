"""Where metadata is signed: one role's next version, from a draft to a file in the tree.

A draft lies in `staged/` under the name that it will have. It gets the signatures of the keys that
are here, and moves into the tree once those are enough. It may be changed by those who have signed
it, or by anybody while nobody has: a change voids every signature.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from tuf.api.metadata import Metadata, Root, Snapshot, Targets

from edge_runtime.errors import InputError
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.keyring import Keyring
from edge_runtime.fleet.metadata import (
    AnyMetadata,
    SignedRole,
    Votes,
    digest,
    show_time,
    signed_at,
    stamp,
    to_bytes,
    unsigned,
    votes,
)
from edge_runtime.fleet.outcome import left
from edge_runtime.fleet.settings import OFFLINE_ROLES, ROLES, RoleSettings, Settings
from edge_runtime.fleet.standing import Kept, load, role_keys, staged_file
from edge_runtime.fleet.tree import MetadataFolder, Tree, role_file

MAX_SKEW = timedelta(minutes=10)
"""How far the clocks of two operators may be apart."""


class Desk:
    """One home's drafts and what stands, with the keys that are here.

    Args:
        now: all signatures of this run carry it.
    """

    def __init__(self, home: Home, settings: Settings, ring: Keyring, now: datetime) -> None:
        self.home = home
        self.settings = settings
        self.ring = ring
        self.tree = Tree(home.repository)
        self.now = now.astimezone(timezone.utc).replace(microsecond=0)
        self.standing = load(home, settings)
        self.written: list[str] = []
        self.notes: list[str] = []
        self._staged = MetadataFolder(home.staged)

    def set_roles(self, roles: Mapping[str, RoleSettings]) -> None:
        """Change `fleet.toml`, where it differs; a home that did not name its first root does then.

        Raises:
            DeviceError: the disk is full, read-only or failing.
        """
        roots = self.standing.roots
        first = self.settings.first_root or (digest(roots[0]) if roots else "")
        self._set(replace(self.settings, roles=roles, first_root=first))

    def _set(self, settings: Settings) -> None:
        if settings != self.settings:
            self.settings = settings
            self.home.write(settings)

    def _pin(self, root: AnyMetadata) -> None:
        """Name the first root, while it still may be changed."""
        if not self.standing.roots:
            self._set(replace(self.settings, first_root=digest(root)))

    # Drafts.

    def draft(self, role: str, signed: SignedRole, leave_out: Collection[str] = ()) -> None:
        """Stage the next version of a role, signed by the keys that are here.

        Args:
            leave_out: as `check_clock`.

        Raises:
            InputError: as `check_amend` and `check_clock`; a passphrase is wrong; or the metadata
                grows too large for brokers.
            TransferError: a signer failed.
            DeviceError: the disk is full, read-only or failing.
        """
        self.check_clock(leave_out)
        self.check_amend(role)
        newest = self.standing.newest_signing(leave_out) or self.now
        days = self.settings.roles[role].expiry_days
        stamp(signed, self.standing.version(role) + 1, max(self.now, newest), days)
        draft = unsigned(signed)
        to_bytes(role, draft)  # Refused before it takes the place of another draft.
        if role == "root":
            self._pin(draft)
        self.standing.drafts[role] = draft
        self.vote(role)

    def check_amend(self, role: str) -> None:
        """Raises InputError: others have signed what is staged of a role, and nobody here has."""
        draft = self.standing.drafts.get(role)
        if draft is None or role not in OFFLINE_ROLES:
            return
        signed = self.votes(role).signed
        if signed and not any(self.ring.is_here(keyid) for keyid in signed):
            raise InputError(
                f"{self.home.staged / draft_file(role, draft)}: others have signed it and you have "
                "not; look at it with `edge-fleet refresh --check`, and `edge-fleet sign` it first"
            )

    def vote(self, role: str) -> bool:
        """Add the signatures of the keys here to a draft; whether there are any.

        Raises:
            InputError: a passphrase is wrong, or none of the signers here can be opened.
            TransferError: a signer failed.
            DeviceError: the disk is full, read-only or failing.
        """
        draft = self.standing.drafts[role]
        made = self.ring.sign(draft.signed_bytes, role_keys(self.standing, role).values())
        for signature in made.signatures:
            draft.signatures[signature.keyid] = signature
        self.notes += made.failures
        self.stage(role, draft)
        return bool(made.signatures)

    def stage(self, role: str, draft: AnyMetadata) -> None:
        """Put a draft on disk.

        Raises:
            InputError: it is too large for brokers.
            DeviceError: the disk is full, read-only or failing.
        """
        self._staged.write(draft_file(role, draft), to_bytes(role, draft))

    def votes(self, role: str) -> Votes:
        """Of a draft."""
        draft, root = self.standing.drafts[role], self.standing.root
        if isinstance(draft.signed, Root):
            return votes(role, draft, draft.signed, root)
        if root is None:
            raise InputError(
                f"{self.home.staged / draft_file(role, draft)}: is staged before there is a root; "
                "delete it"
            )
        return votes(role, draft, root)

    def publish(self, role: str) -> bool:
        """Move a draft into the tree, where it has its signatures; whether it has.

        Raises:
            DeviceError: the disk is full, read-only or failing.
        """
        draft = self.standing.drafts.get(role)
        if draft is None or not self.votes(role).complete:
            return False
        data, file = to_bytes(role, draft), draft_file(role, draft)
        if role == "root":
            self._pin(draft)
        self.tree.metadata.write(file, data)
        self._staged.remove([file])
        del self.standing.drafts[role]
        self.written.append(file)
        signed, signatures = draft.signed, draft.signatures
        if isinstance(signed, Root):
            self.standing.roots.append(Metadata(signed, signatures))
            self.standing.again()
        elif isinstance(signed, Targets):
            self.standing.targets = Kept(Metadata(signed, signatures), data, current=True)
        elif isinstance(signed, Snapshot):
            self.standing.snapshot = Kept(Metadata(signed, signatures), data, current=True)
        else:
            self.standing.timestamp = Kept(Metadata(signed, signatures), data, current=True)
        return True

    def clear(self) -> None:
        """Remove what is published and was still staged, because of a cut.

        Raises:
            DeviceError: the disk is read-only or failing.
        """
        found = [staged_file(self._staged, role) for role in ROLES]
        kept = [draft_file(role, draft) for role, draft in self.standing.drafts.items()]
        self._staged.remove(name for name in found if name and name not in kept)

    # Time.

    def check_clock(self, leave_out: Collection[str] = ()) -> None:
        """Whether devices would be told a time that they know to be past.

        Args:
            leave_out: roles whose time does not count, because they are about to be replaced.

        Raises:
            InputError: this machine's clock is behind what was signed already.
        """
        newest = self.standing.newest_signing(leave_out)
        if newest is not None and self.now < newest - MAX_SKEW:
            raise InputError(
                f"this machine's clock says {show_time(self.now)}, but this home's metadata was "
                f"signed at {show_time(newest)}; set the clock, or, if it is right and that was "
                "signed ahead of time, run `edge-fleet rotate timestamp --force`"
            )

    def is_ahead(self, role: str) -> bool:
        """Whether what stands of a role was signed later than it is now."""
        current = self.standing.of(role)
        time = signed_at(current.signed) if current is not None else None
        return time is not None and time > self.now + MAX_SKEW

    def is_due(self, role: str, *, soon: bool = False) -> bool:
        """Whether a role is to be renewed: the last quarter of its time has begun.

        Or it was signed ahead of time, and so is good for longer than it should be. With `soon`
        also where a new timestamp would outlast it.
        """
        current = self.standing.of(role)
        if current is None or self.is_ahead(role):
            return True
        days = self.settings.roles[role].expiry_days / 4
        if soon:
            days = max(days, self.settings.roles["timestamp"].expiry_days)
        return current.signed.expires < self.now + timedelta(days=days)

    def left(self, role: str) -> str:
        """How long a role's metadata is good for, for people."""
        current = self.standing.of(role)
        if current is None:
            return "no time"
        return left((current.signed.expires - self.now).total_seconds())


def draft_file(role: str, draft: AnyMetadata) -> str:
    """What a draft is called, staged and in the tree."""
    return role_file(role, draft.signed.version)
