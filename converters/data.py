"""The splits of a recipe's data, and the rule that keeps figures honest.

The calibration set is never the evaluation set: a few inputs that stand in both are left out of
calibration, and two sets that overlap for real are refused. So are training and test set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from converters.recipe import DataConfig
from converters.rows import Label, Rows, open_rows, read_inputs, read_rows
from edge_runtime.errors import InputError

__all__ = ["Dataset", "Rows", "load_dataset", "load_splits", "open_rows", "read_rows", "without"]

Targets: TypeAlias = "npt.NDArray[np.int64] | npt.NDArray[np.float32] | None"
MAX_CLASSES = 4096
ANOMALY = ("normal", "anomaly")
"""Labels of a task that tells the one from the other."""
MAX_SHARED = 0.1
"""Share of calibration texts that may be left out because the test set has them too; share of test
texts that may have been trained on, because short texts do repeat."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The splits that a recipe names.

    `classes` are in the order of the model's outputs; of a model that is trained here they are
    sorted. Empty for a task without classes.
    """

    train: Rows | None
    calibration: Rows
    test: Rows
    classes: tuple[str, ...]
    unlabelled: Rows | None = None

    @property
    def classified(self) -> bool:
        """Whether an answer is one score for each class."""
        return bool(self.classes) and self.classes != ANOMALY

    def targets(self, rows: Rows) -> Targets:
        """What the labels say: an index in `classes`, or a number; None without labels."""
        if rows.labels is None:
            return None
        if not self.classes:
            return np.array(rows.labels, dtype=np.float32)
        return self.indexes(rows)

    def indexes(self, rows: Rows) -> npt.NDArray[np.int64]:
        """The index in `classes` of each row's label, (rows,)."""
        index = {name: place for place, name in enumerate(self.classes)}
        return np.array([index[str(label)] for label in rows.labels or ()], dtype=np.int64)


def load_dataset(config: DataConfig, task: str) -> Dataset:
    """Every split, checked against each other.

    Raises:
        InputError: a file is missing or malformed, there are fewer than two classes, a label of
            the test set is never trained, or the test set overlaps with calibration or training.
    """
    labelled = config.label if task == "text-classification" else None
    if config.calibration is None or config.test is None:
        raise RuntimeError("a recipe without calibration or test data is refused when it is read")
    train = read_rows(config.train, config.text, labelled) if config.train else None
    calibration = read_rows(config.calibration, config.text, None)
    test = read_rows(config.test, config.text, labelled)
    classes = _classes(train, test) if train and labelled else ()
    if train:
        _refuse_trained(train, test)
    unlabelled = None
    if config.unlabelled:
        unlabelled = _without(read_rows(config.unlabelled, config.text, None), test, "distillation")
    return Dataset(train, _without(calibration, test, "calibration"), test, classes, unlabelled)


def load_splits(config: DataConfig, takes: str, answers: str, labels: Sequence[str]) -> Dataset:
    """Calibration and test rows of a model that somebody trained elsewhere, checked against each
    other.

    `takes` and `answers` are keys of the device's INPUTS and ENDS. Labels are what the data holds
    of them: without any, a model can only be compared with itself before quantization.

    Raises:
        InputError: a file is missing or malformed, a label is none of `labels`, or the test set
            overlaps with calibration.
    """
    if config.calibration is None or config.test is None:
        raise RuntimeError("a recipe without calibration or test data is refused when it is read")
    calibration = replace(read_inputs(config.calibration, config, takes), labels=None)
    test = read_inputs(config.test, config, takes)
    classes = tuple(labels) if answers == "labels" else ANOMALY if answers == "anomaly" else ()
    if answers not in ("labels", "anomaly", "values"):
        test = replace(test, labels=None)
    if test.labels is not None and classes:
        _check_known(test, classes)
    elif test.labels is not None:
        test = replace(test, labels=tuple(_number(label, test.path) for label in test.labels))
    return Dataset(None, _without(calibration, test, "calibration"), test, classes)


def _check_known(test: Rows, classes: Sequence[str]) -> None:
    strange = sorted({str(label) for label in test.labels or ()} - set(classes))
    if strange:
        shown = ", ".join(classes[:12]) + (", …" if len(classes) > 12 else "")
        raise InputError(
            f"data {test.path}: label {strange[0]!r} is none of the model's {len(classes)}: {shown}"
        )


def _number(label: Label, path: Path) -> float:
    try:
        return float(label)
    except ValueError:
        raise InputError(f"data {path}: label {label!r}, expected a number") from None


def _without(rows: Rows, test: Rows, use: str) -> Rows:
    """`without`, refused where much is shared; `use` says in a word what the rows are for."""
    kept = without(rows, test)
    shared = len(rows) - len(kept)
    if shared > MAX_SHARED * len(rows):
        raise InputError(
            f"data {rows.path}: {shared} of {len(rows)} {use} rows also stand in {test.path}; "
            f"{use} must not see the evaluation set"
        )
    return kept


def without(rows: Rows, test: Rows) -> Rows:
    """The rows, without labels, whose input is not in the test set."""
    seen = set(test.identities)
    places = [place for place, one in enumerate(rows.identities) if one not in seen]
    digest = hashlib.sha256(f"{rows.sha256} without {test.sha256}".encode()).hexdigest()
    kept = replace(rows.some(places), labels=None, sha256=digest)
    return kept if len(kept) < len(rows) else replace(rows, labels=None)


def _refuse_trained(train: Rows, test: Rows) -> None:
    """A network that was shown the answers proves nothing."""
    seen = set(train.texts)
    shared = sum(text in seen for text in test.texts)
    if shared > MAX_SHARED * len(test):
        raise InputError(
            f"data {test.path}: {shared} of {len(test)} test texts also stand in {train.path}; "
            f"training must not see the evaluation set"
        )


def _classes(train: Rows, test: Rows) -> tuple[str, ...]:
    classes = tuple(sorted({str(label) for label in train.labels or ()}))
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise InputError(
            f"data {train.path}: the labels hold {len(classes)} class"
            f"{'' if len(classes) == 1 else 'es'} ({', '.join(classes[:3])}), "
            f"expected 2..{MAX_CLASSES}"
        )
    tested = {str(label) for label in test.labels or ()}
    strange = sorted(tested - set(classes))
    if strange:
        raise InputError(f"data {test.path}: label {strange[0]!r} does not stand in {train.path}")
    if len(tested) == 1:
        raise InputError(
            f"data {test.path}: every row is {tested.pop()!r}, expected at least 2 of the "
            f"{len(classes)} classes of {train.path}: a model that always says so would be perfect"
        )
    return classes
