"""Successive halving: who trains how long, decided before anything is trained. Pure.

All candidates train a little; the better part trains on, longer; the last one longest. Every rung
but the last costs the same, so a bad candidate is dropped for little; the last costs as much as all
before it, because it is the one whose result ships.

Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization", 2016, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KEEP = 3
"""One of so many goes on to the next rung."""
LAST_SHARE = 0.5
"""Of the time, for the last rung where there are several."""
MIN_STEPS = 60
"""Training steps below which a candidate shows nothing of what it can do."""


@dataclass(frozen=True, slots=True)
class Rung:
    """`keep` candidates train `steps` more steps each."""

    keep: int
    steps: int


def plan(candidates: int, step_s: Sequence[float], seconds: float) -> list[Rung]:
    """The rungs that fit in `seconds`.

    Args:
        candidates: how many there are, the most promising first.
        step_s: seconds of one training step of each.
        seconds: for all training together.

    Returns:
        Fewer candidates where time would not let each show something; none where it would not even
        for one.
    """
    for count in range(candidates, 0, -1):
        keeps = _keeps(count)
        rungs = [
            Rung(keep, int(seconds * share / sum(step_s[:keep])))
            for keep, share in zip(keeps, shares(len(keeps)), strict=True)
        ]
        if rungs[0].steps >= MIN_STEPS:
            return rungs
    return []


def shares(rungs: int) -> list[float]:
    """The share of the time that each rung gets."""
    if rungs == 1:
        return [1.0]
    return [*[(1 - LAST_SHARE) / (rungs - 1)] * (rungs - 1), LAST_SHARE]


def _keeps(count: int) -> list[int]:
    """How many take part in each rung: as 6, 2, 1."""
    keeps = [count]
    while keeps[-1] > 1:
        keeps.append(-(-keeps[-1] // KEEP))
    return keeps


def survivors(scores: Sequence[tuple[str, float]], keep: int) -> list[str]:
    """Names of the `keep` with the lowest loss, the best first; equal ones by name."""
    ranked = sorted(scores, key=lambda one: (one[1], one[0]))
    return [name for name, _ in ranked[:keep]]
