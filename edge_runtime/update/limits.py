"""How long a state may last, and what it means when it does. Pure."""

from __future__ import annotations

from edge_runtime.update.lifecycle import (
    Event,
    Refused,
    Retried,
    Stalled,
    State,
    TrialPassed,
)
from edge_runtime.update.policy import Policy, backoff_s


def lasts_s(state: State, policy: Policy, stalls: int, jitter: float) -> float | None:
    """Seconds that `state` may last from now, or None where only other events end it.

    Args:
        stalls: times in a row that the update stalled without a chunk coming in between.
        jitter: 0..1, drawn by the caller.
    """
    match state:
        case State.WAITING:
            return backoff_s(policy.wait_s, policy.wait_max_s, max(stalls - 1, 0), jitter)
        case State.AUTHENTICATING:
            return policy.authenticate_timeout_s
        case State.TESTING:
            return policy.test_timeout_s
        case State.ACTIVATING:
            return policy.activate_timeout_s
        case State.TRIAL:
            return policy.trial_s
        case _:
            return None


def over(state: State, policy: Policy) -> Event:
    """The event when `state` has lasted that long.

    Raises:
        RuntimeError: `state` has no limit.
    """
    match state:
        case State.WAITING:
            return Retried()
        case State.AUTHENTICATING:
            return Stalled(
                f"signed metadata was not followed within {policy.authenticate_timeout_s:g} s"
            )
        case State.TESTING:
            return Refused(f"self-test did not end within {policy.test_timeout_s:g} s")
        case State.ACTIVATING:
            return Refused(f"did not serve within {policy.activate_timeout_s:g} s")
        case State.TRIAL:
            return TrialPassed()
        case _:
            raise RuntimeError(f"{state.name} has no time limit")
