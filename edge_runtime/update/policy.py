"""The bounds of an update: how many, how long, how often. Data only; every unit is in its name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from edge_runtime.errors import InputError

BROKER_QUEUE = 1000
"""Messages that mosquitto keeps for one client before it drops silently (max_queued_messages)."""
OPTIONAL = frozenset({"trial_p95_ms"})
"""Bounds that 0 takes away."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Safe defaults for a small board on a poor network.

    A chunk that does not come within `chunk_timeout_s` is asked for again with twice the time, up
    to `chunk_timeout_max_s`; after `chunk_tries` the transfer has failed and the update waits
    `wait_s`, then twice that, up to `wait_max_s`. `max_starts` failures in a row of the active
    bundle, or `max_boots` starts of the device during one candidate's self-test or trial, end in
    the previous bundle. A release that the signed metadata does not vouch for is refused after
    `trust_tries`, each with the newest metadata. A worker that ran `stable_s` has its earlier
    failures forgiven.

    A bundle on trial is given up, too, once it was asked `trial_min_requests` times and failed
    more than `trial_error_ratio` (0..1, a share) of them, or once the p95 of its answers lies
    above `trial_p95_ms` (0: no such bound) or above `trial_slowdown` times what the bundle before
    it took. See `trial`.

    Raises:
        InputError: a bound is not positive or makes no sense, or the window reaches the broker's
            queue limit.
    """

    window: int = 16
    chunk_timeout_s: float = 10.0
    chunk_timeout_max_s: float = 120.0
    chunk_tries: int = 6
    wait_s: float = 30.0
    wait_max_s: float = 900.0
    authenticate_timeout_s: float = 300.0
    trust_tries: int = 3
    test_timeout_s: float = 600.0
    activate_timeout_s: float = 120.0
    trial_s: float = 60.0
    trial_min_requests: int = 20
    trial_error_ratio: float = 0.1
    trial_p95_ms: float = 0.0
    trial_slowdown: float = 3.0
    stable_s: float = 60.0
    max_starts: int = 3
    max_boots: int = 3
    restart_s: float = 1.0
    restart_max_s: float = 60.0
    report_s: float = 1.0
    disk_margin_bytes: int = 16 << 20
    max_refusals: int = 32

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (value > 0 or (value == 0 and field.name in OPTIONAL)):
                least = "0 or more" if field.name in OPTIONAL else "more than 0"
                raise InputError(f"update policy: {field.name} is {value}, expected {least}")
        if self.trial_error_ratio > 1:
            raise InputError(
                f"update policy: trial_error_ratio is {self.trial_error_ratio:g}, expected a share "
                "of at most 1"
            )
        if self.trial_slowdown < 1:
            raise InputError(
                f"update policy: trial_slowdown is {self.trial_slowdown:g}, expected at least 1: "
                "a bundle as fast as the one before it would be given up"
            )
        if self.window > BROKER_QUEUE // 4:
            raise InputError(
                f"update policy: window is {self.window} chunks, expected at most "
                f"{BROKER_QUEUE // 4}: a broker drops what does not fit its queue of {BROKER_QUEUE}"
            )
        if self.max_refusals > 64:
            raise InputError(
                f"update policy: max_refusals is {self.max_refusals}, a report carries at most 64"
            )


def backoff_s(first_s: float, max_s: float, tries: int, jitter: float) -> float:
    """Seconds to wait after `tries` failures (0 and more): doubling, bounded, then spread.

    Args:
        jitter: 0..1, drawn by the caller; spreads the answer over 75..125 % so that a fleet that
            failed together does not come back together.
    """
    doubled = first_s * 2.0 ** min(tries, 32)
    return min(doubled, max_s) * (0.75 + 0.5 * jitter)
