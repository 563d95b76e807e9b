"""The trial's verdict: what a bundle counted while it served, held to bounds. Pure.

A bundle on trial is held to the policy's bounds and to the bundle that it replaced, and given up
only where what comes back was better: a fault that the replaced bundle had as well is the board's,
or is what the update was meant to cure. Failed requests are judged whenever they are told. Speed
is judged by the p95 once the trial is over, for the first requests after a swap are the slowest;
before that only by the median, which no first request moves.

What the replaced bundle counted is known for as long as the agent runs. After a restart in the
trial the bounds stay, and only the comparison is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.messages.fleet import BundleRef
from edge_runtime.update.policy import Policy

READING = 1.05
"""A percentile comes out of a histogram's buckets and may be off by so much, either way."""
NOISE_MS = 20.0
"""A p95 that rose by less says more of the board's other work than of a small model."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a bundle's worker counted lately.

    `requests` are those that were the bundle's to answer: not what was asked wrongly, nor what
    was turned away because too many waited. `failed` of them it did not answer. The percentiles
    are of those that it did, without the time that they waited for others; None: there was none.
    """

    requests: int = 0
    failed: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None


class Trial:
    """Remembers what the active bundle and the one to fall back on counted last."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._counted: dict[str, Health] = {}
        self._told = ""

    def counted(self, active: BundleRef, previous: BundleRef | None, health: Health) -> None:
        """`active` has counted this; what others counted is forgotten, but for `previous`."""
        kept = previous.manifest_sha256 if previous else ""
        before = {kept: self._counted[kept]} if kept in self._counted else {}
        self._counted = before | {active.manifest_sha256: health}

    def fault(self, active: BundleRef, previous: BundleRef | None, *, over: bool) -> str | None:
        """Why `active` is to be given up, in a sentence with numbers; `over`: the trial ends."""
        health = self._counted.get(active.manifest_sha256, Health())
        before = self._counted.get(previous.manifest_sha256) if previous else None
        return judge(health, before or Health(), self._policy, over=over)

    def first_word(self, active: BundleRef) -> bool:
        """Whether this is the first thing said against `active`."""
        known, self._told = self._told, active.manifest_sha256
        return known != self._told


def judge(health: Health, before: Health, policy: Policy, *, over: bool) -> str | None:
    """What is wrong with `health`, in a sentence with numbers, or None.

    Args:
        before: of the bundle that was replaced; empty where it is not known.
        over: the trial is at its end, so that the p95 speaks for all of it.
    """
    return _failing(health, before, policy) or _slow(health, before, policy, over=over)


def _failing(health: Health, before: Health, policy: Policy) -> str | None:
    if health.requests < policy.trial_min_requests:
        return None
    if health.failed <= policy.trial_error_ratio * health.requests:
        return None
    if (
        before.requests >= policy.trial_min_requests
        and before.failed * health.requests >= health.failed * before.requests
    ):
        return None
    return (
        f"{health.failed} of {health.requests} requests failed, "
        f"at most {100 * policy.trial_error_ratio:g} % allowed"
    )


def _slow(health: Health, before: Health, policy: Policy, *, over: bool) -> str | None:
    answered = health.requests - health.failed
    took_ms = health.p95_ms if over else health.p50_ms
    if took_ms is None or answered < policy.trial_min_requests:
        return None
    what = f"the {'p95' if over else 'median'} of {answered} requests is {_ms(took_ms)}"
    before_ms = before.p95_ms
    if before_ms is None or before.requests - before.failed < policy.trial_min_requests:
        before_ms = None
    bound_ms = policy.trial_p95_ms
    if 0 < bound_ms < took_ms / READING and (before_ms is None or before_ms < took_ms):
        return f"{what}, a p95 of at most {_ms(bound_ms)} is allowed"
    if before_ms is None:
        return None
    allowed_ms = policy.trial_slowdown * before_ms
    if took_ms / READING > allowed_ms * READING and took_ms > before_ms + NOISE_MS:
        return (
            f"{what}, more than {policy.trial_slowdown:g} times the p95 of the bundle before it, "
            f"{_ms(before_ms)}"
        )
    return None


def _ms(value_ms: float) -> str:
    return f"{value_ms:.0f} ms" if value_ms >= 100 else f"{value_ms:.3g} ms"
