"""Figures from answers: accuracy, recall of neighbours, what two models differ by, paired. Pure.

Two models answer the same rows, so what counts is the rows on which they differ: intervals of two
accuracies that overlap prove nothing either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
Scores: TypeAlias = npt.NDArray[np.float64]
NEIGHBOURS = 10
RESAMPLES = 10_000
SEED = 1


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean score minus the other's, its 95 % interval by paired bootstrap, and a p-value.

    `p` is the exact McNemar test's where scores are right or wrong, else None.
    """

    mean: float
    low: float
    high: float
    p: float | None


def right(logits: FloatArray, targets: npt.NDArray[np.int64]) -> Scores:
    """1 for a row whose highest logit is the target's, else 0, also where one is not finite."""
    finite = np.isfinite(logits).all(axis=1)
    found: Scores = ((logits.argmax(axis=1) == targets) & finite).astype(np.float64)
    return found


def neighbours(embeddings: FloatArray, k: int = NEIGHBOURS) -> npt.NDArray[np.int64]:
    """The `k` nearest other rows of each row by cosine, shape (rows, k), nearest first.

    Ties go to the row that comes first.
    """
    finite = np.where(np.isfinite(embeddings), embeddings, np.float32(0)).astype(np.float64)
    unit = finite / np.maximum(np.linalg.norm(finite, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    nearest: npt.NDArray[np.int64] = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return nearest


def recalls(found: npt.NDArray[np.int64], reference: npt.NDArray[np.int64]) -> Scores:
    """Share of each row's reference neighbours that were found, shape (rows,)."""
    hits = (found[:, :, None] == reference[:, None, :]).any(axis=2)
    shares: Scores = hits.mean(axis=1)
    return shares


def mcnemar(first: Scores, second: Scores) -> float:
    """Two-sided p-value of the exact McNemar test on two rows of 0 and 1.

    Under the null hypothesis each row on which exactly one is right is a fair coin.
    Source: McNemar, "Note on the sampling error of the difference between correlated
    proportions", 1947; the exact form is the binomial test of the discordant rows.
    """
    only_first = int(((first == 1) & (second == 0)).sum())
    only_second = int(((first == 0) & (second == 1)).sum())
    n, few = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(few + 1))
    # Integers first: 2**n is no float for the thousands of rows that may differ.
    return min(1.0, float(2 * tail * 10**15 // 2**n) / 1e15)


def difference(first: Scores, second: Scores) -> Difference:
    """How much better `first` is than `second` over the same rows."""
    gaps = first - second
    means = _resampled(gaps)
    low, high = (float(one) for one in np.quantile(means, [0.025, 0.975]))
    binary = bool(np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all())
    return Difference(float(gaps.mean()), low, high, mcnemar(first, second) if binary else None)


def _resampled(values: Scores) -> Scores:
    """Means of resamples with replacement; like values share a count, so that it is fast."""
    kinds, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(SEED).multinomial(
        len(values), counts / len(values), size=RESAMPLES
    )
    means: Scores = drawn @ kinds / len(values)
    return means
