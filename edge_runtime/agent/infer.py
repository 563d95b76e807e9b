"""`edge-agent infer`: lines in, lines out, through the very pipeline that a device serves.

A line is a JSON string, or an object with a "text". Each answer is written as soon as it is there,
so a bad line takes nothing away from those before it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from edge_runtime import load
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields, decode_json
from edge_runtime.inference.tasks.results import Classification, Result
from edge_runtime.text import json_line, plain

MAX_LINE_BYTES = 1 << 20
MAX_SHOWN = 72


def infer(
    bundle: Path,
    source: str,
    out: TextIO,
    *,
    variant: str | None,
    profile: str | None,
    as_json: bool,
) -> None:
    """Answer every line of `source` ("-" is stdin).

    Raises:
        EdgeError: bundle or input cannot be read, or a line is wrong; says which.
    """
    with _open(source) as lines, load(bundle, variant=variant, profile=profile) as model:
        for number, text in texts(lines, source):
            try:
                result = model(text)
            except InputError as reason:
                raise InputError(f"{_name(source)} line {number}: {reason}") from None
            out.write(_line(text, result, as_json=as_json) + "\n")
            out.flush()


def _open(source: str) -> BinaryIO:
    if source == "-":
        return sys.stdin.buffer
    try:
        return open(source, "rb")
    except OSError as reason:
        raise InputError(f"{source}: cannot be read ({reason.strerror})") from None


def _name(source: str) -> str:
    return "stdin" if source == "-" else source


def texts(lines: BinaryIO, source: str) -> Iterator[tuple[int, str]]:
    """(line number, text) of every line that is not blank."""
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
            yield number, _text(line.strip(), f"{_name(source)} line {number}")


def _text(line: bytes, where: str) -> str:
    if not line.startswith((b'"', b"{")):
        found = line[:40].decode(errors="replace")
        raise InputError(f'{where}: expected a JSON string or {{"text": …}}, found {found!r}')
    value = decode_json(line, max_bytes=MAX_LINE_BYTES, where=where, error=InputError)
    if isinstance(value, str):
        return value
    return Fields(value, where, InputError).text("text", max_len=MAX_LINE_BYTES)


def _line(text: str, result: Result, *, as_json: bool) -> str:
    """One line: the result as JSON, or what a person wants to see of it."""
    if as_json or not isinstance(result, Classification):
        return json_line(result.as_json())
    shown = plain(" ".join(text.split()), MAX_SHOWN)
    cut = "\t(cut: longer than the model reads)" if result.truncated else ""
    return f"{plain(result.label)}\t{result.score:.3f}\t{shown}{cut}"
