"""The update lifecycle as one pure table: (state, event) to (state, actions).

The driver journals the new state and then acts; every action may run twice, so a power cut is only
another start. The table knows no clock, disk or network: those arrive as events. An event that
carries a `reason` says it in a sentence for people. Where one action can bring about the next
event (a fetch that finds everything held), it stands last in its row.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from edge_runtime.messages.fleet import BundleRef


class State(enum.Enum):
    """What the device is doing about its desired state. The active bundle serves in all of them."""

    IDLE = "idle"
    AUTHENTICATING = "authenticating"
    FETCHING_MANIFEST = "fetching_manifest"
    FETCHING = "fetching"
    WAITING = "waiting"
    VERIFYING = "verifying"
    TESTING = "testing"
    ACTIVATING = "activating"
    TRIAL = "trial"


class Action(enum.Enum):
    """What the driver does after the new state is on disk. Each may be repeated."""

    AUTHENTICATE = "ask who signed it"
    STOP_AUTHENTICATE = "stop asking"
    FETCH_MANIFEST = "fetch the manifest"
    FETCH = "fetch missing chunks"
    STOP_FETCH = "stop fetching"
    VERIFY = "verify"
    START_CANDIDATE = "start the candidate"
    STOP_CANDIDATE = "stop the candidate"
    ACTIVATE = "swap"
    START_ACTIVE = "start the active"
    RESTART_ACTIVE = "restart the active later"
    STOP_ACTIVE = "stop the active"
    PRUNE = "prune"


@dataclass(frozen=True, slots=True)
class Booted:
    """The driver has just started; nothing runs yet."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The desired state names a bundle that is neither active, nor under way, nor refused.

    Or it is active and lacks files that the profile asks for now: then it is brought in again.
    """

    candidate: BundleRef


@dataclass(frozen=True, slots=True)
class Unwanted:
    """The desired state names no bundle."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What is under way is not desired any more: the active bundle is, or a refused one."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The candidate is what the fleet's key holders signed, or nobody is asked (trust "none")."""


@dataclass(frozen=True, slots=True)
class ManifestHeld:
    """The candidate's manifest is on disk."""


@dataclass(frozen=True, slots=True)
class ChunksHeld:
    """Every chunk of the candidate is on disk; `fetched_bytes` of payload came for it."""

    fetched_bytes: int


@dataclass(frozen=True, slots=True)
class Verified:
    """Every file of the candidate has the digest that its manifest names."""


@dataclass(frozen=True, slots=True)
class Passed:
    """The candidate passed its self-test and can serve."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The candidate is not to be believed, not for this device, or failed its self-test."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stalled:
    """Network or disk stand in the way; to be tried again later."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retried:
    """The wait after a stall is over."""


@dataclass(frozen=True, slots=True)
class Activated:
    """The candidate serves. `update_s` passed since it was wanted."""

    update_s: float


@dataclass(frozen=True, slots=True)
class TrialPassed:
    """The active bundle served its trial period without a failure: it is marked good."""


@dataclass(frozen=True, slots=True)
class TrialResumed:
    """An update that interrupted the trial of the active bundle is over."""


@dataclass(frozen=True, slots=True)
class Crashed:
    """The active bundle's worker failed and is worth another start."""

    reason: str


@dataclass(frozen=True, slots=True)
class Condemned:
    """The active bundle is given up for the previous one.

    `refuse` False: not its own fault (its chunks were lost on this disk), so it may be fetched
    again.
    """

    reason: str
    refuse: bool = True


Event: TypeAlias = (
    Booted | Wanted | Unwanted | Withdrawn | Authenticated | ManifestHeld | ChunksHeld | Verified
    | Passed | Refused | Stalled | Retried | Activated | TrialPassed | TrialResumed | Crashed
    | Condemned
)  # fmt: skip

_S, _A = State, Action

# fmt: off
TABLE: dict[tuple[State, type[Event]], tuple[State, tuple[Action, ...]]] = {
    # The way forward.
    (_S.IDLE, Wanted):                      (_S.AUTHENTICATING, (_A.AUTHENTICATE,)),
    (_S.AUTHENTICATING, Authenticated):     (_S.FETCHING_MANIFEST, (_A.FETCH_MANIFEST,)),
    (_S.FETCHING_MANIFEST, ManifestHeld):   (_S.FETCHING, (_A.FETCH,)),
    (_S.FETCHING, ChunksHeld):              (_S.VERIFYING, (_A.VERIFY,)),
    (_S.VERIFYING, Verified):               (_S.TESTING, (_A.START_CANDIDATE,)),
    (_S.TESTING, Passed):                   (_S.ACTIVATING, (_A.ACTIVATE,)),
    (_S.ACTIVATING, Activated):             (_S.TRIAL, ()),
    (_S.TRIAL, TrialPassed):                (_S.IDLE, (_A.PRUNE,)),
    (_S.IDLE, TrialResumed):                (_S.TRIAL, ()),

    # The candidate is no good. The old bundle never stopped serving.
    (_S.AUTHENTICATING, Refused):           (_S.IDLE, (_A.PRUNE,)),
    (_S.FETCHING_MANIFEST, Refused):        (_S.IDLE, (_A.STOP_FETCH,)),
    (_S.FETCHING, Refused):                 (_S.IDLE, (_A.STOP_FETCH,)),
    (_S.VERIFYING, Refused):                (_S.IDLE, ()),
    (_S.TESTING, Refused):                  (_S.IDLE, (_A.STOP_CANDIDATE,)),
    (_S.ACTIVATING, Refused):               (_S.IDLE, (_A.STOP_CANDIDATE, _A.START_ACTIVE)),

    # Network or disk stand in the way.
    (_S.AUTHENTICATING, Stalled):           (_S.WAITING, (_A.STOP_AUTHENTICATE,)),
    (_S.FETCHING_MANIFEST, Stalled):        (_S.WAITING, (_A.STOP_FETCH,)),
    (_S.FETCHING, Stalled):                 (_S.WAITING, (_A.STOP_FETCH,)),
    (_S.VERIFYING, Stalled):                (_S.WAITING, ()),
    (_S.WAITING, Retried):                  (_S.AUTHENTICATING, (_A.AUTHENTICATE,)),

    # Another bundle is desired while one is under way. A swap is finished first.
    (_S.AUTHENTICATING, Wanted):
        (_S.AUTHENTICATING, (_A.STOP_AUTHENTICATE, _A.AUTHENTICATE)),
    (_S.FETCHING_MANIFEST, Wanted):         (_S.AUTHENTICATING, (_A.STOP_FETCH, _A.AUTHENTICATE)),
    (_S.FETCHING, Wanted):                  (_S.AUTHENTICATING, (_A.STOP_FETCH, _A.AUTHENTICATE)),
    (_S.WAITING, Wanted):                   (_S.AUTHENTICATING, (_A.AUTHENTICATE,)),
    (_S.TESTING, Wanted):
        (_S.AUTHENTICATING, (_A.STOP_CANDIDATE, _A.AUTHENTICATE)),
    (_S.TRIAL, Wanted):                     (_S.AUTHENTICATING, (_A.AUTHENTICATE,)),

    # What is under way is not desired any more.
    (_S.AUTHENTICATING, Withdrawn):         (_S.IDLE, (_A.STOP_AUTHENTICATE,)),
    (_S.FETCHING_MANIFEST, Withdrawn):      (_S.IDLE, (_A.STOP_FETCH,)),
    (_S.FETCHING, Withdrawn):               (_S.IDLE, (_A.STOP_FETCH,)),
    (_S.WAITING, Withdrawn):                (_S.IDLE, ()),
    (_S.TESTING, Withdrawn):                (_S.IDLE, (_A.STOP_CANDIDATE,)),

    # No bundle is desired.
    (_S.IDLE, Unwanted):                    (_S.IDLE, (_A.STOP_ACTIVE, _A.PRUNE)),
    (_S.AUTHENTICATING, Unwanted):
        (_S.IDLE, (_A.STOP_AUTHENTICATE, _A.STOP_ACTIVE, _A.PRUNE)),
    (_S.FETCHING_MANIFEST, Unwanted):       (_S.IDLE, (_A.STOP_FETCH, _A.STOP_ACTIVE, _A.PRUNE)),
    (_S.FETCHING, Unwanted):                (_S.IDLE, (_A.STOP_FETCH, _A.STOP_ACTIVE, _A.PRUNE)),
    (_S.WAITING, Unwanted):                 (_S.IDLE, (_A.STOP_ACTIVE, _A.PRUNE)),
    (_S.TESTING, Unwanted):
        (_S.IDLE, (_A.STOP_CANDIDATE, _A.STOP_ACTIVE, _A.PRUNE)),
    (_S.TRIAL, Unwanted):                   (_S.IDLE, (_A.STOP_ACTIVE, _A.PRUNE)),

    # The active bundle fails and is worth another start.
    (_S.IDLE, Crashed):                     (_S.IDLE, (_A.RESTART_ACTIVE,)),
    (_S.AUTHENTICATING, Crashed):           (_S.AUTHENTICATING, (_A.RESTART_ACTIVE,)),
    (_S.FETCHING_MANIFEST, Crashed):        (_S.FETCHING_MANIFEST, (_A.RESTART_ACTIVE,)),
    (_S.FETCHING, Crashed):                 (_S.FETCHING, (_A.RESTART_ACTIVE,)),
    (_S.WAITING, Crashed):                  (_S.WAITING, (_A.RESTART_ACTIVE,)),
    (_S.TESTING, Crashed):                  (_S.TESTING, (_A.RESTART_ACTIVE,)),
    (_S.TRIAL, Crashed):                    (_S.TRIAL, (_A.RESTART_ACTIVE,)),

    # The active bundle is given up for the previous one.
    (_S.IDLE, Condemned):                   (_S.IDLE, (_A.START_ACTIVE,)),
    (_S.AUTHENTICATING, Condemned):         (_S.AUTHENTICATING, (_A.START_ACTIVE,)),
    (_S.FETCHING_MANIFEST, Condemned):      (_S.FETCHING_MANIFEST, (_A.START_ACTIVE,)),
    (_S.FETCHING, Condemned):               (_S.FETCHING, (_A.START_ACTIVE,)),
    (_S.WAITING, Condemned):                (_S.WAITING, (_A.START_ACTIVE,)),
    (_S.VERIFYING, Condemned):              (_S.VERIFYING, (_A.START_ACTIVE,)),
    (_S.TESTING, Condemned):                (_S.TESTING, (_A.START_ACTIVE,)),
    (_S.ACTIVATING, Condemned):             (_S.ACTIVATING, (_A.START_ACTIVE,)),
    (_S.TRIAL, Condemned):                  (_S.IDLE, (_A.START_ACTIVE,)),

    # A start of the device, after a power cut in any state. What was signed may since be revoked,
    # so what is still to be fetched is asked about again.
    (_S.IDLE, Booted):                      (_S.IDLE, (_A.START_ACTIVE, _A.PRUNE)),
    (_S.AUTHENTICATING, Booted):
        (_S.AUTHENTICATING, (_A.START_ACTIVE, _A.AUTHENTICATE)),
    (_S.FETCHING_MANIFEST, Booted):
        (_S.AUTHENTICATING, (_A.START_ACTIVE, _A.AUTHENTICATE)),
    (_S.FETCHING, Booted):
        (_S.AUTHENTICATING, (_A.START_ACTIVE, _A.AUTHENTICATE)),
    (_S.WAITING, Booted):                   (_S.WAITING, (_A.START_ACTIVE,)),
    (_S.VERIFYING, Booted):                 (_S.VERIFYING, (_A.START_ACTIVE, _A.VERIFY)),
    (_S.TESTING, Booted):                   (_S.VERIFYING, (_A.START_ACTIVE, _A.VERIFY)),
    (_S.ACTIVATING, Booted):                (_S.VERIFYING, (_A.START_ACTIVE, _A.VERIFY)),
    (_S.TRIAL, Booted):                     (_S.TRIAL, (_A.START_ACTIVE,)),
}
# fmt: on

UNDER_WAY = frozenset(
    {
        State.AUTHENTICATING,
        State.FETCHING_MANIFEST,
        State.FETCHING,
        State.WAITING,
        State.VERIFYING,
        State.TESTING,
    }
)
"""States in which a candidate is being brought in and may still be called off."""


def step(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """Next state and what to do about it.

    Raises:
        RuntimeError: `event` cannot happen in `state`.
    """
    try:
        return TABLE[state, type(event)]
    except KeyError:
        raise RuntimeError(f"{type(event).__name__} cannot happen in {state.name}") from None
