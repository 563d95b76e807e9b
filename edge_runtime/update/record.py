"""The record: everything that an update must remember over a power cut, and how events change it.

Pure. `advance` is the lifecycle's table and the record's change in one: what it returns is to be
journaled before any of the returned actions is performed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from edge_runtime.messages.fleet import BundleRef, Desired, Progress, Refusal
from edge_runtime.update.lifecycle import (
    Action,
    Activated,
    ChunksHeld,
    Condemned,
    Crashed,
    Event,
    Refused,
    Stalled,
    State,
    TrialPassed,
    Unwanted,
    Wanted,
    Withdrawn,
    step,
)

MAX_REASON = 512


@dataclass(frozen=True, slots=True)
class Record:
    """What the journal holds.

    `good` says that `active` outlived its trial. `local` says that `desired` was made from a file
    given to this device, not by its operator. `boots` counts starts of the device during the
    self-test and trial of one candidate. `fetched_bytes` and `update_s` are of the last update.
    """

    state: State = State.IDLE
    desired: Desired | None = None
    local: bool = False
    active: BundleRef | None = None
    previous: BundleRef | None = None
    candidate: BundleRef | None = None
    good: bool = True
    refused: tuple[Refusal, ...] = ()
    boots: int = 0
    fetched_bytes: int = 0
    update_s: float = 0.0
    reason: str = ""

    @property
    def attempt(self) -> int:
        """The attempt that the desired state allows."""
        return self.desired.attempt if self.desired else 0


@dataclass(frozen=True, slots=True)
class Status:
    """The part of `reported` that updating answers for. `state` is a `State`'s value.

    `trust` is what a bundle is held to here: "tuf", or "none" for nothing but its digest.
    """

    revision: int
    state: str
    active: BundleRef | None
    previous: BundleRef | None
    refused: tuple[Refusal, ...]
    progress: Progress | None
    fetched_bytes: int
    update_s: float
    reason: str
    trust: str


def advance(record: Record, event: Event, max_refusals: int) -> tuple[Record, tuple[Action, ...]]:
    """The record after `event`, and the actions to perform once it is on disk.

    Raises:
        RuntimeError: `event` cannot happen in the record's state.
    """
    state, actions = step(record.state, event)
    changed = dataclasses.replace(_after(record, event), state=state)
    return dataclasses.replace(changed, refused=changed.refused[-max_refusals:]), actions


def _after(r: Record, event: Event) -> Record:
    match event:
        case Wanted(candidate):
            return dataclasses.replace(
                r, candidate=candidate, boots=0, fetched_bytes=0, update_s=0.0, reason=""
            )
        case Unwanted():
            return dataclasses.replace(
                r, active=None, previous=None, candidate=None, good=True, reason=""
            )
        case Withdrawn(reason):
            return dataclasses.replace(r, candidate=None, reason=_cut(reason))
        case ChunksHeld(fetched_bytes):
            return dataclasses.replace(r, fetched_bytes=fetched_bytes)
        case Refused(reason):
            return dataclasses.replace(
                r, candidate=None, refused=_refuse(r, r.candidate, reason), reason=_cut(reason)
            )
        case Stalled(reason) | Crashed(reason):
            return dataclasses.replace(r, reason=_cut(reason))
        case Activated(update_s):
            return _promote(r, update_s)
        case TrialPassed():
            return dataclasses.replace(r, good=True, boots=0)
        case Condemned(reason, refuse):
            return dataclasses.replace(
                r,
                active=r.previous,
                previous=None,
                good=True,
                refused=_refuse(r, r.active, reason) if refuse else r.refused,
                reason=_cut(reason),
            )
        case _:
            return r


def _promote(r: Record, update_s: float) -> Record:
    """Candidate to active. Only a bundle that proved itself is kept to fall back on."""
    if r.candidate is None:
        raise RuntimeError("a bundle was activated that is no candidate")
    digest = r.candidate.manifest_sha256
    again = r.active is not None and r.active.manifest_sha256 == digest
    previous = r.active if r.good and not again else r.previous
    return dataclasses.replace(
        r,
        active=r.candidate,
        previous=None if previous == r.candidate else previous,
        candidate=None,
        good=False,
        boots=0,
        refused=tuple(refusal for refusal in r.refused if refusal.manifest_sha256 != digest),
        update_s=update_s,
        reason="",
    )


def _refuse(r: Record, bundle: BundleRef | None, reason: str) -> tuple[Refusal, ...]:
    """The refusals with `bundle` added, the latest last. Its attempt is the one just made."""
    if bundle is None:
        return r.refused
    digest = bundle.manifest_sha256
    release = r.desired.release if r.desired else None
    desired = release is not None and release.manifest.sha256 == digest
    others = tuple(refusal for refusal in r.refused if not refusal.is_of(bundle))
    attempt = r.attempt if desired else 0
    return (*others, Refusal(digest, attempt, _cut(reason), bundle.name, bundle.version))


def _cut(reason: str) -> str:
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…"
