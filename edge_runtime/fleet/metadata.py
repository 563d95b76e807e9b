"""TUF metadata as values: read, stamped, counted, written. Nothing here touches a disk or a key.

Beside what TUF demands, each file says when it was signed, in `signed_at`: a device without a clock
learns the time from it, and an operator's machine notices that its own clock is behind.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TypeAlias, TypeVar

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError

from edge_runtime.bundle.files import sha256_hex
from edge_runtime.errors import InputError, UntrustedError
from edge_runtime.fields import Json
from edge_runtime.fleet.keys import SHORT, keyid_of
from edge_runtime.fleet.settings import ROLES
from edge_runtime.messages.fleet import Release

SIGNED_AT = "signed_at"
TIME = "%Y-%m-%dT%H:%M:%SZ"
MAX_BYTES: Mapping[str, int] = {
    "root": 128 << 10,
    "targets": 128 << 10,
    "snapshot": 128 << 10,
    "timestamp": 16 << 10,
}
"""No cloud broker carries more than 128 KiB in a message; of a timestamp no device reads more."""
MAX_RETIRE = 5
"""Releases named where there are too many."""

SignedRole: TypeAlias = "Root | Targets | Snapshot | Timestamp"
AnyMetadata: TypeAlias = (
    "Metadata[Root] | Metadata[Targets] | Metadata[Snapshot] | Metadata[Timestamp]"
)
R = TypeVar("R", Root, Targets, Snapshot, Timestamp)


def parse(data: bytes, kind: type[R], where: str) -> Metadata[R]:
    """Metadata of the role `kind`, not verified.

    Raises:
        UntrustedError: it is none.
    """
    try:
        found = Metadata[R].from_bytes(data)
    except DeserializationError as reason:
        why = str(reason.__cause__ or reason).partition("\n")[0][:200]
        raise UntrustedError(f"{where}: no metadata of TUF ({why})") from None
    if not isinstance(found.signed, kind):
        raise UntrustedError(f"{where}: holds {found.signed.type}, expected {kind.type}")
    try:
        _ = found.signed_bytes
    except SerializationError:  # A number with a fraction, say, in a field of somebody's own.
        raise UntrustedError(
            f"{where}: has no canonical form, so nobody can have signed it"
        ) from None
    return found


def to_bytes(role: str, metadata: AnyMetadata) -> bytes:
    """What is published and staged.

    Raises:
        InputError: larger than brokers carry; of targets it says what to retire.
    """
    try:
        data = metadata.to_bytes()
    except SerializationError as reason:
        raise RuntimeError(f"{role}: {reason}") from reason
    if len(data) > MAX_BYTES[role]:
        what = f"{role} version {metadata.signed.version}: {len(data)} bytes of metadata"
        why = f", at most {MAX_BYTES[role]} pass every broker"
        more = f"; {_retire(metadata.signed)}" if isinstance(metadata.signed, Targets) else ""
        raise InputError(what + why + more)
    return data


def stamp(signed: SignedRole, version: int, now: datetime, days: int) -> None:
    """Version, expiry and time of signing."""
    signed.version = version
    signed.expires = now + timedelta(days=days)
    signed.unrecognized_fields[SIGNED_AT] = now.strftime(TIME)


def signed_at(signed: SignedRole) -> datetime | None:
    """When it was signed; None: it does not say."""
    try:
        found = datetime.strptime(str(signed.unrecognized_fields.get(SIGNED_AT)), TIME)
    except ValueError:
        return None
    return found.replace(tzinfo=timezone.utc)


def show_time(time: datetime) -> str:
    """For people."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def digest(metadata: AnyMetadata) -> str:
    """Of what is signed, whoever has signed it so far: sha256 of its canonical JSON."""
    return sha256_hex(metadata.signed_bytes)


def meta_file(version: int, data: bytes) -> MetaFile:
    """How snapshot names targets, and timestamp snapshot: no byte of them may differ."""
    return MetaFile(version, len(data), {"sha256": sha256_hex(data)})


@dataclass(frozen=True, slots=True)
class Votes:
    """Whose signatures count, of those that are needed; for a root also by the root before it."""

    signed: tuple[str, ...]
    unsigned: tuple[str, ...]
    threshold: int
    missing: int

    @property
    def complete(self) -> bool:
        """Whether the threshold is met."""
        return self.missing == 0


def votes(role: str, metadata: AnyMetadata, root: Root, previous: Root | None = None) -> Votes:
    """The signatures of `metadata` that `root` counts, and `previous`, where there is one."""
    payload, signatures = metadata.signed_bytes, metadata.signatures
    found = root.get_verification_result(role, payload, signatures)
    signed, unsigned = dict(found.signed), dict(found.unsigned)
    missing = found.missing
    if previous is not None:
        before = previous.get_verification_result(role, payload, signatures)
        signed |= before.signed
        unsigned |= before.unsigned
        missing = max(missing, before.missing)
    return Votes(tuple(signed), tuple(unsigned), found.threshold, missing)


def keys_of(root: Root, role: str) -> dict[str, Key]:
    """The public keys of a role, by id."""
    return {keyid: root.keys[keyid] for keyid in root.roles[role].keyids if keyid in root.keys}


def check_keyids(root: Root, where: str) -> None:
    """Raises UntrustedError: a key goes by the id of another one."""
    for keyid, key in root.keys.items():
        if keyid != keyid_of(key):
            raise UntrustedError(f"{where}: a key goes by the id {keyid[:SHORT]} of another one")


def target_of(release: Release) -> TargetFile:
    """How targets names a release: its manifest, which covers every file."""
    custom = {
        "name": release.name,
        "version": release.version,
        "profile": release.profile,
        "size_bytes": release.size_bytes,
    }
    manifest = release.manifest
    return TargetFile(
        manifest.size_bytes, {"sha256": manifest.sha256}, release.file, {"custom": custom}
    )


@dataclass(frozen=True, slots=True)
class Signed:
    """A release as targets names it."""

    file: str
    name: str
    version: str
    profile: str
    size_bytes: int
    manifest_sha256: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version} for {self.profile}"

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        return {
            "name": self.name,
            "version": self.version,
            "profile": self.profile,
            "size_bytes": self.size_bytes,
            "manifest_sha256": self.manifest_sha256,
        }


def releases_of(targets: Targets) -> dict[str, Signed]:
    """What `targets` names, by release file."""
    return {file: _signed(file, target) for file, target in sorted(targets.targets.items())}


def _signed(file: str, target: TargetFile) -> Signed:
    custom = target.custom if isinstance(target.custom, Mapping) else {}
    size = custom.get("size_bytes")
    return Signed(
        file=file,
        name=str(custom.get("name", "")),
        version=str(custom.get("version", "")),
        profile=str(custom.get("profile", "")),
        size_bytes=size if isinstance(size, int) else 0,
        manifest_sha256=str(target.hashes.get("sha256", "")),
    )


def _retire(targets: Targets) -> str:
    """Which releases to take out: those that have newer ones, the oldest first."""
    releases = list(releases_of(targets).values())
    newest: dict[tuple[str, str], list[Signed]] = {}
    for release in sorted(releases, key=lambda r: _order(r.version)):
        newest.setdefault((release.name, release.profile), []).append(release)
    old = [release for several in newest.values() for release in several[:-1]]
    named = [f"{r.name}=={r.version} --profile {r.profile}" for r in old[:MAX_RETIRE] or releases]
    more = f" (and {len(old) - MAX_RETIRE} older ones more)" if len(old) > MAX_RETIRE else ""
    return f"retire releases with `edge-fleet revoke`, such as {', '.join(named)}{more}"


def _order(version: str) -> list[int]:
    numbers = version.partition("+")[0].partition("-")[0].split(".")
    return [int(number) if number.isdigit() else 0 for number in numbers]


def changes(draft: AnyMetadata, current: AnyMetadata | None) -> Iterator[str]:
    """What signing `draft` would change, a sentence for each thing."""
    new, old = draft.signed, current.signed if current is not None else None
    if isinstance(new, Targets):
        before = releases_of(old) if isinstance(old, Targets) else {}
        after = releases_of(new)
        for file, release in after.items():
            if file not in before:
                yield f"adds {release} (manifest {release.manifest_sha256[:12]})"
            elif before[file] != release:
                yield f"replaces {release} (manifest {release.manifest_sha256[:12]})"
        for file in before.keys() - after.keys():
            yield f"removes {before[file]}"
    elif isinstance(new, Root):
        yield from _root_changes(new, old if isinstance(old, Root) else None)


def _root_changes(new: Root, old: Root | None) -> Iterator[str]:
    for role in ROLES:
        keyids, threshold = new.roles[role].keyids, new.roles[role].threshold
        known = old.roles[role].keyids if old is not None else []
        for keyid in keyids:
            if keyid not in known:
                yield f"{role}: adds key {keyid[:SHORT]}"
        for keyid in known:
            if keyid not in keyids:
                yield f"{role}: removes key {keyid[:SHORT]}"
        was = old.roles[role].threshold if old is not None else threshold
        if threshold != was:
            yield f"{role}: threshold {threshold}, was {was}"


def fresh(signed: R) -> R:
    """A copy to change."""
    return copy.deepcopy(signed)


def unsigned(signed: SignedRole) -> AnyMetadata:
    """`signed` in its envelope, without signatures."""
    if isinstance(signed, Root):
        return Metadata[Root](signed)
    if isinstance(signed, Targets):
        return Metadata[Targets](signed)
    if isinstance(signed, Snapshot):
        return Metadata[Snapshot](signed)
    return Metadata[Timestamp](signed)
