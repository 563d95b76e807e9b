"""Ranges of activations from a stream of tensors of any shape, in memory that does not grow.

An `Observer` keeps the extremes and a histogram of fixed size; when a value falls outside, bins are
merged in pairs and the histogram covers twice the range. So one pass over texts of different
lengths is enough, and nothing is stacked. Constants that only mask (about -3e38) are not counted:
a range that held them would leave every other value on one step.

Sources: Migacz, "8-bit inference with TensorRT", 2017 (entropy); Nagel et al., "A White Paper on
Neural Network Quantization", 2021, section 3.1 (the others).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

BINS = 4096
MASKED = 1e4
"""Of this magnitude or more: a mask, no activation."""
SHRINKS = np.geomspace(1.0, 0.3, 32)
"""Shares of the largest magnitude at which the searching calibrations try to clip.

Below, the few large activations that carry a transformer's answer would be lost.
"""


class Observer:
    """Extremes and histogram of all values seen; `BINS` counters, whatever comes.

    Without `histogram` only the calibration "minmax" can be asked for.
    """

    __slots__ = ("counts", "high", "histogram", "limit", "low")

    def __init__(self, *, histogram: bool = True) -> None:
        self.histogram = histogram
        self.low, self.high = np.inf, -np.inf
        self.limit = 0.0
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)

    def see(self, values: npt.NDArray[np.float32]) -> None:
        """Count `values`, any shape."""
        flat = values.ravel()
        flat = flat[np.abs(flat) < MASKED]
        if not flat.size:
            return
        self.low = min(self.low, float(flat.min()))
        self.high = max(self.high, float(flat.max()))
        if not self.histogram:
            return
        self._reach(max(-self.low, self.high))
        self.counts += np.histogram(flat, BINS, (-self.limit, self.limit))[0]

    def _reach(self, peak: float) -> None:
        """Widen the histogram until it holds `peak`, its middle staying at zero."""
        if not self.limit:
            self.limit = peak or 1e-6
        while peak > self.limit:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros_like(self.counts)
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = merged
            self.limit *= 2

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """The value in the middle of each bin."""
        width = 2 * self.limit / BINS
        return np.linspace(-self.limit, self.limit, BINS, endpoint=False) + width / 2


Range = tuple[float, float]


def minmax(seen: Observer, levels: int, percentile: float) -> Range:
    """Everything that was seen."""
    return seen.low, seen.high


def percentile(seen: Observer, levels: int, percentile: float) -> Range:
    """All but the outermost values: half of what `percentile` leaves goes at each end."""
    share = np.cumsum(seen.counts) / seen.counts.sum()
    outside = (1 - percentile / 100) / 2
    low, high = np.searchsorted(share, (outside, 1 - outside))
    centres = seen.centres
    return (
        max(seen.low, float(centres[low])),
        min(seen.high, float(centres[min(high, BINS - 1)])),
    )


def mse(seen: Observer, levels: int, percentile: float) -> Range:
    """Clipped where rounding and clipping together cost the least squared error."""
    return _best(seen, levels, _squared_error)


def entropy(seen: Observer, levels: int, percentile: float) -> Range:
    """Clipped where the distribution is kept best: least relative entropy."""
    return _best(seen, levels, _relative_entropy)


Cost = Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64], float, float, int], float]


def _best(seen: Observer, levels: int, cost: Cost) -> Range:
    used = np.flatnonzero(seen.counts)
    centres = seen.centres
    weights = seen.counts / seen.counts.sum()
    if cost is _squared_error:
        centres, weights = centres[used], weights[used]
    peak = max(-seen.low, seen.high)
    ranges = [(max(seen.low, -peak * s), min(seen.high, peak * s)) for s in SHRINKS]
    costs = [cost(centres, weights, low, high, levels) for low, high in ranges]
    return ranges[int(np.argmin(costs))]


def _squared_error(
    centres: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    low: float,
    high: float,
    levels: int,
) -> float:
    scale, zero_point = affine(low, high, levels)
    q = np.clip(np.rint(centres / scale) + zero_point, 0, levels - 1)
    return float((weights * ((q - zero_point) * scale - centres) ** 2).sum())


def _relative_entropy(
    centres: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    low: float,
    high: float,
    levels: int,
) -> float:
    """KL between the clipped histogram and the same histogram on `levels` steps."""
    inside = (centres >= low) & (centres <= high)
    kept = weights[inside].copy()
    if not kept.size:
        return float("inf")
    kept[0] += weights[centres < low].sum()
    kept[-1] += weights[centres > high].sum()
    source = weights[inside]
    step = np.minimum((np.arange(kept.size) * levels) // kept.size, levels - 1)
    present = source > 0
    sums = np.bincount(step, source, levels)
    used = np.bincount(step, present, levels)
    spread = np.where(present, (sums / np.maximum(used, 1))[step], 0.0)
    spread = spread / max(spread.sum(), 1e-30)
    filled = kept > 0
    return float((kept[filled] * np.log(kept[filled] / np.maximum(spread[filled], 1e-9))).sum())


RANGES: Mapping[str, Callable[[Observer, int, float], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
"""Calibration → (observer, levels of the grid, percentile) → low and high."""


def affine(low: float, high: float, levels: int) -> tuple[float, int]:
    """Scale and zero point, 0..levels - 1, of a grid that reaches from low to high and holds 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / (levels - 1), 1e-12)
    return scale, int(np.clip(np.rint(-low / scale), 0, levels - 1))


def symmetric(low: float, high: float, levels: int) -> float:
    """Scale of a signed grid whose zero point is 0 and which reaches as far to either side."""
    return max(max(-low, high, 0.0) / (levels // 2 - 1), 1e-12)
