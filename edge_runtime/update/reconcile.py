"""What is, compared with what is desired: the one event that brings them closer. Pure.

Called after every input, so that desired state works the same whatever happened in between: a
message repeated, an update refused, a rollback, a power cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from edge_runtime.messages.fleet import BundleRef, Desired, Refusal
from edge_runtime.update.lifecycle import (
    UNDER_WAY,
    Condemned,
    Event,
    Refused,
    State,
    TrialResumed,
    Unwanted,
    Wanted,
    Withdrawn,
)
from edge_runtime.update.record import Record

MAX_ATTEMPTS = 1000
"""By which one desired state may raise the attempt."""


def next_event(record: Record, *, lacking: bool = False) -> Event | None:
    """What must happen for `record` to become what it desires; None where nothing must.

    Args:
        lacking: the active bundle serves without files that this board's profile asks for: where
            it is the desired one, it is brought in once more.
    """
    if record.state is State.ACTIVATING:  # A swap is finished before anything else.
        return None
    event: Event | None = None
    if record.desired is not None and record.desired.release is None:
        if record.active or record.previous or record.candidate:
            event = Unwanted()
    elif record.desired is not None and record.desired.release is not None:
        event = _towards(record, record.desired.release.ref, lacking)
    if event is None and record.state is State.IDLE and record.active and not record.good:
        event = TrialResumed()
    return event


def _towards(record: Record, wanted: BundleRef, lacking: bool) -> Event | None:
    active = record.active.manifest_sha256 if record.active is not None else None
    if active == wanted.manifest_sha256 and not lacking:
        return Withdrawn() if record.state in UNDER_WAY else None
    refusal = standing_refusal(record)
    if refusal is not None:
        return Withdrawn(refusal.reason) if record.state in UNDER_WAY else None
    return None if record.candidate == wanted else Wanted(wanted)


def standing_refusal(record: Record) -> Refusal | None:
    """Why the desired bundle is not tried (again): refused at this attempt or a later one."""
    if record.desired is None or record.desired.release is None:
        return None
    wanted = record.desired.release.ref
    for refusal in record.refused:
        if refusal.is_of(wanted) and refusal.attempt >= record.attempt:
            return refusal
    return None


def too_far(record: Record, desired: Desired) -> str:
    """Why `desired` is not taken, if so: an attempt that no later one could exceed.

    Nobody signs attempts, and a bundle that is refused at the highest there is stays refused.
    """
    last = max((record.attempt, *(refusal.attempt for refusal in record.refused)))
    if desired.attempt <= last + MAX_ATTEMPTS:
        return ""
    return f"desired: attempt is {desired.attempt}, expected at most {last + MAX_ATTEMPTS}"


def without_lost_previous(
    record: Record, damage: Callable[[BundleRef], str | None]
) -> tuple[Record, str]:
    """`record` without a bundle to fall back on that is damaged, and what is to be said of it.

    Kept, it would be started when it is needed most, and its manifest could never be read for
    pruning: nothing would be freed again.
    """
    lost = damage(record.previous) if record.previous else None
    if record.previous is None or lost is None:
        return record, ""
    text = f"{record.previous.name} {record.previous.version}: {lost}"
    return dataclasses.replace(record, previous=None), text


def since_last_boot(
    record: Record, damage: Callable[[BundleRef], str | None], max_boots: int
) -> list[Event]:
    """What must be concluded from the journal before anything is started again.

    After `without_lost_previous`: a bundle is never given up for one that is damaged as well.

    Args:
        damage: says what keeps an installed bundle from being used, or None.
        max_boots: starts of the device that one bundle's self-test or trial may see.
    """
    lost = damage(record.active) if record.active else None
    if lost is not None:
        return [Condemned(lost, refuse=False)]
    if record.boots < max_boots:
        return []
    reason = f"the device restarted {record.boots + 1} times while it was tried"
    if record.state in (State.VERIFYING, State.TESTING, State.ACTIVATING):
        return [Refused(reason)]
    if record.state is State.TRIAL and record.previous is not None:
        return [Condemned(reason)]
    return []
