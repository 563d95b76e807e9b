"""Releases to named devices: the desired state that each needs, and what came of it.

`plan` and `verdict` are pure; `deploy` and `follow` do what they say. Which release a device gets,
of those that one version has for several profiles, is said in `choice`. A device's desired state is
read, raised by one revision and put back, so two operators at the same moment may overwrite each
other: the last one wins, and the device works towards that.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edge_runtime.errors import EdgeError, TransferError
from edge_runtime.fields import Json
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.inventory import Device, read_devices
from edge_runtime.messages.fleet import BundleRef, Desired, Online, Refusal, Release, Reported

MAX_REVISION = 2**53
"""As messages carry it."""


class Outcome(enum.Enum):
    """How far a device is with its desired state."""

    SERVING = "serving"
    REFUSED = "refused"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Plan:
    """`desired` for `device`; not `changed`: it stands there already and is not published."""

    device: Device
    desired: Desired
    changed: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is the device's own for a refusal, and what it is busy with while waiting.

    `reported` is what that was concluded from.
    """

    outcome: Outcome
    reason: str = ""
    reported: Reported | None = field(default=None, compare=False, repr=False)


def plan(device: Device, release: Release, *, retry: bool = False) -> Plan:
    """The desired state that brings `release` to `device`.

    A `retry` raises the attempt above everything that the device has refused this bundle at.
    """
    current = device.desired
    same = current is not None and current.release == release
    attempt = current.attempt if current is not None and same else 0
    refusal = refusal_of(device.reported.refused if device.reported else (), release.ref)
    if retry:
        attempt = max(attempt, refusal.attempt if refusal is not None else 0) + 1
    warnings = tuple(_warnings(device, release, attempt))
    if current is not None and same and attempt == current.attempt:
        return Plan(device, current, changed=False, warnings=warnings)
    # A desired state that was lost or is unreadable must not make the device's revision go back.
    seen = device.reported.revision if device.reported is not None else 0
    revision = next_revision(max(current.revision if current is not None else 0, seen))
    agent = current.agent if current is not None else None
    desired = Desired(revision, release, attempt, agent)
    return Plan(device, desired, changed=True, warnings=warnings)


def next_revision(revision: int) -> int:
    """The next one. After the highest there is, which somebody may have put there, the first."""
    return revision + 1 if revision < MAX_REVISION else 1


def refusal_of(refused: Sequence[Refusal], bundle: BundleRef) -> Refusal | None:
    """That of `bundle`, if there is one."""
    return next((r for r in refused if r.is_of(bundle)), None)


def _warnings(device: Device, release: Release, attempt: int) -> Iterable[str]:
    reported = device.reported
    if not device.known:
        yield "has never been on this broker; the desired state waits for it"
    elif device.online is False:
        yield "is offline; the desired state waits for it"
    if device.unreadable:
        yield f"says what cannot be read: {device.unreadable[0]}"
    if reported is not None and reported.profile not in ("", release.profile):
        yield f"has profile {reported.profile}, the bundle is made for {release.profile}"
    refusal = refusal_of(reported.refused if reported is not None else (), release.ref)
    if refusal is not None and refusal.attempt >= attempt:
        yield f"has refused this bundle before ({refusal.reason}); --retry makes it try again"


def verdict(desired: Desired, reported: Reported | None) -> Verdict:
    """Where the device that says `reported` stands with `desired`."""
    if reported is None:
        return Verdict(Outcome.WAITING, "it has not reported anything")
    if reported.revision < desired.revision:
        return Verdict(Outcome.WAITING, "it has not seen its new desired state")
    if serves(desired, reported):
        return Verdict(Outcome.SERVING, reported=reported)
    wanted = desired.release
    refusal = refusal_of(reported.refused, wanted.ref) if wanted is not None else None
    if refusal is not None and refusal.attempt >= desired.attempt:
        return Verdict(Outcome.REFUSED, refusal.reason, reported)
    return Verdict(Outcome.WAITING, _held_up(reported), reported)


def serves(desired: Desired, reported: Reported | None) -> bool:
    """Whether the bundle that `desired` names, or none, is the active one."""
    wanted = desired.release.manifest.sha256 if desired.release is not None else None
    active = reported.active if reported is not None else None
    return reported is not None and wanted == (active.manifest_sha256 if active else None)


def cost(made: Plan, found: Verdict) -> tuple[int, float]:
    """Bytes fetched and seconds taken for this rollout, by the device's own count.

    Zero where it served the bundle already; its figures are those of an earlier update then.
    """
    reported = found.reported
    if reported is None or serves(made.desired, made.device.reported):
        return 0, 0.0
    if found.outcome is Outcome.WAITING:
        return reported.progress.fetched_bytes if reported.progress is not None else 0, 0.0
    return reported.fetched_bytes, reported.update_s


def as_json(made: Plan, found: Verdict | None) -> dict[str, Json]:
    """A device's part of a rollout for scripts; nulls where nobody followed it."""
    fetched_bytes, update_s = cost(made, found) if found is not None else (None, None)
    return {
        "device": made.device.id,
        "profile": made.desired.release.profile if made.desired.release is not None else None,
        "revision": made.desired.revision,
        "attempt": made.desired.attempt,
        "changed": made.changed,
        "warnings": list(made.warnings),
        "outcome": found.outcome.value if found is not None else None,
        "reason": found.reason if found is not None else "",
        "fetched_bytes": fetched_bytes,
        "update_s": update_s,
    }


def busy(reported: Reported) -> str:
    """What the device is doing about its desired state, in its words."""
    words = reported.state.replace("_", " ")
    if reported.progress is not None:
        words += f", {reported.progress.chunks_held} of {reported.progress.chunks_needed} chunks"
    return f"{words} ({reported.reason})" if reported.reason else words


def _held_up(reported: Reported) -> str:
    """The same beside the word "waiting", which need not be said twice."""
    words = busy(reported).removeprefix("waiting").removeprefix(",").strip()
    return reported.reason if words == f"({reported.reason})" else words


def deploy(connection: Connection, plans: Iterable[Plan]) -> None:
    """Set the desired states as planned; what stands there already stays.

    Raises:
        TransferError: the broker does not acknowledge, forbids, or does not keep it.
    """
    changed = {made.device.id: made.desired for made in plans if made.changed}
    for id, desired in changed.items():
        connection.send("desired", connection.topics.device(id, "desired"), desired.to_bytes())
    connection.settle()
    # An MQTT 3.1.1 broker acknowledges also what it forbids.
    for device in read_devices(connection, list(changed)):
        kept, desired = device.desired, changed[device.id]
        if kept is None or (kept.revision <= desired.revision and kept != desired):
            raise TransferError(
                f"device {device.id}: broker {connection.address} acknowledged its desired state "
                "but does not keep it; does this user have the right to deploy?"
            )


def follow(
    connection: Connection,
    plans: Sequence[Plan],
    wait_s: float,
    on_change: Callable[[str, Verdict], None] = lambda _device, _verdict: None,
    judge: Callable[[Desired, Reported | None], Verdict] = verdict,
) -> Mapping[str, Verdict]:
    """Listen until every device serves or refuses, at most `wait_s`; the verdicts by device.

    Args:
        judge: says where a device stands.

    Raises:
        TransferError: the connection was lost for long.
    """
    topics = connection.topics
    wanted = {made.device.id: made.desired for made in plans}
    verdicts = {id: judge(desired, None) for id, desired in wanted.items()}
    offline: set[str] = set()
    connection.listen([topics.device(id, what) for id in wanted for what in ("online", "reported")])
    deadline_s = time.monotonic() + wait_s
    while any(v.outcome is Outcome.WAITING for v in verdicts.values()):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            break
        message = connection.receive(min(left_s, 1.0))
        device, what = topics.device_of(message.topic) or ("", "") if message else ("", "")
        if message is None or device not in wanted or not message.payload:
            continue
        if what == "online":
            said_offline = _says_offline(message.payload)
            offline = offline | {device} if said_offline else offline - {device}
            continue
        try:
            found = judge(wanted[device], Reported.from_bytes(message.payload))
        except EdgeError as reason:
            found = Verdict(Outcome.WAITING, f"what it reports cannot be read: {reason}")
        if found != verdicts[device]:
            verdicts[device] = found
            on_change(device, found)
    return {
        id: replace(found, reason=f"it is offline; {found.reason}")
        if id in offline and found.outcome is Outcome.WAITING
        else found
        for id, found in verdicts.items()
    }


def _says_offline(payload: bytes) -> bool:
    try:
        return not Online.from_bytes(payload).online
    except EdgeError:
        return False
