"""Is a difference between two models real? A paired bootstrap over the same rows. Pure.

Both models answered the same rows, so rows are drawn with replacement and the difference of the
metric is taken on each draw: what makes a row hard is hard for both, and cancels.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 16; for its use here
Koehn, "Statistical Significance Tests for Machine Translation Evaluation", 2004.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from converters.data import Targets
from converters.metrics import Figure, FloatArray, Metric

DRAWS = 2000
POOLED_DRAWS = 300
"""Draws of a metric that has to be computed anew for each."""
BLOCK = 100
"""Draws that are held in memory at a time."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of a metric, candidate minus baseline, with its 95 % interval over the draws.

    `worse` is the share of draws in which the candidate is below the baseline, 0..1: near 1 it is
    worse for real, near 0 it is better for real.
    """

    value: float
    interval: tuple[float, float]
    worse: float
    n: int

    @property
    def no_worse(self) -> bool:
        """Whether 0 or more is inside or below the interval: the data do not show a loss."""
        return self.interval[1] >= 0


@dataclass(frozen=True, slots=True)
class Paired:
    """The metric of two models on the same rows, and how they differ.

    `interval` is the candidate's own, 95 %, where the metric is one figure for all rows.
    """

    candidate: Figure
    baseline: Figure
    difference: Difference
    interval: tuple[float, float] | None = None


def paired(
    metric: Metric,
    candidate: FloatArray,
    baseline: FloatArray,
    reference: FloatArray,
    targets: Targets,
    *,
    seed: int = 0,
) -> Paired:
    """Compare two models' answers, each (rows, width), on the same rows."""
    mine = metric.of(candidate, reference, targets)
    theirs = mine if candidate is baseline else metric.of(baseline, reference, targets)
    value, n = mine.value - theirs.value, len(candidate)
    if mine.scores is not None and theirs.scores is not None:
        return Paired(mine, theirs, _of(value, mine.scores - theirs.scores, n, seed))

    def once(rows: npt.NDArray[np.int64]) -> tuple[float, float]:
        wanted = None if targets is None else targets[rows]
        first, second = (
            metric.of(one[rows], reference[rows], wanted).value for one in (candidate, baseline)
        )
        return first, second

    draws = _pooled(once, n, seed)
    low, high = np.percentile(draws[:, 0], (2.5, 97.5))
    difference = _summary(value, draws[:, 0] - draws[:, 1], n)
    return Paired(mine, theirs, difference, (float(low), float(high)))


def paired_scores(candidate: FloatArray, baseline: FloatArray, *, seed: int = 0) -> Difference:
    """The same from a score for each row, both (rows,)."""
    gaps = candidate.astype(np.float32) - baseline.astype(np.float32)
    return _of(float(gaps.mean()), gaps, len(gaps), seed)


def interval(scores: FloatArray, *, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of `scores`, (rows,)."""
    low, high = np.percentile(_means(scores, seed), (2.5, 97.5))
    return float(low), float(high)


def _of(value: float, gaps: FloatArray, n: int, seed: int) -> Difference:
    return _summary(value, _means(gaps, seed), n)


def _means(scores: FloatArray, seed: int) -> npt.NDArray[np.float64]:
    """Means of `DRAWS` samples with replacement."""
    generator = np.random.default_rng(seed)
    n = len(scores)
    blocks = [
        scores[generator.integers(0, n, size=(BLOCK, n))].mean(axis=1, dtype=np.float64)
        for _ in range(DRAWS // BLOCK)
    ]
    return np.concatenate(blocks)


def _pooled(
    once: Callable[[npt.NDArray[np.int64]], tuple[float, float]], n: int, seed: int
) -> npt.NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    return np.array([once(generator.integers(0, n, size=n)) for _ in range(POOLED_DRAWS)])


def _summary(value: float, draws: npt.NDArray[np.float64], n: int) -> Difference:
    low, high = np.percentile(draws, (2.5, 97.5))
    # A draw without a difference is half of each.
    worse = float((draws < 0).mean() + (draws == 0).mean() / 2)
    return Difference(value, (float(low), float(high)), worse, n)
