"""Rows with names become the numbers that a network likes, and its numbers become values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.tabular import Columns, NamedValues, ReconstructionError

COLUMNS = [
    {"name": "temperature", "mean": 20.0, "std": 5.0},
    {"name": "state", "categories": ["off", "idle", "on"]},
    {"name": "load"},
]


def step(kind: Any, **options: Any) -> Any:
    return kind.parse(Fields(options, "step", IncompatibleError))


def features(raw: Any, **options: Any) -> list[Any]:
    found = step(Columns, columns=COLUMNS, **options)(raw).tensors["features"]
    assert found.dtype == np.float32
    told: list[Any] = found.tolist()
    return told


def test_numbers_are_scaled_and_words_are_one_hot() -> None:
    assert features({"load": 3, "state": "idle", "temperature": 30.0}) == [2, 0, 1, 0, 3]
    assert features([15, "on", 0.5]) == [-1, 0, 0, 1, 0.5]
    assert step(Columns, columns=COLUMNS).width == 5


def test_a_series_is_as_many_rows_as_the_window() -> None:
    rows = [[20, "off", 0], {"temperature": 25, "state": "off", "load": 1}]
    assert features(rows, window=2) == [[0, 1, 0, 0, 0], [1, 1, 0, 0, 1]]
    for raw, told in ((rows[:1], "rows: expected 2, found 1"), ("ab", "expected a list of 2"),
                      ([rows[0], [1]], "row 1: 1 values for 3 columns")):  # fmt: skip
        with pytest.raises(InputError, match=told):
            features(raw, window=2)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"load": 3, "state": "idle"}, "temperature is missing, the columns are temperature"),
        ({"load": 3, "state": "idle", "temperature": 1, "x": 2}, "x is not known"),
        ([1, "idle"], "2 values for 3 columns"),
        ([1, "broken", 2], "state is 'broken', expected one of off, idle, on"),
        (["warm", "off", 2], "temperature is 'warm', expected a number"),
        ([float("nan"), "off", 2], "expected a finite number"),
        ([True, "off", 2], "temperature is True, expected a number"),
        ([None, "off", 2], "temperature is None, expected a number"),
        (None, "expected an object or a list of values, found None"),
        (3, "found 3"),
    ],
)
def test_a_faulty_row_is_told_in_a_sentence(raw: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        features(raw)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"columns": []}, "columns has 0 entries"),
        ({"columns": [{"name": "a"}, {"name": "a"}]}, "two columns share a name"),
        ({"columns": [{"name": "a", "std": 0}]}, "std is 0, expected a number above 0"),
        ({"columns": COLUMNS, "window": 1 << 17}, "window is"),
    ],
)
def test_a_faulty_option_is_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(IncompatibleError, match=told):
        step(Columns, **options)


def test_values_get_their_names_and_units_back() -> None:
    found = step(NamedValues, names=["power", "speed"], mean=[100, 0], std=[10, 2])
    assert found(np.array([1.5, -1], np.float32)) == {"power": 115.0, "speed": -2.0}
    with pytest.raises(IncompatibleError, match="2 names, 1 mean"):
        step(NamedValues, names=["a", "b"], mean=[1])


def test_the_error_of_reconstruction_is_a_mean() -> None:
    given, made = np.array([1, 2, 3], np.float32), np.array([1, 4, 3], np.float32)
    assert step(ReconstructionError, threshold=1)(given, made) == pytest.approx(4 / 3)
    assert step(ReconstructionError, threshold=1, error="mae")(given, made) == pytest.approx(2 / 3)


def test_a_number_that_float32_cannot_square_is_refused_by_its_column() -> None:
    with pytest.raises(InputError, match=r"temperature is 1e.30, that is 2e.29 deviations"):
        features({"load": 3, "state": "idle", "temperature": 1e30})
