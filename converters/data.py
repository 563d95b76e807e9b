"""Texts and labels from JSON lines, bounded and checked, and the rule that keeps figures honest.

A line that is not what it should be ends the reading with its number; nothing is skipped. The
calibration set is never the evaluation set: a few texts that stand in both are left out of
calibration, and two sets that overlap for real are refused. So are training and test set.
"""

from __future__ import annotations

import hashlib
import io
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from converters.recipe import DataConfig
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields, decode_json

MAX_LINE_BYTES = 1 << 20
MAX_BYTES = 1 << 30
MAX_ROWS = 2_000_000
MAX_CLASSES = 4096
MAX_SHARED = 0.1
"""Share of calibration texts that may be left out because the test set has them too; share of test
texts that may have been trained on, because short texts do repeat."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one file. `labels` is None where the task has none; `sha256` is of the content."""

    path: Path
    texts: tuple[str, ...]
    labels: tuple[str, ...] | None
    sha256: str

    def __len__(self) -> int:
        return len(self.texts)

    def first(self, count: int) -> Rows:
        """The first `count` rows; all where `count` is 0 or more than there are."""
        if not 0 < count < len(self):
            return self
        labels = None if self.labels is None else self.labels[:count]
        digest = hashlib.sha256(f"{self.sha256}:{count}".encode()).hexdigest()
        return Rows(self.path, self.texts[:count], labels, digest)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The splits that a recipe names. `classes` is sorted; empty for a task without labels."""

    train: Rows | None
    calibration: Rows
    test: Rows
    classes: tuple[str, ...]
    unlabelled: Rows | None = None

    def targets(self, rows: Rows) -> list[int]:
        """The index in `classes` of each row's label."""
        index = {name: place for place, name in enumerate(self.classes)}
        return [index[label] for label in rows.labels or ()]


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


def _without(rows: Rows, test: Rows, use: str) -> Rows:
    """`without`, refused where much is shared; `use` says in a word what the rows are for."""
    kept = without(rows, test)
    shared = len(rows) - len(kept)
    if shared > MAX_SHARED * len(rows):
        raise InputError(
            f"data {rows.path}: {shared} of {len(rows)} {use} texts also stand in {test.path}; "
            f"{use} must not see the evaluation set"
        )
    return kept


def without(rows: Rows, test: Rows) -> Rows:
    """The rows, without labels, whose text is not in the test set."""
    seen = set(test.texts)
    kept = tuple(text for text in rows.texts if text not in seen)
    digest = hashlib.sha256(f"{rows.sha256} without {test.sha256}".encode()).hexdigest()
    return Rows(rows.path, kept, None, digest if len(kept) < len(rows) else rows.sha256)


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
    classes = tuple(sorted(set(train.labels or ())))
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise InputError(
            f"data {train.path}: the labels hold {len(classes)} class"
            f"{'' if len(classes) == 1 else 'es'} ({', '.join(classes[:3])}), "
            f"expected 2..{MAX_CLASSES}"
        )
    tested = set(test.labels or ())
    strange = sorted(tested - set(classes))
    if strange:
        raise InputError(f"data {test.path}: label {strange[0]!r} does not stand in {train.path}")
    if len(tested) == 1:
        raise InputError(
            f"data {test.path}: every row is {tested.pop()!r}, expected at least 2 of the "
            f"{len(classes)} classes of {train.path}: a model that always says so would be perfect"
        )
    return classes


def read_rows(path: Path, text: str, label: str | None) -> Rows:
    """The rows of a .jsonl or .jsonl.xz file, columns `text` and, where given, `label`.

    Raises:
        InputError: the file is missing, damaged, too large or empty; a line is not UTF-8, not an
            object, lacks a column, or holds an empty text.
    """
    texts: list[str] = []
    labels: list[str] = []
    digest = hashlib.sha256()
    for number, line in _lines(path):
        digest.update(line)
        where = f"data {path}, line {number}"
        row = Fields(
            decode_json(line, max_bytes=MAX_LINE_BYTES, where=where, error=InputError),
            where,
            InputError,
        )
        for column in (text, label):
            if column is not None and not row.present(column):
                columns = ", ".join(sorted(row.rest())) or "none"
                raise InputError(f"{where}: column {column!r} is missing; found are {columns}")
        texts.append(row.text(text, max_len=MAX_LINE_BYTES))
        if not texts[-1].strip():
            raise InputError(f"{where}: {text} is empty, expected words")
        if label is not None:
            labels.append(row.text(label))
        if number > MAX_ROWS:
            raise InputError(f"data {path}: more than {MAX_ROWS} rows")
    if not texts:
        raise InputError(f"data {path}: holds no rows")
    return Rows(path, tuple(texts), None if label is None else tuple(labels), digest.hexdigest())


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line numbers from 1 and lines; lines and the whole are bounded before they are kept."""
    total = 0
    try:
        with open_rows(path) as file:
            for number in range(1, MAX_ROWS + 2):
                line = file.readline(MAX_LINE_BYTES + 1)
                total += len(line)
                if not line:
                    return
                if len(line) > MAX_LINE_BYTES or total > MAX_BYTES:
                    raise InputError(
                        f"data {path}, line {number}: at most {MAX_LINE_BYTES} bytes a line and "
                        f"{MAX_BYTES} bytes in all are read"
                    )
                if line.strip():
                    yield number, line
    except OSError as reason:
        raise InputError(f"data {path}: cannot be read ({reason.strerror})") from None
    except (lzma.LZMAError, EOFError) as reason:
        raise InputError(f"data {path}: not a whole .xz file ({reason})") from None


def open_rows(path: Path) -> io.BufferedIOBase:
    """The file, unpacked where its name ends in .xz."""
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    return path.open("rb")
