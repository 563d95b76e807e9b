"""The operator's side of trust: what a fleet signs, as TUF metadata in its home.

An operation changes one thing, signs it with the keys that are here, and leaves it staged; `settle`
then brings the tree up to date with what has enough signatures. Root and targets are signed only by
those who mean to: an operation signs what it changes, `sign` what others have staged, `refresh`
what is about to expire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tuf.api.metadata import Root, Targets

from edge_runtime.errors import EdgeError, InputError
from edge_runtime.fleet import settle
from edge_runtime.fleet.desk import Desk
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.keyring import Keyring
from edge_runtime.fleet.keys import (
    FILE,
    SHORT,
    Held,
    check_passphrase,
    make_key,
    matching,
    read_word,
    scheme,
)
from edge_runtime.fleet.metadata import (
    AnyMetadata,
    Signed,
    SignedRole,
    fresh,
    parse,
    releases_of,
    target_of,
)
from edge_runtime.fleet.outcome import Outcome
from edge_runtime.fleet.report import report
from edge_runtime.fleet.settings import MAX_KEYS, OFFLINE_ROLES, ROLES, RoleSettings
from edge_runtime.fleet.standing import KINDS, role_keys
from edge_runtime.fleet.tree import Tree
from edge_runtime.messages.fleet import Release


@dataclass(frozen=True, slots=True)
class Rotation:
    """Who signs for a role from now on, other than before. All empty: new keys for old ones.

    `add` are words as `keys.read_word` takes them, `new` keys to make here, `remove` beginnings of
    key ids.
    """

    add: Sequence[str] = ()
    new: int = 0
    remove: Sequence[str] = ()
    threshold: int | None = None


class Authority:
    """One home's metadata, and the keys that are here. Whoever has it holds the home."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    @classmethod
    def open(
        cls,
        home: Home,
        now: datetime,
        passphrase: Callable[[], str | None] = lambda: None,
        words: Iterable[str] = (),
    ) -> Authority:
        """Of a home.

        Args:
            now: all signatures of this run carry it.
            passphrase: asked once, where an encrypted key is needed.
            words: signers for this run beside those of `fleet.toml`, see `Keyring.add_word`.

        Raises:
            InputError: no home, or something in it is missing or out of date.
            UntrustedError: its metadata is not this fleet's.
            DeviceError: the disk failed.
        """
        settings = home.read()
        uris = {id: uri for role in settings.roles.values() for id, uri in role.keys.items()}
        desk = Desk(home, settings, Keyring(home.folder, uris, passphrase), now)
        for word in words:
            desk.ring.add_word(word, desk.standing.keys())
        return cls(desk)

    @property
    def tree(self) -> Tree:
        """The repository that devices read."""
        return self.desk.tree

    @property
    def root(self) -> Root | None:
        """The newest root that has its signatures."""
        return self.desk.standing.root

    # Releases.

    def signed_releases(self) -> Mapping[str, Signed]:
        """What devices may be given, by release file; not what is only staged."""
        kept = self.desk.standing.targets
        return releases_of(kept.signed) if kept is not None and kept.current else {}

    def check(self, release: Release, *, replace: bool = False) -> bool:
        """Whether `release` is signed, or staged, as it is.

        Raises:
            InputError: another bundle is, under its name, version and profile, and not `replace`;
                or nothing can be signed now.
        """
        self.desk.check_clock()
        found = releases_of(self._targets()).get(release.file)
        if found is not None and found.manifest_sha256 == release.manifest.sha256:
            return True
        if found is not None and not replace:
            raise InputError(
                f"release {release.name}=={release.version} for {release.profile}: another bundle "
                "is signed under this name, version and profile (manifest "
                f"{found.manifest_sha256[:12]}…, this one is {release.manifest.sha256[:12]}…); "
                "raise the version, or use --force"
            )
        self.desk.check_amend("targets")
        return False

    def add(self, releases: Iterable[Release], *, replace: bool = False) -> bool:
        """Sign releases whose chunks and release files are in the tree.

        Returns:
            False where all of them were signed or staged already.

        Raises:
            InputError: as `check`; or the metadata grows too large for brokers.
            TransferError: a signer failed.
        """
        new = [release for release in releases if not self.check(release, replace=replace)]
        if not new:
            return False
        targets = self._targets()
        for release in new:
            targets.targets[release.file] = target_of(release)
        self.desk.draft("targets", targets)
        return True

    def remove(self, name: str, version: str, profile: str | None = None) -> tuple[Signed, ...]:
        """Take a release out, for one profile or for all of them.

        Returns:
            What is no longer named; nothing where nothing was.

        Raises:
            InputError: nothing can be signed now.
            TransferError: a signer failed.
        """
        targets = self._targets()
        gone = tuple(
            found
            for found in releases_of(targets).values()
            if (found.name, found.version) == (name, version) and profile in (None, found.profile)
        )
        if gone:
            for found in gone:
                del targets.targets[found.file]
            self.desk.draft("targets", targets)
        return gone

    def _targets(self) -> Targets:
        """A copy to change: of what is staged, else of what is published."""
        draft, kept = self.desk.standing.drafts.get("targets"), self.desk.standing.targets
        if draft is not None and isinstance(draft.signed, Targets):
            return fresh(draft.signed)
        if kept is None:
            raise InputError(
                f"{self.desk.home.folder}: signs no releases yet, because its first metadata lacks "
                "signatures; have the holders of the other keys run `edge-fleet sign`"
            )
        return fresh(kept.signed)

    # Keys.

    def rotate(self, role: str, change: Rotation, *, force: bool = False) -> None:
        """Change who signs for `role`, in a new root.

        With nothing said, each key of the role whose file is here is replaced by a new one.

        Args:
            force: believe this machine's clock, whatever time was signed before.

        Raises:
            InputError: the clock is behind; nothing to replace here; a threshold that the keys
                cannot meet; or no key of root can be opened here.
            TransferError: a signer failed.
        """
        # What the role's old keys vouched for ends with them, a time far ahead as well.
        leave_out = ROLES if force else (role,)
        self.desk.check_clock(leave_out)
        self.desk.check_amend("root")
        ring, root = self.desk.ring, self._root()
        ring.check(role_keys(self.desk.standing, "root").values())
        keyids = list(root.roles[role].keyids)
        remove = [matching(start, keyids) for start in change.remove]
        new = change.new
        if change == Rotation():
            remove = [id for id in keyids if scheme(ring.uri(id)) == FILE and ring.is_here(id)]
            new = len(remove)
            if not remove:
                raise InputError(
                    f"role {role}: none of its keys is a file here; say which with --remove, and "
                    "--keys or --add"
                )
        wanted = root.roles[role].threshold if change.threshold is None else change.threshold
        count = len(set(keyids) - set(remove)) + len(change.add) + new
        check_threshold(role, wanted, count)
        add = [read_word(w, self.desk.home.folder, ring.passphrase()) for w in change.add]
        add += self._new_keys(role, new)
        for keyid in remove:
            root.revoke_key(keyid, role)
        for held in add:
            if held.key.keyid in root.roles[role].keyids:
                raise InputError(f"role {role}: has key {held.key.keyid[:SHORT]} already")
            root.add_key(held.key, role)
        root.roles[role].threshold = wanted
        self._keep_signers(role, add, wanted)
        self.desk.draft("root", root, leave_out)

    def _root(self) -> Root:
        """A copy to change: of what is staged, else of what is published."""
        draft, root = self.desk.standing.drafts.get("root"), self.root
        if draft is not None and isinstance(draft.signed, Root):
            return fresh(draft.signed)
        if root is None:
            raise InputError(f"{self.desk.home.metadata}: holds no root; bring it back")
        return fresh(root)

    def _new_keys(self, role: str, count: int) -> list[Held]:
        secret = None
        if count and role in OFFLINE_ROLES:
            secret = check_passphrase(self.desk.ring.passphrase())
        return [make_key(self.desk.home.keys, role, secret) for _ in range(count)]

    def _keep_signers(self, role: str, added: Sequence[Held], threshold: int) -> None:
        """Before anything is signed: a key that nobody finds again would be a lost one."""
        for held in added:
            self.desk.ring.add(held)
        roles = dict(self.desk.settings.roles)
        keys = {**roles[role].keys, **{held.key.keyid: held.uri for held in added}}
        roles[role] = RoleSettings(threshold, roles[role].expiry_days, keys)
        self.desk.set_roles(roles)

    # Signing.

    def sign(self) -> tuple[str, ...]:
        """Add the signatures of the keys here to everything that is staged.

        Returns:
            The roles that got one.

        Raises:
            InputError: nothing is staged, or no key that is asked for is here.
            TransferError: a signer failed.
        """
        self.desk.check_clock()
        drafts = self.desk.standing.drafts
        if not drafts:
            raise InputError(f"{self.desk.home.staged}: nothing waits for a signature")
        signed = tuple(role for role in ROLES if role in drafts and self.desk.vote(role))
        found = [self.desk.votes(role) for role in drafts]
        if not signed and not any(each.complete for each in found):
            wanted = dict.fromkeys(id[:SHORT] for each in found for id in each.unsigned)
            raise InputError(
                f"{self.desk.home.staged}: wants signatures of keys {', '.join(wanted)}, and none "
                "of them is here; say where one is with --sign-with"
            )
        return signed

    def merge(self, data: bytes, where: str) -> str:
        """Take over signatures that somebody made on a copy of something staged here.

        Returns:
            The role.

        Raises:
            InputError: no copy of it.
            DeviceError: the disk is full, read-only or failing.
        """
        for role, draft in self.desk.standing.drafts.items():
            try:
                other = parse(data, KINDS[role], where)  # type: ignore[type-var]
            except EdgeError:
                continue
            if other.signed == draft.signed:
                # A bad one takes the place of no good one, and is not counted.
                wanted = self.desk.votes(role).unsigned
                draft.signatures.update(
                    {id: one for id, one in other.signatures.items() if id in wanted}
                )
                self.desk.stage(role, draft)
                return role
        raise InputError(f"{where}: is no copy of anything in {self.desk.home.staged}")

    def refresh(self) -> None:
        """Renew what is about to expire, as far as its keys are here, and the timestamp anyway.

        Raises:
            InputError: the clock is behind, or a passphrase is wrong.
            TransferError: a signer failed.
            DeviceError: the disk is full, read-only or failing.
        """
        self.desk.check_clock()
        for role in OFFLINE_ROLES:
            current = self.desk.standing.of(role)
            if current is None or role in self.desk.standing.drafts:
                continue
            if self.desk.is_due(role, soon=True) and self._is_ready(role):
                self.desk.draft(role, _copy(current))
        self.settle(renew=True)

    def _is_ready(self, role: str) -> bool:
        return any(self.desk.ring.is_ready(id) for id in role_keys(self.desk.standing, role))

    def settle(self, *, renew: bool = False) -> None:
        """Bring the tree up to date: see `settle`."""
        settle.settle(self.desk, renew=renew)

    def outcome(self) -> Outcome:
        """The state of every role, and what this run did."""
        return report(self.desk)


def check_threshold(role: str, threshold: int, keys: int) -> None:
    """Raises InputError: so many keys cannot meet it, or are too many."""
    if not 1 <= threshold <= keys <= MAX_KEYS:
        raise InputError(
            f"role {role}: threshold {threshold} with {keys} keys, expected 1 <= threshold <= keys "
            f"<= {MAX_KEYS}"
        )


def _copy(metadata: AnyMetadata) -> SignedRole:
    if isinstance(metadata.signed, Root):
        return fresh(metadata.signed)
    if isinstance(metadata.signed, Targets):
        return fresh(metadata.signed)
    raise RuntimeError(f"{metadata.signed.type} is derived, not copied")
