"""How good answers are: one visible table of metrics, and a function of the user's own.

A metric takes `answers` and `reference`, float32 of shape (rows, width), the original model's
outputs for the same rows, and `targets`, what the labels say, or None without labels. It returns a
score for each row, whose mean is the figure, or one figure for all rows together. Higher is better,
always: an error is told as its negative. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from converters.data import Targets
from converters.user_code import load_function
from edge_runtime.errors import InputError
from edge_runtime.inference.tasks.table import TASKS

FloatArray: TypeAlias = npt.NDArray[np.float32]
Measure: TypeAlias = Callable[[FloatArray, FloatArray, Targets], Any]
NEIGHBOURS = 10
USER_MODULE = "edge_user_metric"
ROUNDING = 1e-9
"""Of figures that are means over rows; what is lost exactly as allowed is within."""
BLOCK = 512
"""Rows whose similarities with all others are held in memory at a time."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What a metric says: a value, and a score for each row, (rows,), where rows have one."""

    value: float
    scores: FloatArray | None


@dataclass(frozen=True, slots=True)
class Metric:
    """A named measure. `labelled` metrics need targets; `shown` is "percent" or "number"."""

    name: str
    measure: Measure
    labelled: bool
    shown: str = "percent"

    def of(self, answers: FloatArray, reference: FloatArray, targets: Targets) -> Figure:
        """The figure of `answers`.

        Raises:
            InputError: it needs labels and there are none; a user's function returns no number, or
                raises.
        """
        found = self._measured(answers, reference, targets)
        # In float64: a loss of exactly what may be lost must not be over by a rounding.
        value = float(np.mean(found, dtype=np.float64))
        return Figure(value, found if found.shape == (len(answers),) else None)

    def _measured(self, answers: FloatArray, reference: FloatArray, targets: Targets) -> FloatArray:
        if self.labelled and targets is None:
            raise InputError(f"metric {self.name}: needs labels, the rows have none")
        if self.name in METRICS:
            return np.asarray(self.measure(answers, reference, targets), dtype=np.float32)
        wanted = None if targets is None else _read_only(targets)
        try:
            found = np.asarray(
                self.measure(_read_only(answers), _read_only(reference), wanted), dtype=np.float32
            )
        except (Exception, SystemExit) as reason:  # a stranger's code raises what it likes
            first = (str(reason).strip().splitlines() or [""])[0][:200]
            raise InputError(
                f"metric {self.name}: {type(reason).__name__}: {first} (of {len(answers)} rows; "
                "it is also asked of rows drawn at random from them)"
            ) from None
        if found.shape not in ((), (len(answers),)) or not np.isfinite(found).all():
            raise InputError(
                f"metric {self.name}: returned {_told(found)}, expected a finite number or one for "
                f"each of the {len(answers)} rows"
            )
        return found


def _read_only(values: Any) -> Any:
    """The same values, which a stranger's code cannot change."""
    view = values.view()
    view.flags.writeable = False
    return view


def _told(found: FloatArray) -> str:
    return f"{found}" if found.shape == () else f"an array of shape {list(found.shape)}"


def accuracy(answers: FloatArray, reference: FloatArray, targets: Targets) -> Any:
    """1 where the largest logit is the label's, (rows,)."""
    return answers.argmax(axis=1) == targets


def agreement(answers: FloatArray, reference: FloatArray, targets: Targets) -> Any:
    """1 where the largest logit is the reference's, (rows,)."""
    return answers.argmax(axis=1) == reference.argmax(axis=1)


def macro_f1(answers: FloatArray, reference: FloatArray, targets: Targets) -> float:
    """Mean over the classes that occur of the harmonic mean of precision and recall."""
    found = answers.argmax(axis=1)
    return _f1_of_classes(found, np.asarray(targets))


def _f1_of_classes(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    scores = []
    for label in np.union1d(found, wanted):
        both = int(((found == label) & (wanted == label)).sum())
        scores.append(2 * both / (int((found == label).sum()) + int((wanted == label).sum())))
    return float(np.mean(scores))


def cosine(answers: FloatArray, reference: FloatArray, targets: Targets) -> FloatArray:
    """Cosine of each row with the reference's, (rows,)."""
    return cosines(answers, reference)


def cosines(found: FloatArray, reference: FloatArray) -> FloatArray:
    """Cosine of each row with the reference's, shape (rows,); 0 for a row that is not finite, 1
    where both are all zeros, as the device's golden vectors have it.

    NaN would compare false with every bound and so pass for good.
    """
    finite = np.isfinite(found).all(axis=1, keepdims=True)
    found = np.where(finite, found, np.float32(0))
    products = (found * reference).sum(axis=1)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
    nothing = ~found.any(axis=1) & ~reference.any(axis=1) & finite.ravel()
    result: FloatArray = np.where(nothing, 1, products / np.maximum(norms, 1e-12))
    return result


def recall(answers: FloatArray, reference: FloatArray, targets: Targets) -> FloatArray:
    """Share of each row's 10 nearest rows that are among the reference's 10 nearest, (rows,).

    Nearest by cosine among all other rows, which are answered by the same model: it is what a
    search engine built on the compressed model would find of what the original finds.
    """
    return _found_again(answers, answers, reference)


def asymmetric_recall(answers: FloatArray, reference: FloatArray, targets: Targets) -> FloatArray:
    """The same where only what is looked for is answered by the compressed model, (rows,).

    All other rows are the reference's: a search engine's index that the original made, on a host,
    for devices that answer queries only. Source: Budnik and Avrithis 2021, "Asymmetric metric
    learning for knowledge transfer".
    """
    return _found_again(answers, reference, reference)


def _found_again(queries: FloatArray, index: FloatArray, reference: FloatArray) -> FloatArray:
    """Share of the reference's 10 nearest that each query finds in `index`, (rows,)."""
    near = min(NEIGHBOURS, len(queries) - 1)
    if near < 1 or queries is reference:
        return np.ones(len(queries), dtype=np.float32)
    found, wanted = nearest(queries, near, index), nearest(reference, near)
    shares = [
        len(set(a) & set(b)) / near for a, b in zip(found.tolist(), wanted.tolist(), strict=True)
    ]
    return np.asarray(shares, dtype=np.float32)


def nearest(
    vectors: FloatArray, count: int, index: FloatArray | None = None
) -> npt.NDArray[np.int64]:
    """Of each row the `count` rows of `index` but its own with the largest cosine, (rows, count).

    `index`, of as many rows, is `vectors` where none is given. The indexes are in no order.
    """
    units = _units(vectors)
    others = units if index is None else _units(index)
    found = np.empty((len(units), count), dtype=np.int64)
    for start in range(0, len(units), BLOCK):
        close = units[start : start + BLOCK] @ others.T
        rows = np.arange(len(close))
        close[rows, start + rows] = -np.inf
        found[start : start + BLOCK] = np.argpartition(-close, count - 1, axis=1)[:, :count]
    return found


def _units(vectors: FloatArray) -> FloatArray:
    """Rows of length 1, or 0 where a row is nothing or not finite."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: FloatArray = np.nan_to_num(vectors / np.maximum(norms, 1e-12))
    return units


def token_accuracy(answers: FloatArray, reference: FloatArray, targets: Targets) -> Any:
    """1 where a token's largest logit is its label's; a row is a token, label −100 is left out."""
    wanted = np.asarray(targets)
    counted = wanted != IGNORED
    return float((answers.argmax(axis=1) == wanted)[counted].mean()) if counted.any() else 0.0


def token_f1(answers: FloatArray, reference: FloatArray, targets: Targets) -> float:
    """Micro F1 over tokens of every class but 0, the outside; a row is a token, −100 left out.

    Class 0 is what most tokens are, and being right about it is no merit.
    """
    wanted, found = np.asarray(targets), answers.argmax(axis=1)
    wanted, found = wanted[wanted != IGNORED], found[wanted != IGNORED]
    both = int(((found == wanted) & (wanted != 0)).sum())
    total = int((found != 0).sum()) + int((wanted != 0).sum())
    return 2 * both / total if total else 1.0


def negative_mae(answers: FloatArray, reference: FloatArray, targets: Targets) -> Any:
    """Minus the absolute error of each row's first output, (rows,), in the target's unit."""
    return -np.abs(answers[:, 0] - np.asarray(targets, dtype=np.float32))


def negative_rmse(answers: FloatArray, reference: FloatArray, targets: Targets) -> float:
    """Minus the root mean square error of the first output, in the target's unit."""
    error = answers[:, 0] - np.asarray(targets, dtype=np.float32)
    return -float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))


def r2(answers: FloatArray, reference: FloatArray, targets: Targets) -> float:
    """Coefficient of determination of the first output; 0 is as good as the targets' mean."""
    wanted = np.asarray(targets, dtype=np.float64)
    rest = float(np.square(wanted - answers[:, 0]).sum())
    spread = float(np.square(wanted - wanted.mean()).sum())
    return 1 - rest / spread if spread else 0.0


def spearman(answers: FloatArray, reference: FloatArray, targets: Targets) -> float:
    """Rank correlation of the first output with the targets, ties by their mean rank."""
    ranks = [_ranks(one) for one in (answers[:, 0], np.asarray(targets))]
    a, b = (one - one.mean() for one in ranks)
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm else 0.0


def closeness(answers: FloatArray, reference: FloatArray, targets: Targets) -> float:
    """Coefficient of determination of all outputs against the reference's; 1 is the same."""
    rest = np.square(reference.astype(np.float64) - answers).sum()
    spread = np.square(reference.astype(np.float64) - reference.mean(axis=0)).sum()
    return float(1 - rest / spread) if spread else float(rest == 0)


def auc(answers: FloatArray, reference: FloatArray, targets: Targets) -> float:
    """Area under the ROC curve of the first output: the share of pairs of a row of class 1 and one
    of class 0 that it puts in order; ties count half. 0.5 where a class is missing.
    """
    wanted = np.asarray(targets) == 1
    positive, negative = int(wanted.sum()), int((~wanted).sum())
    if not positive or not negative:
        return 0.5
    ranks = _ranks(answers[:, 0])
    above = float(ranks[wanted].sum()) - positive * (positive + 1) / 2
    return above / (positive * negative)


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: npt.NDArray[np.float64] = (ends - (counts - 1) / 2)[places]
    return means


IGNORED = -100
"""The label of a token that does not count, as in transformers."""
METRICS: Mapping[str, Metric] = {
    one.name: one
    for one in (
        Metric("accuracy", accuracy, labelled=True),
        Metric("macro-f1", macro_f1, labelled=True),
        Metric("agreement", agreement, labelled=False),
        Metric("cosine", cosine, labelled=False, shown="number"),
        Metric("recall@10", recall, labelled=False),
        Metric("asymmetric-recall@10", asymmetric_recall, labelled=False),
        Metric("token-accuracy", token_accuracy, labelled=True),
        Metric("token-f1", token_f1, labelled=True),
        Metric("mae", negative_mae, labelled=True, shown="number"),
        Metric("rmse", negative_rmse, labelled=True, shown="number"),
        Metric("r2", r2, labelled=True, shown="number"),
        Metric("spearman", spearman, labelled=True, shown="number"),
        Metric("auc", auc, labelled=True, shown="number"),
        Metric("closeness", closeness, labelled=False, shown="number"),
    )
}
USUAL: Mapping[str, tuple[str, str]] = {
    "labels": ("accuracy", "agreement"),
    "vector": ("cosine", "cosine"),
    "spans": ("agreement", "agreement"),
    "boxes": ("cosine", "cosine"),
    "mask": ("agreement", "agreement"),
    "values": ("r2", "closeness"),
    "anomaly": ("auc", "closeness"),
    "tensors": ("cosine", "cosine"),
}
"""What a task answers → its metric where a recipe names none: with labels, and without."""


def metric_for(task: str, named: str, *, labelled: bool = True) -> str:
    """The metric that a recipe names, or the usual one of its task where it names none."""
    with_labels, without = USUAL[TASKS[task].answers]
    return named or (with_labels if labelled else without)


def is_share(name: str) -> bool:
    """Whether people read the metric's figure as a percentage."""
    return name in METRICS and METRICS[name].shown == "percent"


def figure_words(value: float, name: str) -> str:
    """A figure as people read it: a percentage with two digits, or a number with four."""
    return f"{value:.2%}" if is_share(name) else f"{value:.4f}"


def find_metric(name: str, *, base: Path) -> Metric:
    """A metric of the table, or a user's own: `file.py:function`, relative to `base`.

    The function takes (answers, reference, targets) as described above. It is code of the person
    who converts, run on the host; nothing of it goes into the bundle.

    Raises:
        InputError: no such metric, file or function.
    """
    if name in METRICS:
        return METRICS[name]
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InputError(
            f"metric {name!r}: expected one of {', '.join(METRICS)}, or a function of yours as "
            "file.py:function"
        )
    measure = load_function(base / file, function, f"metric {name!r}", module=USER_MODULE)
    return Metric(name, measure, labelled=False, shown="number")
