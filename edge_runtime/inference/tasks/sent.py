"""What a client sends in JSON, as the raw inputs that a bundle's first step takes.

HTTP, MQTT and files of lines all end here, so that a task means the same on every way in.
"""

from __future__ import annotations

import base64
import binascii

from edge_runtime.errors import InputError
from edge_runtime.fields import Json
from edge_runtime.inference.tasks.results import Raw

BASE64 = ("image", "audio")
"""Inputs that are a file's bytes."""


def raw_of(value: Json, takes: str) -> Raw:
    """`value` as one input; `takes` is a key of `table.INPUTS`.

    A text is a string, a pair a list of two or an object with "text" and "text_pair", a row an
    object or a list, a picture or a sound its file's bytes in base64.

    Raises:
        InputError: it is something else.
    """
    if takes == "text-pair" and isinstance(value, dict):
        missing = [name for name in ("text", "text_pair") if name not in value]
        if missing:
            raise InputError(f"text pair: {missing[0]} is missing")
        return value["text"], value["text_pair"]
    if takes in BASE64:
        return _bytes(value, takes)
    return value


def _bytes(value: Json, takes: str) -> bytes:
    if not isinstance(value, str):
        raise InputError(f"{takes}: expected base64 of a file's bytes, found {_kind(value)}")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as reason:
        raise InputError(f"{takes}: not base64 ({reason})") from None


def _kind(value: Json) -> str:
    return {dict: "an object", list: "a list", bool: "a boolean", type(None): "null"}.get(
        type(value), "a number"
    )
