"""Whatever arrives, only our own errors escape: parsers fed with noise and with near misses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bundle.manifest import Manifest
from edge_runtime.errors import EdgeError
from edge_runtime.messages import fleet
from edge_runtime.messages.worker import FrameReader
from edge_runtime.profile import DeviceProfile
from tests.fakes.bundles import manifest_json
from tests.fakes.messages import FLEET_MESSAGES, FRAMES

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["../x", "\ud800", "x" * 3000, "NaN"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
PARSERS: dict[str, tuple[Callable[[bytes], object], Any]] = {
    "manifest": (Manifest.from_bytes, manifest_json()),
    **{
        type(message).__name__: (type(message).from_bytes, json.loads(fleet_bytes))
        for message, fleet_bytes in FLEET_MESSAGES
    },
    "frame": (
        lambda body: list(FrameReader().feed(len(body).to_bytes(4, "big") + body)),
        [json.loads(frame[4:]) for frame in FRAMES],
    ),
}


def _places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside `value`, itself included."""
    inner: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        inner = enumerate(value)
    return [way] + [place for key, item in inner for place in _places(item, (*way, key))]


def _mutated(draw: Callable[[Any], Any], value: Any) -> Any:
    """`value` with one to three places replaced or dropped."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(_places(value)[1:] or [("x",)]))
        inner = value
        for step in way:
            inner = inner[step]
        if draw(st.booleans()) and not isinstance(inner, list):
            inner.pop(last, None)
        else:
            inner[last] = draw(VALUES)
    return value


def _parsed(parse: Callable[[bytes], object], data: bytes) -> tuple[object, str]:
    """What `data` parses to, or the sentence that refuses it."""
    try:
        return parse(data), ""
    except EdgeError as error:
        return None, str(error)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_noise_raises_nothing_but_our_errors(name: str, data: bytes) -> None:
    parse, _ = PARSERS[name]
    with pytest.raises(EdgeError):
        parse(data)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_near_misses_parse_or_raise_our_errors(name: str, data: st.DataObject) -> None:
    parse, valid = PARSERS[name]
    if name == "frame":
        valid = data.draw(st.sampled_from(valid))
    body = json.dumps(_mutated(data.draw, valid)).encode()
    parsed, sentence = _parsed(parse, body)
    assert len(sentence) < 1000
    if sentence or isinstance(parsed, list):
        return
    again = getattr(parsed, "to_bytes", lambda: fleet.to_bytes(parsed))()
    assert parse(again) == parsed


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=5))
def test_frames_of_noise_raise_nothing_but_our_errors(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            list(reader.feed(piece))
    except EdgeError:
        pass


TOML = """
name = "board"
title = "A board"
arch = "x86_64"
ram_bytes = 1
storage_bytes = 1
python = ["3.11"]
[[engine]]
backend = "litert"
quantization = "x"
[sources]
arch = "here"
ram_bytes = "here"
storage_bytes = "here"
python = "here"
engine = "here"
"""


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([line for line in TOML.splitlines() if " = " in line]),
    st.sampled_from(
        ["1", "-1", "0x" + "f" * 9999, "9" * 9999, "nan", "inf", "1979-05-27", "true", '""', "[]",
         "{}", "[[1]]", "'\\'", "\"\\u0000\"", "[" * 3000, "{a=" * 3000, "=", "07:32:00"]
    ),
)  # fmt: skip
def test_a_strange_profile_parses_or_raises_our_errors(line: str, value: str) -> None:
    key = line.partition(" = ")[0]
    _, sentence = _parsed(
        lambda data: DeviceProfile.from_toml(data, where="board.toml"),
        TOML.replace(line, f"{key} = {value}").encode(),
    )
    assert sentence.startswith("board.toml" if sentence else "")
