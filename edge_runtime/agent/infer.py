"""`edge-agent infer`: inputs in, lines out, through the very pipeline that a device serves.

A line is an input of the bundle's task in JSON, by itself or in an object under the name that the
task has for it: a text, two texts, a row; of a picture or a sound it is the path of a file. The
file may also be the source itself, and a table may be CSV. What a bundle's window moves over (rows,
or a sound with `hop`) has an answer for each window. Each answer is written as soon as it is there,
so a bad line takes nothing away from those before it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TextIO

from edge_runtime import load
from edge_runtime.agent.rows import csv_rows
from edge_runtime.errors import InputError
from edge_runtime.fields import Json, decode_json
from edge_runtime.inference.model import Model
from edge_runtime.inference.series import Placed, over_rows, over_sound
from edge_runtime.inference.tasks.results import Classification, Raw, Result
from edge_runtime.inference.tasks.sent import BASE64, raw_of
from edge_runtime.inference.tasks.table import INPUTS
from edge_runtime.inference.wav import wav_pieces
from edge_runtime.text import json_line, plain

MAX_LINE_BYTES = 1 << 20
MAX_FILE_BYTES = 64 << 20
MAX_SHOWN = 72
BEGINNINGS = {"image": (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"), "audio": (b"RIFF",)}
"""What tells a picture or a sound from lines that name some."""
ENDINGS = {"image": (".png", ".jpg", ".jpeg"), "audio": (".wav",)}


@dataclass(frozen=True, slots=True)
class Answer:
    """A result, what a person recognizes its input by, and it as JSON."""

    shown: str
    result: Result
    value: dict[str, Json]


def infer(
    bundle: Path,
    source: str,
    out: TextIO,
    *,
    variant: str | None,
    profile: str | None,
    as_json: bool,
    hop: float | None = None,
) -> None:
    """Answer every input of `source` ("-" is stdin).

    Args:
        hop: rows of a series, or milliseconds of a sound, from one window to the next; the file is
            one series then, whose rows are its lines. None: windows of a CSV file stand side by
            side, and each line of another is an input of its own.

    Raises:
        EdgeError: bundle or input cannot be read, or a line is wrong; says which.
    """
    with _open(source) as file, load(bundle, variant=variant, profile=profile) as model:
        for answer in _answers(model, file, source, hop):
            out.write(_line(answer, as_json=as_json) + "\n")
            out.flush()


def _answers(model: Model, file: BinaryIO, source: str, hop: float | None) -> Iterator[Answer]:
    takes, name = model.takes, _name(source)
    one = _is_one(file, source, takes)
    if hop is not None and takes != "row" and not (one and takes == "audio"):
        raise InputError(f"{name}: a hop is of a series in rows, or of a WAV file")
    if one:
        with _about(name):
            if hop is not None:
                chunks = wav_pieces(file, model.sample_rate)
                yield from map(_placed, over_sound(model.pipeline, chunks, hop))
            else:
                (result,) = model.pipeline((_read(file, takes),))
                yield Answer(name, result, result.as_json())
        return
    if hop is not None and (hop < 1 or hop != int(hop)):
        raise InputError(f"hop is {hop:g}, expected whole rows, at least one")
    table = takes == "row" and source.lower().endswith(".csv")
    rows = _table(model, file, name) if table else _lines(model, file, source)
    if hop is not None or (table and model.pipeline.steps.window):
        series = over_rows(model.pipeline, (raw for _, _, raw in rows), int(hop or 0))
        yield from map(_placed, series)
        return
    for where, shown, raw in rows:
        with _about(where):
            # Not model(raw): to a program a list is many inputs, here it may be a row or a pair.
            (result,) = model.pipeline((raw,))
        yield Answer(shown, result, result.as_json())


def _is_one(file: BinaryIO, source: str, takes: str) -> bool:
    """Whether the source is a picture or a sound itself: by its first bytes, or by its name."""
    if source.lower().endswith(ENDINGS.get(takes, ())):
        return True
    return isinstance(file, BufferedReader) and file.peek(16).startswith(BEGINNINGS.get(takes, ()))


@contextmanager
def _about(where: str) -> Iterator[None]:
    try:
        yield
    except InputError as reason:
        raise InputError(f"{where}: {reason}") from None


def _lines(model: Model, file: BinaryIO, source: str) -> Iterator[tuple[str, str, Raw]]:
    """(where, what a person recognizes it by, input) of every line."""
    for number, value in values(file, source):
        where = f"{_name(source)} line {number}"
        with _about(where):
            raw = raw_input(value, model.takes)
        yield where, _shown(value, model.takes), raw


def _table(model: Model, file: BinaryIO, name: str) -> Iterator[tuple[str, str, Raw]]:
    """The same of a CSV file."""
    for number, row in csv_rows(file, model.pipeline.steps.before[0].columns, name):
        yield f"{name} line {number}", ", ".join(map(str, row.values())), row


def _placed(one: Placed) -> Answer:
    return Answer(f"{one.start:g} to {one.end:g}", one.result, one.as_json())


def _open(source: str) -> BinaryIO:
    if source == "-":
        return sys.stdin.buffer
    try:
        return open(source, "rb")
    except OSError as reason:
        raise InputError(f"{source}: cannot be read ({reason.strerror})") from None


def _name(source: str) -> str:
    return "stdin" if source == "-" else source


def values(lines: BinaryIO, source: str) -> Iterator[tuple[int, Json]]:
    """(line number, value) of every line that is not blank."""
    number = 0
    while True:
        try:
            line = lines.readline(MAX_LINE_BYTES + 1)
        except OSError as reason:
            raise InputError(f"{_name(source)}: cannot be read ({reason.strerror})") from None
        if not line:
            return
        number += 1
        if line.strip():
            yield number, _value(line.strip(), f"{_name(source)} line {number}")


def _value(line: bytes, where: str) -> Json:
    if not line.startswith((b'"', b"{", b"[")):
        found = line[:40].decode(errors="replace")
        raise InputError(f'{where}: expected a JSON string or {{"text": …}}, found {found!r}')
    return decode_json(line, max_bytes=MAX_LINE_BYTES, where=where, error=InputError)


def raw_input(value: Json, takes: str) -> Raw:
    """A line's value as an input of the task."""
    names = [spec.name for spec in INPUTS[takes]]
    if isinstance(value, dict) and takes != "row":
        missing = [name for name in names if name not in value]
        if missing:
            raise InputError(f"{missing[0]} is missing")
        given = [value[name] for name in names]
        value = given[0] if len(given) == 1 else given
    elif (
        isinstance(value, dict) and list(value) == names and isinstance(value["row"], (list, dict))
    ):
        value = value["row"]
    if takes not in BASE64:
        return raw_of(value, takes)
    if not isinstance(value, str):
        raise InputError(f"{takes}: expected the path of a file")
    return read_file(Path(value), takes)


def read_file(path: Path, takes: str) -> bytes:
    """The bytes of a picture or a sound, bounded.

    Raises:
        InputError: it cannot be read, or is larger than any task takes.
    """
    try:
        with path.open("rb") as file:
            return _read(file, f"{takes} {path}")
    except OSError as reason:
        raise InputError(f"{takes} {path}: cannot be read ({reason.strerror})") from None


def _read(file: BinaryIO, where: str) -> bytes:
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{where}: more than {MAX_FILE_BYTES} bytes")
    return data


def _shown(value: Json, takes: str) -> str:
    """What a person recognizes the line by."""
    first = INPUTS[takes][0].name if INPUTS[takes] else ""
    if isinstance(value, dict):
        value = value.get(first, value)
    return value if isinstance(value, str) else json_line(value)


def _line(answer: Answer, *, as_json: bool) -> str:
    """One line: the result as JSON, or what a person wants to see of it."""
    result = answer.result
    if as_json or not isinstance(result, Classification):
        return json_line(answer.value)
    shown = plain(" ".join(answer.shown.split()), MAX_SHOWN)
    cut = "\t(cut: longer than the model reads)" if result.truncated else ""
    return f"{plain(result.label)}\t{result.score:.3f}\t{shown}{cut}"
