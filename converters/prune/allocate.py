"""How much of each layer goes: the same share of all, or more where the output hardly notices.

For the second, each layer is pruned alone at a few ratios and the network's output compared with
the whole one's. Steps are then taken where they lose least, along the lower hull of each layer's
curve, so that a bad first step does not hide a good second one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

PROBED = (0.25, 0.5, 0.75, 0.9)
"""Ratios at which a layer's effect is measured."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What the output loses by how many parts of one layer go; points ascend from (0, 0)."""

    points: tuple[tuple[int, float], ...]

    def at(self, removed: int) -> float:
        """The loss on the lower hull; beyond the last point it rises as steeply as before it."""
        hull = _hull(self.points)
        if len(hull) < 2:
            return 0.0
        ends = [x for x, _ in hull[1:-1]]
        place = bisect_left(ends, removed)
        (x0, y0), (x1, y1) = hull[place : place + 2]
        return y0 + (y1 - y0) * (removed - x0) / (x1 - x0)


def _hull(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The lower convex hull of points whose first coordinate ascends."""
    hull: list[tuple[int, float]] = []
    for x, y in points:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return hull


def rounded(count: int, ratio: float, step: int) -> int:
    """How many of `count` stay at `ratio`: a multiple of `step`, never none; all where few."""
    if ratio <= 0 or count <= step:
        return count
    return min(count, max(step, round(count * (1 - ratio) / step) * step))


def uniform(counts: Sequence[int], ratio: float, step: int) -> list[int]:
    """How many stay in each layer if each loses the same share."""
    return [rounded(count, ratio, step) for count in counts]


def by_curves(counts: Sequence[int], curves: Sequence[Curve], ratio: float, step: int) -> list[int]:
    """How many stay in each layer if `ratio` of all parts go at the least predicted loss.

    The share is met to half a step; less goes where every layer is down to its last `step`.
    """
    keep = list(counts)
    target = ratio * sum(counts)
    while True:
        options = [
            (_slope(counts[i], keep[i], lower, curves[i]), i, lower)
            for i in range(len(keep))
            if (lower := _lower(keep[i], step)) < keep[i]
        ]
        if not options:
            return keep
        _, chosen, lower = min(options)
        gone = sum(counts) - sum(keep)
        if target - gone < (keep[chosen] - lower) / 2:
            return keep
        keep[chosen] = lower


def _lower(kept: int, step: int) -> int:
    """The next multiple of `step` below `kept`, never 0."""
    return kept if kept <= step else (kept - 1) // step * step


def _slope(count: int, kept: int, lower: int, curve: Curve) -> float:
    """Loss for each part that goes between `kept` and `lower`."""
    return (curve.at(count - lower) - curve.at(count - kept)) / (kept - lower)
