"""Figures against values that others have published or that can be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from converters.figures import class_figures, wilson
from converters.metrics import cosines


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 1 - 0.1611, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)  # fmt: skip
def test_the_interval_is_wilsons(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_cosines_are_of_rows_and_do_not_see_length() -> None:
    found = np.array([[1, 0], [3, 3], [0, 0]], np.float32)
    reference = np.array([[0, 1], [1, 1], [1, 1]], np.float32)
    assert cosines(found, reference) == pytest.approx([0, 1, 0], abs=1e-6)


def test_a_row_that_is_not_finite_is_as_wrong_as_can_be() -> None:
    found = np.array([[np.nan, 1], [np.inf, 1], [1, 1]], np.float32)
    assert cosines(found, np.ones((3, 2), np.float32)) == pytest.approx([0, 0, 1])


def test_classes_are_counted_for_themselves() -> None:
    targets = np.array([0, 0, 0, 0, 2, 2])
    eye = np.eye(3, dtype=np.float32)
    before, after = eye[[0, 0, 0, 1, 2, 2]], eye[[0, 0, 1, 1, 2, 0]]
    first, last = class_figures(("a", "b", "c"), targets, before, after)
    assert (first.label, first.rows) == ("a", 4)
    assert (first.reference_accuracy, first.accuracy, first.agreement) == (0.75, 0.5, 0.75)
    assert (last.label, last.rows, last.accuracy, last.agreement) == ("c", 2, 0.5, 0.5)
