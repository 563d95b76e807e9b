"""Attacks on signed metadata, one row each: what the attacker does, and what must be said of it.

After the cases of the TUF project's conformance suite (github.com/theupdateframework/
tuf-conformance) and the attacks that the specification names, with ours for time. A row acts on a
`Scene`: an honest repository that a client has followed once. `tests/contract/test_trust_attacks`
runs each over every way that a device reads metadata.

`error` is what the client ends with, its sentence holds `says`; None: the attack changes nothing.
`stolen` rows have keys, so what they sign may be kept: they say in `recover` how the fleet gets
out of it, which is by new root metadata.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from securesystemslib.formats import encode_canonical

from edge_runtime.errors import EdgeError, MetadataError, TransferError
from edge_runtime.update.trust.client import (
    MAX_ROOT_BYTES,
    MAX_SNAPSHOT_BYTES,
    MAX_TARGETS_BYTES,
    MAX_TIMESTAMP_BYTES,
)
from tests.fakes.signed import (
    DAY_S,
    FakeReadings,
    SignedRepository,
    date,
    signed_bytes,
    signer,
    with_signature,
)

ROLES = ("root", "timestamp", "snapshot", "targets")
UNSIGNED = "not signed by enough of the keys"
STALE = "frozen or forgotten"
ROLLED = "rolled back or mixed"
MIXED = "mixed with other metadata"
EVE = signer("eve")


TEAM = "board-team"
"""A role that targets delegate to."""
TEAMS_TARGET = "boards-1.json"
LISTED = ("snapshot", "targets", TEAM)
"""Whose version, and digest, another role tells."""
VERSIONED = ("root", *LISTED)
VERSIONLESS = ("timestamp", *LISTED)
"""Who must be there."""


class Scene:
    """What an attack acts on. The client has followed `repo` before, unless the row is `fresh`.

    `asks` is a target that is looked up after each refresh; it must be found where all is well.
    """

    def __init__(self, repo: SignedRepository, readings: FakeReadings) -> None:
        self.repo = repo
        self.readings = readings
        self.asks: str | None = None
        self.patience_s = 15.0
        self.follow: Callable[[], object] = lambda: None
        """Have the client follow the repository as it is now; it must succeed."""

    def next(self, role: str) -> None:
        """The next honest version of `role`, and of what must speak of it, without digests: those
        would be what an attack on signatures or versions meets first.
        """
        self.repo.hashes = False
        self.repo.publish(*dict.fromkeys((role, *self._after[role])))

    _after: Mapping[str, tuple[str, ...]] = {
        "root": ("timestamp",),
        "timestamp": (),
        "snapshot": ("timestamp",),
        "targets": ("snapshot", "timestamp"),
        TEAM: ("snapshot", "timestamp"),
    }

    def ready(self, role: str) -> None:
        """Delegate to the team where the attack is on its metadata."""
        if role == TEAM and TEAM not in self.repo.roles:
            self.repo.delegate("targets", TEAM, ("boards-*",))
            self.repo.add(TEAMS_TARGET, b"{}", TEAM)
            self.repo.publish()
            self.asks = TEAMS_TARGET
            self.follow()

    def sign(self, role: str, change: Callable[[Any], None]) -> None:
        """Serve the newest version of `role` with `change` made, signed by those who should.

        The library would not make what some attacks want, so it only lends its canonical form.
        """
        signed = json.loads(self.repo.files[self.repo.file(role)])["signed"]
        change(signed)
        data = str(encode_canonical(signed)).encode()
        made = [one.sign(data).to_dict() for one in self.repo.signers[role]]
        self.repo.replace(role, json.dumps({"signed": signed, "signatures": made}).encode())

    def wait(self, seconds: float) -> None:
        """Time passes for everybody."""
        self.readings.wait(seconds)
        self.repo.now_s += seconds


Act = Callable[[Scene], None]


@dataclass(frozen=True)
class Attack:
    name: str
    do: Act
    error: type[EdgeError] | None = MetadataError
    says: str = ""
    stolen: bool = False
    fresh: bool = False
    recover: Act | None = None


def _each(name: str, do: Callable[[Scene, str], None], says: str, *roles: str) -> list[Attack]:
    """One row for each role, `{}` in the name."""

    def act(role: str) -> Act:
        def run(s: Scene) -> None:
            s.ready(role)
            do(s, role)

        return run

    return [Attack(name.format(role), act(role), says=says) for role in roles or (*ROLES, TEAM)]


# Signatures.


def without_signature(s: Scene, role: str) -> None:
    s.next(role)
    s.repo.replace(role, s.repo.again(role))


def signed_by_a_stranger(s: Scene, role: str) -> None:
    s.next(role)
    s.repo.replace(role, s.repo.again(role, EVE))


def signed_under_a_false_id(s: Scene, role: str) -> None:
    s.next(role)
    keyid = s.repo.signers[role][0].public_key.keyid
    s.repo.replace(role, with_signature(s.repo.again(role), keyid, EVE))


def changed_after_signing(s: Scene, role: str) -> None:
    """The new version is published, and somebody makes it last longer."""
    s.next(role)
    metadata = json.loads(s.repo.files[s.repo.file(role)])
    metadata["signed"]["expires"] = "2999-01-01T00:00:00Z"
    s.repo.replace(role, json.dumps(metadata).encode())


def _two_of_three(s: Scene, role: str) -> None:
    s.repo.rotate(role, role, f"{role}-b", f"{role}-c", threshold=2)
    s.repo.publish(*s.repo.all_roles)
    s.follow()
    s.next(role)


def below_its_threshold(s: Scene, role: str) -> None:
    _two_of_three(s, role)
    s.repo.replace(role, s.repo.again(role, s.repo.signers[role][0]))


def one_signature_twice(s: Scene, role: str) -> None:
    _two_of_three(s, role)
    metadata = json.loads(s.repo.again(role, s.repo.signers[role][0]))
    metadata["signatures"] *= 2
    s.repo.replace(role, json.dumps(metadata).encode())


def one_key_under_two_ids(s: Scene) -> None:
    """A root that wants two snapshot keys, and names one twice: whoever has it is both."""

    def change(signed: Any) -> None:
        role = signed["roles"]["snapshot"]
        (keyid,) = role["keyids"]
        signed["keys"]["00" * 32] = copy.deepcopy(signed["keys"][keyid])
        role.update(keyids=[keyid, "00" * 32], threshold=2)

    s.repo.publish("root")
    s.sign("root", change)


def one_key_under_two_ids_in_a_delegation(s: Scene) -> None:
    def change(signed: Any) -> None:
        (role,) = signed["delegations"]["roles"]
        (keyid,) = role["keyids"]
        key = copy.deepcopy(signed["delegations"]["keys"][keyid])
        key["keyval"]["public"] = key["keyval"]["public"].upper()
        signed["delegations"]["keys"]["00" * 32] = key
        role.update(keyids=[keyid, "00" * 32], threshold=2)

    s.ready(TEAM)
    s.next("targets")
    s.sign("targets", change)


def one_id_listed_twice(s: Scene) -> None:
    s.repo.publish("root")
    s.sign("root", lambda r: r["roles"]["snapshot"].update(keyids=r["roles"]["root"]["keyids"] * 2))


def threshold_of_none(s: Scene) -> None:
    s.repo.publish("root")
    s.sign("root", lambda r: r["roles"]["targets"].update(threshold=0))


# Root.


def root_skips_a_version(s: Scene) -> None:
    s.repo.publish("root", "root")
    s.repo.files["2.root.json"] = s.repo.files.pop("3.root.json")


def root_without_the_old_keys(s: Scene) -> None:
    s.repo.rotate("root", "root-2")
    s.repo.publish("root")
    s.repo.replace("root", s.repo.again("root", s.repo.signers["root"][0]))


def root_without_its_own_keys(s: Scene) -> None:
    s.repo.rotate("root", "root-2")
    s.repo.publish("root")
    s.repo.replace("root", s.repo.again("root", s.repo.signers["root"][1]))


def root_that_names_the_attacker(s: Scene) -> None:
    """The key of timestamps is stolen; with it, a root is made that trusts the thief in all."""
    thief = copy.deepcopy(s.repo.root)
    thief.version += 1
    for role in ROLES:
        thief.add_key(EVE.public_key, role)
    s.repo.files["2.root.json"] = signed_bytes(thief, [EVE, *s.repo.signers["timestamp"]])


def new_root_withheld(s: Scene) -> None:
    """Timestamps have a new key, and the root that says so is kept back."""
    s.repo.rotate("timestamp", "timestamp-2")
    s.next("root")
    del s.repo.files["2.root.json"]


def roots_withheld_from_who_has_them(s: Scene) -> None:
    s.next("root")
    s.follow()
    del s.repo.files["1.root.json"], s.repo.files["2.root.json"]


# Time.


def expired(s: Scene, role: str) -> None:
    s.repo.expiry_s[role] = s.repo.now_s - 1
    s.next(role)
    del s.repo.expiry_s[role]


def frozen(s: Scene) -> None:
    """Nothing new is shown, for longer than the last timestamp may stand for the present."""
    s.wait(8 * DAY_S)


def delegation_runs_out(s: Scene) -> None:
    """What the client holds of the team expires, and nothing newer is there."""
    s.repo.expiry_s[TEAM] = s.repo.now_s + DAY_S
    s.ready(TEAM)
    del s.repo.expiry_s[TEAM]
    s.wait(2 * DAY_S)


def root_on_the_way_expired(s: Scene) -> None:
    s.repo.expiry_s["root"] = s.repo.now_s - DAY_S
    s.repo.publish("root")
    del s.repo.expiry_s["root"]
    s.next("root")


def expired_copies_here(s: Scene) -> None:
    """A device comes back after months: all that it holds has expired, and news are there."""
    s.ready(TEAM)
    s.wait(100 * DAY_S)
    s.repo.publish()


def signed_far_ahead(s: Scene) -> None:
    """A thief of the timestamp key tells every device that it is 2099."""
    s.repo.publish("timestamp")
    s.repo.timestamp.unrecognized_fields["signed_at"] = "2099-01-01T00:00:00Z"
    s.repo.timestamp.expires = date(s.repo.now_s + 200 * 365 * DAY_S)
    s.repo.replace("timestamp", s.repo.again("timestamp", *s.repo.signers["timestamp"]))


# Versions and digests.


def another_version_inside(s: Scene, role: str) -> None:
    s.next(role)
    other = copy.deepcopy(s.repo.signed(role))
    other.version += 1
    s.repo.replace(role, signed_bytes(other, s.repo.signers[role]))


def other_bytes_of_the_same_length(s: Scene, role: str) -> None:
    """Correctly signed, in the right version, and not what the others speak of."""
    s.repo.publish()
    data = s.repo.files[s.repo.file(role)]
    turned = dict(reversed(json.loads(data).items()))
    s.repo.replace(role, json.dumps(turned, separators=(",", ":")).encode())


def more_bytes_than_announced(s: Scene, role: str) -> None:
    s.repo.publish()
    s.repo.replace(role, s.repo.files[s.repo.file(role)] + b" ")


# Back to what was.


def timestamp_replayed(s: Scene) -> None:
    old = s.repo.files["timestamp.json"]
    s.repo.publish()
    s.follow()
    s.repo.files["timestamp.json"] = old


def everything_replayed(s: Scene) -> None:
    """The whole repository as it was before the last release."""
    old = dict(s.repo.files)
    s.repo.publish()
    s.follow()
    s.repo.files = old


def another_timestamp_of_the_same_version(s: Scene) -> None:
    """With a stolen key; whoever has the honest one keeps it."""
    s.repo.timestamp.snapshot_meta.version = 100
    s.repo.replace("timestamp", s.repo.again("timestamp", *s.repo.signers["timestamp"]))


def snapshot_and_targets_of_no_timestamp(s: Scene) -> None:
    """Newer ones, which no timestamp speaks of."""
    meta = copy.deepcopy(s.repo.timestamp.snapshot_meta)
    s.repo.publish("targets", "snapshot")
    s.repo.timestamp.snapshot_meta = meta
    s.repo.publish("timestamp")


def snapshot_rolled_back(s: Scene) -> None:
    old = copy.deepcopy(s.repo.timestamp.snapshot_meta)
    s.repo.publish()
    s.follow()
    s.repo.timestamp.snapshot_meta = old
    s.repo.publish("timestamp")


def rolled_back_in_the_snapshot(s: Scene, role: str) -> None:
    old = copy.deepcopy(s.repo.snapshot.meta[f"{role}.json"])
    s.repo.publish()
    s.follow()
    s.repo.snapshot.meta[f"{role}.json"] = old
    s.repo.publish("snapshot", "timestamp")


def dropped_from_the_snapshot(s: Scene, role: str) -> None:
    """A snapshot that no longer speaks of a role: what it said would be gone unseen."""
    del s.repo.snapshot.meta[f"{role}.json"]
    s.repo.publish("snapshot", "timestamp")


def delegation_not_in_the_snapshot(s: Scene) -> None:
    """Delegated to, and not yet in any snapshot."""
    s.repo.delegate("targets", TEAM, ("boards-*",))
    s.repo.add(TEAMS_TARGET, b"{}", TEAM)
    s.repo.publish("targets", "snapshot", "timestamp")
    s.asks = TEAMS_TARGET


# Versions far ahead: whatever follows could never be newer.


def _far(s: Scene, role: str, *then: str) -> None:
    s.repo.signed(role).version = 2_000_000_000
    s.repo.publish(role, *then)
    s.follow()
    s.repo.signed(role).version = 1


def timestamp_far_ahead(s: Scene) -> None:
    _far(s, "timestamp")
    s.repo.publish("timestamp")


def snapshot_far_ahead(s: Scene) -> None:
    _far(s, "snapshot", "timestamp")
    s.repo.publish("snapshot", "timestamp")


def targets_far_ahead(s: Scene) -> None:
    _far(s, "targets", "snapshot", "timestamp")
    s.repo.publish()


def new_online_keys(s: Scene) -> None:
    """How a fleet gets out of it: root metadata that names other keys."""
    s.repo.rotate("timestamp", "timestamp-2")
    s.repo.rotate("snapshot", "snapshot-2")


# Revoked keys.


def signed_by_a_revoked_key(s: Scene, role: str) -> None:
    s.repo.rotate(role, f"{role}-2")
    s.repo.publish(*s.repo.all_roles)
    s.follow()
    s.next(role)
    s.repo.replace(role, s.repo.again(role, signer(f"fleet/{role}")))


# Size.

LIMITS = {
    "root": MAX_ROOT_BYTES,
    "timestamp": MAX_TIMESTAMP_BYTES,
    "snapshot": MAX_SNAPSHOT_BYTES,
}


def _pad(s: Scene, role: str) -> None:
    """Spaces are no part of what is signed."""
    size = LIMITS.get(role, MAX_TARGETS_BYTES) + 1
    s.repo.replace(role, s.repo.files[s.repo.file(role)].ljust(size))


def too_large(s: Scene, role: str) -> None:
    s.next(role)
    _pad(s, role)


def announced_too_large(s: Scene) -> None:
    """The thief of the timestamp key announces a snapshot that would fill a device's memory."""
    s.next("snapshot")
    s.repo.timestamp.snapshot_meta.length = 1 << 40
    s.repo.publish("timestamp")
    _pad(s, "snapshot")


# What is missing, what stands where it does not belong.


def missing(s: Scene, role: str) -> None:
    s.next(role)
    del s.repo.files[s.repo.file(role)]
    s.patience_s = 0.5


def another_roles_file(s: Scene, role: str) -> None:
    """Signed by the right key, in the right version, only of another kind."""
    s.next(role)
    other = copy.deepcopy(s.repo.signed("snapshot" if role == "timestamp" else "timestamp"))
    other.version = s.repo.signed(role).version
    s.repo.replace(role, signed_bytes(other, s.repo.signers[role]))


def old_file_under_the_new_name(s: Scene, role: str) -> None:
    old = s.repo.files[s.repo.file(role)]
    s.repo.publish()
    s.repo.replace(role, old)


def _other_fleet(s: Scene) -> SignedRepository:
    other = SignedRepository("other-fleet", now_s=s.repo.now_s)
    other.publish(*other.all_roles)
    return other


def targets_of_another_fleet(s: Scene) -> None:
    s.next("targets")
    s.repo.replace("targets", _other_fleet(s).files["2.targets.json"])


def another_fleets_repository(s: Scene) -> None:
    s.repo.files = _other_fleet(s).files


def another_fleets_files_behind_our_root(s: Scene) -> None:
    other = _other_fleet(s).files
    del other["2.root.json"]
    s.repo.files = {**other, "1.root.json": s.repo.files["1.root.json"]}


# JSON.

Spoil = Callable[[bytes], bytes]


def _change(name: str, value: object) -> Spoil:
    def spoil(data: bytes) -> bytes:
        metadata = json.loads(data)
        metadata["signed"][name] = value
        return json.dumps(metadata).encode()

    return spoil


def _also(text: bytes) -> Spoil:
    return lambda data: data[:-1] + b"," + text + b"}"


JSON = r"not valid JSON \("
SPOILS: dict[str, tuple[Spoil, str]] = {
    "cut in half": (lambda data: data[: len(data) // 2], JSON),
    "that is no JSON at all": (lambda _data: b"<html>Please log in</html>", JSON),
    "that is not UTF-8": (_also(b'"x":"\xff"'), JSON),
    "that is a list": (lambda data: b"[" + data + b"]", "malformed"),
    "that is an empty object": (lambda _data: b"{}", "malformed"),
    "nested without end": (_also(b'"x":' + b"[" * 5000 + b"]" * 5000), JSON + "nested deeper"),
    "with a key twice": (_also(b'"signed":{}'), JSON + "an object holds the same key twice"),
    "with NaN": (_also(b'"x":NaN'), JSON + "NaN"),
    "with an endless number": (_also(b'"x":' + b"9" * 5000), JSON + "an integer of 5000 digits"),
    "of another specification": (_change("spec_version", "2.0.0"), "malformed"),
    "in version zero": (_change("version", 0), "malformed"),
    "in a version that is a word": (_change("version", "two"), "malformed"),
    "that expires on no day": (_change("expires", "tomorrow"), "malformed"),
}


def _spoiled(spoil: Spoil) -> Callable[[Scene, str], None]:
    def do(s: Scene, role: str) -> None:
        s.next(role)
        s.repo.replace(role, spoil(s.repo.files[s.repo.file(role)]))

    return do


LARGE = "too large|has more than"

ATTACKS: tuple[Attack, ...] = (
    *_each("{} without a signature", without_signature, UNSIGNED),
    *_each("{} signed by a stranger", signed_by_a_stranger, UNSIGNED),
    *_each("{} signed by a stranger under a true key id", signed_under_a_false_id, UNSIGNED),
    *_each("{} changed after it was signed", changed_after_signing, UNSIGNED),
    *_each("{} below its threshold", below_its_threshold, UNSIGNED),
    *_each("{} with one signature twice", one_signature_twice, "malformed: Multiple signatures"),
    *_each("{} signed by a revoked key", signed_by_a_revoked_key, UNSIGNED),
    Attack("one key under two ids", one_key_under_two_ids, says="to be counted twice"),
    Attack(
        "one key under two ids in a delegation",
        one_key_under_two_ids_in_a_delegation,
        says="to be counted twice",
        stolen=True,
    ),
    Attack("one key id listed twice", one_id_listed_twice, says="malformed: Nonunique keyids"),
    Attack("threshold of none", threshold_of_none, says="malformed: threshold should be"),
    Attack("root skips a version", root_skips_a_version, says="Expected root version 2"),
    Attack("root not signed by the keys before", root_without_the_old_keys, says=UNSIGNED),
    Attack("root not signed by its own keys", root_without_its_own_keys, says=UNSIGNED),
    Attack("root that names the attacker", root_that_names_the_attacker, says=UNSIGNED),
    Attack("new root withheld", new_root_withheld, says=UNSIGNED),
    Attack("roots withheld from who has them", roots_withheld_from_who_has_them, None),
    *_each("{} expired", expired, STALE),
    Attack("nothing new for too long", frozen, says=STALE),
    Attack("nothing new for too long, at first sight", frozen, says=STALE, fresh=True),
    Attack("delegation runs out", delegation_runs_out, says=STALE),
    Attack("root on the way expired", root_on_the_way_expired, None),
    Attack("expired copies here, news there", expired_copies_here, None),
    Attack(
        "time signed far ahead",
        signed_far_ahead,
        says=STALE,
        stolen=True,
        recover=new_online_keys,
    ),
    *_each("{} in another version than its name", another_version_inside, ROLLED, *VERSIONED),
    *_each("{} with other bytes", other_bytes_of_the_same_length, MIXED, *LISTED),
    *_each("{} with more bytes than announced", more_bytes_than_announced, LARGE, *LISTED),
    Attack("timestamp replayed", timestamp_replayed, says=ROLLED),
    Attack("everything replayed", everything_replayed, says=ROLLED),
    Attack("another timestamp of the same version", another_timestamp_of_the_same_version, None),
    Attack("news that no timestamp speaks of", snapshot_and_targets_of_no_timestamp, None),
    Attack("snapshot rolled back", snapshot_rolled_back, says=ROLLED),
    *_each("{} rolled back in the snapshot", rolled_back_in_the_snapshot, ROLLED, "targets", TEAM),
    *_each(
        "{} dropped from the snapshot",
        dropped_from_the_snapshot,
        "at odds with the rest: New snapshot is missing info",
        "targets",
        TEAM,
    ),
    Attack(
        "delegation that is in no snapshot",
        delegation_not_in_the_snapshot,
        says="at odds with the rest: Role board-team was delegated",
    ),
    Attack(
        "timestamp far ahead",
        timestamp_far_ahead,
        says=ROLLED,
        stolen=True,
        recover=new_online_keys,
    ),
    Attack(
        "snapshot far ahead", snapshot_far_ahead, says=ROLLED, stolen=True, recover=new_online_keys
    ),
    Attack(
        "targets far ahead", targets_far_ahead, says=ROLLED, stolen=True, recover=new_online_keys
    ),
    *_each("{} larger than it may be", too_large, LARGE),
    Attack("size announced beyond the bounds", announced_too_large, says=LARGE),
    *(
        replace(row, error=TransferError)
        for row in _each("{} missing", missing, "not there|sent nothing", *VERSIONLESS)
    ),
    *_each("{} is another role's file", another_roles_file, "Expected '.*', got"),
    *_each("{}: an old file under the new name", old_file_under_the_new_name, MIXED, *LISTED),
    Attack("targets of another fleet", targets_of_another_fleet, says=UNSIGNED),
    Attack("another fleet's repository", another_fleets_repository, says=UNSIGNED),
    Attack(
        "another fleet's files behind our root",
        another_fleets_files_behind_our_root,
        says=UNSIGNED,
    ),
    *(
        row
        for kind, (spoil, says) in SPOILS.items()
        for row in _each(f"{{}} {kind}", _spoiled(spoil), says)
    ),
)
