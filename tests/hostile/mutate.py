"""Near misses: a sound example, or several, changed a little, by bytes or by what they mean.

`mutate` takes its chances from any `random.Random`: hypothesis hands in one whose choices it can
shrink and repeat, the fuzzer without atheris a plain one.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

from tests.hostile.attack import TRICKS, dumped

MAX_BYTES = 1 << 15

TOKENS: Sequence[bytes] = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"'", b"=", b"#", b".", b"/", b"../", b"\0",
    b"\n", b"\r\n", b"\r\n\r\n", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"null",
    b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 40, b"0x", b'"a":1,', b"[[", b"{}",
    b"\\ud800", b"\\u0000", b"\x1b[2J", "\u202e".encode(), "é".encode(), b"PK\3\4", b"PK\5\6",
    b"\x80" * 9 + b"\x01", b"\xff\xff\xff\xff", b"\xff" * 8, b"\0" * 8, b"%2e%2e", b"?", b"+", b" ",
    b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"\x82\x01",
)  # fmt: skip
VALUES: Sequence[Any] = (
    None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**299, 10**400, 0.5, -0.0, 1e300,
    float("inf"), float("nan"), "", "x", "x" * 3000, "../x", "/etc/passwd", "NaN", "1", "a\0b",
    [], [[]], [0] * 100, {}, {"": 0}, {"a": {"b": {}}}, *TRICKS.values(),
)  # fmt: skip


def mutate(random: Random, examples: Sequence[bytes]) -> bytes:
    """One of `examples` with a few changes."""
    data = random.choice(examples)
    if random.random() < 0.5 and (value := _decoded(data)) is not None:
        return dumped(_mutated(random, value))[:MAX_BYTES]
    for _ in range(random.randint(1, 4)):
        data = random.choice(_CHANGES)(random, data, examples)
    return data[:MAX_BYTES]


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _mutated(random: Random, value: Any) -> Any:
    """`value` with one to three places replaced, dropped or taken from elsewhere in it."""
    for _ in range(random.randint(1, 3)):
        places = _places(value)
        if not places:
            return copy.deepcopy(random.choice(VALUES))
        inner, last = random.choice(places)
        what = random.random()
        if what < 0.6:
            inner[last] = copy.deepcopy(random.choice(VALUES))
        elif what < 0.75 and isinstance(inner, dict):
            del inner[last]
        elif what < 0.85 and isinstance(inner, dict):
            inner[random.choice([*TRICKS.values(), "x" * 600])] = inner.pop(last)
        else:
            other, key = random.choice(places)
            inner[last] = copy.deepcopy(other[key])
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside `value`."""
    keys: Iterable[Any] = value if isinstance(value, dict) else ()
    if isinstance(value, list):
        keys = range(len(value))
    found = [(value, key) for key in keys]
    for container, key in list(found):
        found += _places(container[key])
    return found


def _put(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + random.choice(TOKENS) + data[at:]


def _overwrite(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at, token = random.randint(0, len(data)), random.choice(TOKENS)
    return data[:at] + token + data[at + len(token) :]


def _flip(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _byte(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]


def _drop(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    begin = random.randint(0, len(data))
    return data[:begin] + data[begin + random.choice((1, 1, 2, 4, 16, 100)) :]


def _cut(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: random.randint(0, len(data))]


def _twice(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    begin, end = sorted(random.randint(0, len(data)) for _ in range(2))
    return data[:end] + data[begin:end] * random.choice((1, 2, 50)) + data[end:]


def _crossed(random: Random, data: bytes, examples: Sequence[bytes]) -> bytes:
    other = random.choice(examples)
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


_CHANGES: Sequence[Callable[[Random, bytes, Sequence[bytes]], bytes]] = (
    _put, _overwrite, _flip, _byte, _drop, _cut, _twice, _crossed,
)  # fmt: skip
