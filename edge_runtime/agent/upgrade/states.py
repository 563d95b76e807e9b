"""The helper's life as one pure table: (state, event) to (state, actions).

The shell journals the new state and then acts; every action may run twice, so a power cut is only
another start of the helper, which begins with `Booted`. The table knows no clock, no disk and no
service manager.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias


class State(enum.Enum):
    """What the helper is doing. In all of them the link names one whole tree, or the package's."""

    IDLE = "idle"
    STAGING = "staging"
    STAGED = "staged"
    FLIPPING = "flipping"
    TRIAL = "trial"
    GOING_BACK = "going_back"


class Action(enum.Enum):
    """What the shell does after the new state is on disk. Each may be repeated."""

    STAGE = "verify and unpack the candidate"
    FLIP = "make the candidate current, restart the agent"
    FLIP_BACK = "make current what was before, restart the agent"
    PRUNE = "remove trees that nobody needs"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A release that the agent asks for: its version, the digest of its manifest, the attempt."""

    version: str
    manifest_sha256: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Booted:
    """The helper has just started."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The agent asks for a candidate that is neither refused nor here."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Staged:
    """The candidate is signed, for this board, and its tree is whole."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The candidate is not to be believed, or not for this board."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stalled:
    """The disk, or metadata that is not to be had now, stands in the way: no candidate's fault."""

    reason: str


@dataclass(frozen=True, slots=True)
class Activated:
    """The agent asks for the staged candidate to be started in its place."""


@dataclass(frozen=True, slots=True)
class Flipped:
    """The link names what it should, and the agent was told to start anew."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The new agent says that it is healthy."""


@dataclass(frozen=True, slots=True)
class Condemned:
    """The new agent did not say so in time, or crashed, or the board restarted too often."""

    reason: str


Event: TypeAlias = (
    Booted | Asked | Staged | Refused | Stalled | Activated | Flipped | Confirmed | Condemned
)

_S, _A = State, Action

# fmt: off
TABLE: dict[tuple[State, type[Event]], tuple[State, tuple[Action, ...]]] = {
    # The way forward.
    (_S.IDLE, Asked):           (_S.STAGING, (_A.STAGE,)),
    (_S.STAGING, Staged):       (_S.STAGED, ()),
    (_S.STAGED, Activated):     (_S.FLIPPING, (_A.FLIP,)),
    (_S.FLIPPING, Flipped):     (_S.TRIAL, ()),
    (_S.TRIAL, Confirmed):      (_S.IDLE, (_A.PRUNE,)),

    # The candidate is no good, or cannot be had now. The old agent never stopped.
    (_S.STAGING, Refused):      (_S.IDLE, (_A.PRUNE,)),
    (_S.STAGING, Stalled):      (_S.IDLE, (_A.PRUNE,)),

    # Another one is wanted before this one was started.
    (_S.STAGED, Asked):         (_S.STAGING, (_A.STAGE,)),

    # The new agent is no good: back to what was before.
    (_S.TRIAL, Condemned):      (_S.GOING_BACK, (_A.FLIP_BACK,)),
    (_S.GOING_BACK, Flipped):   (_S.IDLE, (_A.PRUNE,)),

    # A start of the helper, after a power cut in any state.
    (_S.IDLE, Booted):          (_S.IDLE, (_A.PRUNE,)),
    (_S.STAGING, Booted):       (_S.STAGING, (_A.STAGE,)),
    (_S.STAGED, Booted):        (_S.STAGED, ()),
    (_S.FLIPPING, Booted):      (_S.FLIPPING, (_A.FLIP,)),
    (_S.TRIAL, Booted):         (_S.TRIAL, ()),
    (_S.GOING_BACK, Booted):    (_S.GOING_BACK, (_A.FLIP_BACK,)),
}
# fmt: on


def step(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """Next state and what to do about it.

    Raises:
        RuntimeError: `event` cannot happen in `state`.
    """
    try:
        return TABLE[state, type(event)]
    except KeyError:
        raise RuntimeError(f"{type(event).__name__} cannot happen in {state.name}") from None
