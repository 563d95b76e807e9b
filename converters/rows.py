"""Rows of one split, read from a file or a folder, bounded and checked.

What an input is depends on what the task takes: a text or two are columns of JSON lines, a row is
such a line without its label, pictures and sounds are files (in a folder of each label's, or named
by JSON lines), tensors are arrays of an .npz. A line that is not what it should be ends the reading
with its number; nothing is skipped. A picture stays on the disk until it is asked for.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from converters.recipe import DataConfig
from converters.source import file_sha256
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields, Json, decode_json

MAX_LINE_BYTES = 1 << 20
MAX_BYTES = 1 << 30
MAX_ROWS = 2_000_000
MAX_FILES = 200_000
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg"),
    "audio": (".wav",),
}
LEFT_BY_SYSTEMS = (".", "__MACOSX")
"""What folders and files that nobody made on purpose begin with."""
Label: TypeAlias = "str | float"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one file or folder. `labels` is None where the task has none.

    An input is a text, two texts, a path of a picture or a sound, a row's values, or arrays by
    name. `sha256` is of the content. `keys` tell whether two inputs are the same; where they are
    empty the inputs, texts, do so themselves.
    """

    path: Path
    inputs: tuple[Any, ...]
    labels: tuple[Label, ...] | None
    sha256: str
    keys: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def texts(self) -> tuple[str, ...]:
        """The inputs of a task that takes texts."""
        return self.inputs

    @property
    def identities(self) -> tuple[str, ...]:
        """What tells inputs apart, one each."""
        return self.keys or self.inputs

    def first(self, count: int) -> Rows:
        """The first `count` rows; all where `count` is 0 or more than there are."""
        if not 0 < count < len(self):
            return self
        digest = hashlib.sha256(f"{self.sha256}:{count}".encode()).hexdigest()
        return replace(self._of(range(count)), sha256=digest)

    def some(self, places: Sequence[int]) -> Rows:
        """The rows at `places`, in that order."""
        digest = hashlib.sha256(f"{self.sha256}:{list(places)}".encode()).hexdigest()
        return replace(self._of(places), sha256=digest)

    def _of(self, places: Sequence[int]) -> Rows:
        def take(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[place] for place in places)

        labels = None if self.labels is None else take(self.labels)
        return replace(
            self, inputs=take(self.inputs), labels=labels, keys=take(self.keys) if self.keys else ()
        )

    def named(self, place: int) -> str:
        """A row for a message: its file, or its place in one."""
        value = self.inputs[place]
        return str(value) if isinstance(value, Path) else f"{self.path}, row {place}"


def read_inputs(path: Path, config: DataConfig, takes: str) -> Rows:
    """The rows of `path` for a task that takes `takes`, labels too where there are any.

    Raises:
        InputError: it is missing, damaged, too large, empty, or not of a form that `takes` has.
    """
    if takes == "tensors":
        return _arrays(path)
    if path.is_dir():
        if takes not in SUFFIXES:
            raise InputError(f"data {path}: a folder, expected a file of JSON lines")
        return _folder(path, takes)
    read = _READERS[takes](path, config)
    inputs: list[Any] = []
    labels: list[Label] = []
    keys: list[str] = []
    digest = hashlib.sha256()
    for number, line in _lines(path):
        where = f"data {path}, line {number}"
        row = decode_json(line, max_bytes=MAX_LINE_BYTES, where=where, error=InputError)
        f = Fields(row, where, InputError)
        labelled = f.present(config.label)
        if inputs and labelled != bool(labels):
            raise InputError(f"{where}: some rows have a {config.label} and some have none")
        if labelled:
            labels.append(_label(f.rest()[config.label], f"{where}: {config.label}"))
        found, key = read(f, where)
        inputs.append(found)
        keys.append(key)
        digest.update(line if takes not in SUFFIXES else f"{key} {labels[-1:]}\n".encode())
        if len(inputs) > MAX_ROWS:
            raise InputError(f"data {path}: more than {MAX_ROWS} rows")
    if not inputs:
        raise InputError(f"data {path}: holds no rows")
    return Rows(path, tuple(inputs), tuple(labels) or None, digest.hexdigest(), tuple(keys))


Read: TypeAlias = Callable[[Fields, str], tuple[Any, str]]
"""(a line, where it stands) → the input and what tells it apart."""


def _text(path: Path, config: DataConfig) -> Read:
    def read(f: Fields, where: str) -> tuple[Any, str]:
        text = _column(f, config.text, where)
        return text, text

    return read


def _pair(path: Path, config: DataConfig) -> Read:
    def read(f: Fields, where: str) -> tuple[Any, str]:
        pair = _column(f, config.text, where), _column(f, config.pair, where)
        return pair, json.dumps(pair)

    return read


def _row(path: Path, config: DataConfig) -> Read:
    def read(f: Fields, where: str) -> tuple[Any, str]:
        values: Any = dict(f.rest(config.label))
        if list(values) == ["row"]:
            values = values["row"]
        return values, json.dumps(values, sort_keys=True)

    return read


def _named_file(path: Path, config: DataConfig) -> Read:
    def read(f: Fields, where: str) -> tuple[Any, str]:
        named = path.parent / _column(f, config.file, where)
        return named, _digest(named, where)

    return read


_READERS: Mapping[str, Callable[[Path, DataConfig], Read]] = {
    "text": _text,
    "text-pair": _pair,
    "row": _row,
    "image": _named_file,
    "audio": _named_file,
}


def _column(f: Fields, column: str, where: str) -> str:
    if not f.present(column):
        columns = ", ".join(sorted(f.rest())) or "none"
        raise InputError(f"{where}: column {column!r} is missing; found are {columns}")
    found: str = f.text(column, max_len=MAX_LINE_BYTES)
    if not found.strip():
        raise InputError(f"{where}: {column} is empty")
    return found


def _label(value: Json, where: str) -> Label:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InputError(f"{where}: expected a text or a number")
    return value if isinstance(value, str) else float(value)


def _digest(path: Path, where: str) -> str:
    try:
        return file_sha256(path)
    except OSError as reason:
        raise InputError(f"{where}: {path} cannot be read ({reason.strerror})") from None


def _folder(path: Path, takes: str) -> Rows:
    """Pictures or sounds in a folder of each label's, or without labels right in `path`."""
    wanted = SUFFIXES[takes]
    files = []
    for one in sorted(path.glob("**/*")):
        parts = one.relative_to(path).parts
        if any(part.startswith(LEFT_BY_SYSTEMS) for part in parts):
            continue
        if one.suffix.lower() in wanted and one.is_file():
            files.append(one)
        if len(files) > MAX_FILES:
            raise InputError(f"data {path}: more than {MAX_FILES} files")
    if not files:
        raise InputError(f"data {path}: holds no {' or '.join(wanted)} file")
    deep = {one.parent == path for one in files}
    if len(deep) == 2:
        raise InputError(f"data {path}: some files are in a folder of a label's and some are not")
    # Labels take turns, so that the first rows are of all of them.
    order = _in_turn(path, files) if deep == {False} else files
    labels = None if deep == {True} else tuple(one.relative_to(path).parts[0] for one in order)
    keys = tuple(_digest(one, f"data {path}") for one in order)
    total = hashlib.sha256()
    for one, key in zip(order, keys, strict=True):
        total.update(f"{one.relative_to(path)}:{key}\n".encode())
    return Rows(path, tuple(order), labels, total.hexdigest(), keys)


def _in_turn(path: Path, files: Sequence[Path]) -> list[Path]:
    """The files, one of each label, then the next of each."""
    seen: dict[str, int] = {}
    ranked = []
    for one in files:
        label = one.relative_to(path).parts[0]
        seen[label] = seen.get(label, 0) + 1
        ranked.append((seen[label], label, one))
    return [one for _, _, one in sorted(ranked)]


def _arrays(path: Path) -> Rows:
    """The model's own tensors: arrays of an .npz by input, the rows along the first axis."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"data {path}: more than {MAX_BYTES} bytes")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except OSError as reason:
        raise InputError(f"data {path}: cannot be read ({reason.strerror or reason})") from None
    except (ValueError, zipfile.BadZipFile, AttributeError) as reason:
        raise InputError(f"data {path}: not an .npz file of arrays ({reason})") from None
    counts = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or not all(counts):
        raise InputError(
            f"data {path}: expected arrays with the same number of rows, found "
            f"{', '.join(f'{name} {list(one.shape)}' for name, one in arrays.items()) or 'none'}"
        )
    rows = tuple({name: one[at] for name, one in arrays.items()} for at in range(counts.pop()))
    keys = tuple(
        hashlib.sha256(b"".join(row[n].tobytes() for n in sorted(row))).hexdigest() for row in rows
    )
    return Rows(path, rows, None, file_sha256(path), keys)


def read_rows(path: Path, text: str, label: str | None) -> Rows:
    """The texts of a .jsonl or .jsonl.xz file, columns `text` and, where given, `label`.

    Raises:
        InputError: the file is missing, damaged, too large or empty; a line is not UTF-8, not an
            object, lacks a column, or holds an empty text.
    """
    texts: list[str] = []
    labels: list[Label] = []
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
