"""Steps of tables and series: `columns` before the model; `values` and `anomaly` after it.

A row is numbers and words with names; the bundle knows each column's scale or categories, so that
a caller sends what a sensor says, not what a network likes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.items import Item
from edge_runtime.inference.tasks.results import FloatArray

MAX_COLUMNS = 4096
MAX_WINDOW = 1 << 16
MAX_VALUES = 1 << 22
LARGEST = 1e18
"""Of this size, squares of float32 are finite still."""


@dataclass(frozen=True, slots=True)
class Column:
    """A number, of which the model sees (x − mean) / std; or one of `categories`, one-hot."""

    name: str
    mean: float
    std: float
    categories: tuple[str, ...]

    @property
    def width(self) -> int:
        """How many of the model's numbers it becomes."""
        return len(self.categories) or 1

    def write(self, value: object, where: str, out: FloatArray) -> None:
        """Fill `out`, (width,)."""
        if self.categories:
            if value not in self.categories:
                raise InputError(
                    f"{where}{self.name} is {_told(value)}, expected one of "
                    f"{', '.join(self.categories)[:200]}"
                )
            out[self.categories.index(str(value))] = 1.0
            return
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise InputError(f"{where}{self.name} is {_told(value)}, expected a number")
        number = float(value)
        if not math.isfinite(number):
            raise InputError(f"{where}{self.name} is {number}, expected a finite number")
        scaled = (number - self.mean) / self.std
        if not abs(scaled) <= LARGEST:
            raise InputError(
                f"{where}{self.name} is {number:g}, that is {scaled:g} deviations from its mean; "
                f"at most {LARGEST:g} are taken"
            )
        out[0] = scaled


@dataclass(frozen=True, slots=True)
class Columns:
    """Options of the step: `columns`, `window`, `input`.

    `window`, where above 0, is how many rows in time one input has; the model's `input` then has
    the shape (window, width), else (width,).
    """

    columns: tuple[Column, ...]
    window: int
    input: str

    @classmethod
    def parse(cls, options: Fields) -> Columns:
        """From the step's options; faults go to `options`."""
        columns = tuple(_column(f) for f in options.objects("columns", max_items=MAX_COLUMNS,
                                                            min_items=1))  # fmt: skip
        if len({one.name for one in columns}) != len(columns):
            options.fault(f"{options.where}: two columns share a name")
        made = cls(
            columns=columns,
            window=options.integer("window", 0, high=MAX_WINDOW),
            input=options.text("input", "features"),
        )
        if max(made.window, 1) * made.width > MAX_VALUES:
            options.fault(f"{options.where}: more than {MAX_VALUES} numbers in one input")
        return made

    @property
    def width(self) -> int:
        """Numbers of a row, as the model sees it."""
        return sum(one.width for one in self.columns)

    def __call__(self, raw: object) -> Item:
        """A row, or a list of `window` rows: each a mapping by name, or a list in order.

        Raises:
            InputError: a column is missing, unknown or of the wrong type; too few or many rows.
        """
        if not self.window:
            return Item({self.input: self._row(raw, "row: ")})
        rows = raw.tolist() if isinstance(raw, np.ndarray) else raw
        if not isinstance(rows, Sequence) or isinstance(rows, str):
            raise InputError(f"rows: expected a list of {self.window}, found {_told(rows)}")
        if len(rows) != self.window:
            raise InputError(f"rows: expected {self.window}, found {len(rows)}")
        read = [self._row(row, f"row {at}: ") for at, row in enumerate(rows)]
        return Item({self.input: np.stack(read)})

    def _row(self, raw: object, where: str) -> FloatArray:
        if isinstance(raw, Mapping):
            names = [one.name for one in self.columns]
            missing = [name for name in names if name not in raw]
            strange = sorted(map(str, set(raw) - set(names)))
            if missing or strange:
                told = f"{missing[0]} is missing" if missing else f"{strange[0][:80]} is not known"
                raise InputError(f"{where}{told}, the columns are {', '.join(names)[:200]}")
            values: Sequence[object] = [raw[name] for name in names]
        elif isinstance(raw, np.ndarray) and raw.ndim == 1:
            values = raw.tolist()
        elif isinstance(raw, (list, tuple)):
            values = raw
        else:
            raise InputError(f"{where}expected an object or a list of values, found {_told(raw)}")
        if len(values) != len(self.columns):
            raise InputError(f"{where}{len(values)} values for {len(self.columns)} columns")
        row: FloatArray = np.zeros(self.width, dtype=np.float32)
        at = 0
        for column, value in zip(self.columns, values, strict=True):
            column.write(value, where, row[at : at + column.width])
            at += column.width
        return row


def _column(f: Fields) -> Column:
    made = Column(
        name=f.text("name"),
        mean=f.number("mean", 0.0, low=-1e300, high=1e300),
        std=f.number("std", 1.0, low=-1e300, high=1e300),
        categories=f.texts("categories", (), max_items=MAX_COLUMNS),
    )
    if made.std <= 0:
        f.fault(f"{f.where}: std is {made.std:g}, expected a number above 0")
    return made


def _told(value: object) -> str:
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)[:60]
    return type(value).__name__


@dataclass(frozen=True, slots=True)
class NamedValues:
    """Options of the step `values`: `names`; `mean` and `std`, which undo the training's scale."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def parse(cls, options: Fields) -> NamedValues:
        """From the step's options; faults go to `options`."""
        names = options.texts("names", max_items=MAX_COLUMNS)
        count = len(names)
        made = cls(
            names=names,
            mean=options.numbers("mean", (0.0,) * count, max_items=MAX_COLUMNS),
            std=options.numbers("std", (1.0,) * count, max_items=MAX_COLUMNS),
        )
        if not names or not len(made.mean) == len(made.std) == count:
            options.fault(
                f"{options.where}: {count} names, {len(made.mean)} mean, {len(made.std)} std, "
                "expected as many of each"
            )
        return made

    def __call__(self, row: FloatArray) -> dict[str, float]:
        """(names,) to numbers in their own units."""
        values = row.astype(np.float64) * self.std + self.mean
        return dict(zip(self.names, values.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class ReconstructionError:
    """Options of the step `anomaly`: `threshold`, `error` ("mse" or "mae"), `hop`.

    The score is the mean error between the model's one input and its one output, which an
    autoencoder makes of it. With a `hop` an input longer than the model's window is taken, and its
    score is the mean over windows, one every `hop` samples or rows. Source: Koizumi et al. 2020
    (DCASE task 2), as in MLPerf Tiny, whose clip of 10 s has 196 windows.
    """

    threshold: float
    error: str
    hop: int = 0

    @classmethod
    def parse(cls, options: Fields) -> ReconstructionError:
        """From the step's options; faults go to `options`."""
        return cls(
            threshold=options.number("threshold", low=0, high=1e300),
            error=options.choice("error", ("mse", "mae"), "mse"),
            hop=options.integer("hop", 0, high=1 << 24),
        )

    def __call__(self, given: FloatArray, made: FloatArray) -> float:
        """Of one row, any shape."""
        gap = made.astype(np.float64).ravel() - given.astype(np.float64).ravel()
        return float(np.square(gap).mean() if self.error == "mse" else np.abs(gap).mean())
