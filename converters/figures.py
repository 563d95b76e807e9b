"""Figures from answers: intervals, cosines, and what happened class by class. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from converters.model import ClassFigures

FloatArray = npt.NDArray[np.float32]
MAX_CONFUSED = 60
"""Classes up to which a matrix of them can be read."""
Z = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share, 0..1; (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * (share * (1 - share) / n + Z * Z / (4 * n * n)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def class_figures(
    classes: Sequence[str],
    targets: npt.NDArray[np.int64],
    reference: FloatArray,
    answers: FloatArray,
) -> tuple[ClassFigures, ...]:
    """Accuracy before and after, and agreement, for each class that has rows."""
    before, after = reference.argmax(axis=1), answers.argmax(axis=1)
    figures = []
    for index, label in enumerate(classes):
        rows = targets == index
        if rows.any():
            figures.append(
                ClassFigures(
                    label=label,
                    rows=int(rows.sum()),
                    reference_accuracy=float((before[rows] == index).mean()),
                    accuracy=float((after[rows] == index).mean()),
                    agreement=float((before[rows] == after[rows]).mean()),
                )
            )
    return tuple(figures)


def confusion(
    classes: int, targets: npt.NDArray[np.int64], answers: FloatArray
) -> tuple[tuple[int, ...], ...]:
    """How often rows of a label (first index) were answered with a class (second).

    Empty where there are more than `MAX_CONFUSED` classes.
    """
    if classes > MAX_CONFUSED:
        return ()
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (targets, answers.argmax(axis=1)), 1)
    return tuple(tuple(row) for row in counts.tolist())
