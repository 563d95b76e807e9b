"""One release to named devices: the desired state that each needs, and what came of it.

`plan` and `verdict` are pure; `deploy` and `follow` do what they say. A device's desired state is
read, raised by one revision and put back, so two operators at the same moment may overwrite each
other: the last one wins, and the device works towards that.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.errors import EdgeError
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.inventory import Device, read_inventory
from edge_runtime.messages.fleet import Desired, Refusal, Release, Reported


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
    """`reason` is the device's own for a refusal, and what it is busy with while waiting."""

    outcome: Outcome
    reason: str = ""


def plan(device: Device, release: Release, *, retry: bool = False) -> Plan:
    """The desired state that brings `release` to `device`.

    A `retry` raises the attempt above everything that the device has refused this bundle at.
    """
    digest = release.manifest.sha256
    current = device.desired
    same = current is not None and current.release == release
    attempt = current.attempt if current is not None and same else 0
    refusal = _refusal(device.reported, digest)
    if retry:
        attempt = max(attempt, refusal.attempt if refusal is not None else 0) + 1
    warnings = tuple(_warnings(device, release, attempt))
    if current is not None and same and attempt == current.attempt:
        return Plan(device, current, changed=False, warnings=warnings)
    # A desired state that was lost or is unreadable must not make the device's revision go back.
    seen = device.reported.revision if device.reported is not None else 0
    revision = max(current.revision if current is not None else 0, seen) + 1
    return Plan(device, Desired(revision, release, attempt), changed=True, warnings=warnings)


def _refusal(reported: Reported | None, digest: str) -> Refusal | None:
    refused = reported.refused if reported is not None else ()
    return next((r for r in refused if r.manifest_sha256 == digest), None)


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
    refusal = _refusal(reported, release.manifest.sha256)
    if refusal is not None and refusal.attempt >= attempt:
        yield f"has refused this bundle before ({refusal.reason}); --retry makes it try again"


def verdict(desired: Desired, reported: Reported | None) -> Verdict:
    """Where the device that says `reported` stands with `desired`."""
    if reported is None:
        return Verdict(Outcome.WAITING, "it has not reported anything")
    if reported.revision < desired.revision:
        return Verdict(Outcome.WAITING, "it has not seen its new desired state")
    wanted = desired.release.manifest.sha256 if desired.release is not None else None
    active = reported.active.manifest_sha256 if reported.active is not None else None
    if active == wanted:
        return Verdict(Outcome.SERVING)
    refusal = _refusal(reported, wanted) if wanted is not None else None
    if refusal is not None and refusal.attempt >= desired.attempt:
        return Verdict(Outcome.REFUSED, refusal.reason)
    return Verdict(Outcome.WAITING, _busy(reported))


def _busy(reported: Reported) -> str:
    words = reported.state.replace("_", " ")
    if reported.progress is not None:
        words += f", {reported.progress.chunks_held} of {reported.progress.chunks_needed} chunks"
    return f"{words} ({reported.reason})" if reported.reason else words


def deploy(
    connection: Connection, release: Release, devices: Sequence[str], *, retry: bool = False
) -> tuple[Plan, ...]:
    """Set the desired state of `devices`, in their order; what stands there already stays.

    Raises:
        InputError: not a device id; nothing was published.
        TransferError: the broker does not acknowledge, or forbids.
    """
    ids = dict.fromkeys(devices)
    plans = tuple(
        plan(device, release, retry=retry)
        for id in ids
        for device in read_inventory(connection, id)
    )
    for made in plans:
        if made.changed:
            topic = connection.topics.device(made.device.id, "desired")
            connection.send("desired", topic, made.desired.to_bytes())
    connection.settle()
    return plans


def follow(
    connection: Connection,
    plans: Sequence[Plan],
    wait_s: float,
    on_change: Callable[[str, Verdict], None] = lambda _device, _verdict: None,
) -> Mapping[str, Verdict]:
    """Listen until every device serves or refuses, at most `wait_s`; the verdicts by device.

    Raises:
        TransferError: the connection was lost for long.
    """
    wanted = {made.device.id: made.desired for made in plans}
    verdicts = {id: Verdict(Outcome.WAITING, "it has not reported anything") for id in wanted}
    connection.listen([connection.topics.device(id, "reported") for id in wanted])
    deadline_s = time.monotonic() + wait_s
    while any(v.outcome is Outcome.WAITING for v in verdicts.values()):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            break
        message = connection.receive(min(left_s, 1.0))
        place = connection.topics.device_of(message.topic) if message is not None else None
        if message is None or place is None or place[0] not in wanted or place[1] != "reported":
            continue
        try:
            found = verdict(wanted[place[0]], Reported.from_bytes(message.payload))
        except EdgeError as reason:
            found = Verdict(Outcome.WAITING, f"what it reports cannot be read: {reason}")
        if found != verdicts[place[0]]:
            verdicts[place[0]] = found
            on_change(place[0], found)
    return verdicts
