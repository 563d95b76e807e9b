"""TOML that a person wrote: sizes and nesting are checked before memory is spent."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection

from edge_runtime.errors import InputError
from edge_runtime.fields import MAX_DEPTH, MAX_SENTENCE
from edge_runtime.text import plain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KEY_PART = r"""(?:[\w-]+|"[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\n]*')[ \t]*\.[ \t]*"""
_DEEP_KEY = re.compile(rf"(?<![\w\\-])(?:{_KEY_PART}){{{MAX_DEPTH}}}")
"""A dotted key of so many parts, which costs tomllib the square of their number in memory."""


def load_toml(data: bytes, max_bytes: int, where: str) -> dict[str, object]:
    """`data` as TOML, its size checked first.

    Raises:
        InputError: too large, not UTF-8, not TOML.
    """
    if len(data) > max_bytes:
        raise InputError(f"{where}: {len(data)} bytes, at most {max_bytes} are accepted")
    try:
        text = data.decode("utf-8")
        if _DEEP_KEY.search(text):
            raise ValueError(f"a key of more than {MAX_DEPTH} parts")
        value = tomllib.loads(text)
        _check_depth(value)
    except (ValueError, RecursionError) as reason:  # TOMLDecodeError is a ValueError
        said = plain(f"{where}: not valid TOML ({reason}", MAX_SENTENCE)
        raise InputError(f"{said})") from None
    return value


def _check_depth(value: dict[str, object]) -> None:
    """As for JSON: whoever works with the value later may recurse."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for item in level for inner in _inside(item)]
    if level:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _inside(value: object) -> Collection[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
