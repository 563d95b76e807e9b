"""What an operator wants to ask, as the inputs of one message: texts, pairs, files, rows.

Only the device knows what its model takes; here a question is made of one kind, and is no larger
than a message may be, before a large file is in memory.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.fields import Json, decode_json
from edge_runtime.messages.fleet import MAX_INPUTS, MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES

ENVELOPE_BYTES = 1 << 10
"""Of a message, beside what the files become: names, quotes, commas."""
MAX_FILES_BYTES = (MAX_REQUEST_BYTES - ENVELOPE_BYTES) // 4 * 3
"""Of all files of a question together: base64 makes four bytes of three."""


@dataclass(frozen=True, slots=True)
class Question:
    """`inputs` for the device, what a person calls each, and how large the message may become."""

    inputs: tuple[Json, ...]
    shown: tuple[str, ...]
    max_bytes: int = MAX_MESSAGE_BYTES


def of_texts(texts: Sequence[str]) -> Question:
    """Each text is an input."""
    return Question(tuple(texts), tuple(texts))


def of_pairs(pairs: Iterable[Sequence[str]]) -> Question:
    """Each two texts are an input."""
    found = [list(pair) for pair in pairs]
    return Question(tuple(found), tuple(" | ".join(pair) for pair in found))


def of_rows(rows: Sequence[str]) -> Question:
    """Each row, or list of rows, in JSON, is an input.

    Raises:
        InputError: not JSON, or neither an object nor a list.
    """
    inputs = []
    for at, text in enumerate(rows):
        # A lone surrogate, of bytes that were no text, becomes what no JSON has.
        data = text.encode("utf-8", "surrogatepass")
        row = decode_json(data, max_bytes=MAX_MESSAGE_BYTES, where=f"row {at}", error=InputError)
        if not isinstance(row, (dict, list)):
            raise InputError(f"row {at}: expected an object or a list, found {text[:40]!r}")
        inputs.append(row)
    return Question(tuple(inputs), tuple(rows))


def of_files(paths: Sequence[Path]) -> Question:
    """Each picture or sound, the bytes of its file in base64, is an input.

    Raises:
        InputError: one cannot be read or is empty, or they are too many or too large together.
    """
    if len(paths) > MAX_INPUTS:
        raise InputError(f"{len(paths)} files, at most {MAX_INPUTS} fit one question")
    left = MAX_FILES_BYTES
    inputs = []
    for path in paths:
        data = _read(path, left)
        left -= len(data)
        inputs.append(base64.b64encode(data).decode("ascii"))
    return Question(tuple(inputs), tuple(map(str, paths)), MAX_REQUEST_BYTES)


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as reason:
        raise InputError(f"{path}: cannot be read ({reason.strerror})") from None
    except ValueError as reason:
        raise InputError(f"{path!s}: cannot be the name of a file ({reason})") from None
    if not data:
        raise InputError(f"{path}: is empty")
    if len(data) > most:
        raise InputError(
            f"{path}: more than the {most} bytes that are left of the {MAX_FILES_BYTES} that the "
            "files of one question may have; make it smaller"
        )
    return data
