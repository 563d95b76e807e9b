"""Typed access to objects that came from outside: manifests, messages, TOML files.

`decode_json` checks the size before it parses and refuses what JSON lets through but no honest
writer sends (duplicate keys, NaN, absurd nesting). `Fields` then hands out one checked value at a
time. A fault is raised at once, or, where a list is given, collected so that a person sees every
fault of a file in one go. Unknown keys pass; callers that write files for people may ask for them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, Union

from edge_runtime.errors import EdgeError
from edge_runtime.text import plain

Json: TypeAlias = Union[  # noqa: UP007 - a quoted name cannot stand in `X | Y` on 3.10
    bool, int, float, str, Sequence["Json"], Mapping[str, "Json"], None
]

MAX_DEPTH = 32
MAX_CONTAINERS = 1 << 17
"""Objects and lists in one text: a pair of brackets costs two bytes there and two hundred here."""
MAX_SENTENCE = 500
MAX_FAULTS = 32
"""Told of one file at a time."""
MAX_DIGITS = 300
"""Of an integer: each becomes a float without overflow, whoever divides or prints it later."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
REQUIRED: Any = object()
"""Default of every getter: the key must be there."""


def decode_json(
    data: bytes,
    *,
    max_bytes: int,
    where: str,
    error: type[EdgeError],
    max_containers: int = MAX_CONTAINERS,
) -> Json:
    """`data` as JSON, after its size, its encoding and its nesting have been checked.

    Raises:
        `error`: too large, not UTF-8, not JSON, duplicate keys, a number that is not finite,
            half a surrogate pair, an endless integer, nested deeper than `MAX_DEPTH`, or more than
            `max_containers` objects and lists.
    """
    if len(data) > max_bytes:
        raise error(f"{where}: {len(data)} bytes, at most {max_bytes} are accepted")

    def pairs(items: list[tuple[str, Json]]) -> dict[str, Json]:
        out = dict(items)
        if len(out) != len(items):
            raise ValueError("an object holds the same key twice")
        return out

    def constant(name: str) -> Json:
        raise ValueError(f"{name} is not a JSON number")

    def finite(digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            raise ValueError(f"{digits[:40]} is out of range")
        return number

    def bounded(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise ValueError(f"an integer of {len(digits)} digits")
        return int(digits)

    try:
        text = data.decode("utf-8")
        _check_nesting(text, max_containers)
        value: Json = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_constant=constant,
            parse_float=finite,
            parse_int=bounded,
        )
        if _SURROGATE.search(text):
            encode_json(value)  # Half a pair is no character: it could not be written again.
    except (ValueError, RecursionError) as reason:
        raise error(f"{where}: not valid JSON ({reason})") from None
    return value


def _check_nesting(text: str, max_containers: int) -> None:
    """A cheap scan before the parser recurses; brackets inside strings are left out.

    The string part of the pattern always matches, also where the string never ends: a hostile
    text must not make it backtrack.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = opened = 0
    for token in re.finditer(r'"[^"\\]*(?:\\.?[^"\\]*)*"?|[\[{]|[\]}]', text, re.DOTALL):
        first = token.group()[0]
        if first in "[{":
            depth += 1
            opened += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
            if opened > max_containers:
                raise ValueError(f"more than {max_containers} objects and lists")
        elif first in "]}":
            depth -= 1


def encode_json(value: Any) -> bytes:
    """Canonical bytes: keys sorted, no spaces, UTF-8, one newline at the end."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8") + b"\n"


class Fields:
    """One object from outside and where it stands, for messages like `manifest: files[3].path`."""

    __slots__ = ("_error", "_faults", "_seen", "_value", "where")

    def __init__(
        self, value: object, where: str, error: type[EdgeError], faults: list[str] | None = None
    ) -> None:
        self.where = where
        self._error = error
        self._faults = faults
        self._seen: set[str] = set()
        self._value: Mapping[str, Any] = {}
        if isinstance(value, Mapping):
            self._value = value
        else:
            self.fault(f"{where}: expected an object, found {_kind(value)}")

    def fault(self, sentence: str) -> None:
        """Raise `sentence`, or keep it when faults are being collected.

        A hostile key or value may be long, and hold line breaks: what is shown of it is neither.
        """
        sentence = plain(sentence, MAX_SENTENCE)
        if self._faults is None:
            raise self._error(sentence)
        self._faults.append(sentence)

    def done(self) -> None:
        """Raise everything collected as one error; nothing where nothing was wrong."""
        if self._faults:
            raise self._error(all_of(self._faults))

    def __contains__(self, key: str) -> bool:
        return key in self._value

    def present(self, key: str) -> bool:
        """Whether `key` is there and not null."""
        self._seen.add(key)
        return self._value.get(key) is not None

    def unknown(self) -> list[str]:
        """Keys that nobody has asked for, sorted: for files that people write."""
        return sorted(set(self._value) - self._seen)

    def _get(self, key: str, default: Any, accepts: tuple[type, ...], expected: str) -> Any:
        """The value, or `default`; a fault, and `accepts[0]()`, where neither is right."""
        self._seen.add(key)
        if key not in self._value:
            if default is not REQUIRED:
                return default
            self.fault(f"{self.where}: {key} is missing, expected {expected}")
            return accepts[0]()
        value = self._value[key]
        # bool is an int to Python, not to a person.
        if not isinstance(value, accepts) or (isinstance(value, bool) and bool not in accepts):
            self.fault(f"{self.where}: {key} must be {expected}, found {_kind(value)}")
            return accepts[0]()
        return value

    def _given(self, key: str, value: object) -> bool:
        """Whether `value` came from outside: no default, and nothing put for a faulty one."""
        return key in self._value and self._value[key] is value

    def text(
        self, key: str, default: Any = REQUIRED, *, max_len: int = 256, pattern: str | None = None
    ) -> str:
        """A string of at most `max_len` characters that matches `pattern` whole."""
        value = self._get(key, default, (str,), "a string")
        if not self._given(key, value):
            return value  # type: ignore[no-any-return]
        if len(value) > max_len:
            self.fault(f"{self.where}: {key} has {len(value)} characters, at most {max_len}")
        elif pattern is not None and not re.fullmatch(pattern, value):
            self.fault(f"{self.where}: {key} is {value!r}, expected the form {pattern}")
        return value  # type: ignore[no-any-return]

    def sentence(self, key: str, default: Any = REQUIRED, *, max_len: int = 2048) -> str:
        """Words for people, cut at `max_len` characters: a long reason is no reason to refuse.

        The size of the whole message was checked before.
        """
        return self.text(key, default, max_len=1 << 62)[:max_len]

    def choice(self, key: str, choices: Sequence[str], default: Any = REQUIRED) -> str:
        """A string out of `choices`."""
        value = self.text(key, default)
        if self._given(key, value) and value not in choices:
            self.fault(f"{self.where}: {key} is {value!r}, expected one of {', '.join(choices)}")
        return value

    def integer(self, key: str, default: Any = REQUIRED, *, low: int = 0, high: int = 2**53) -> int:
        """An integer, low..high."""
        value = self._get(key, default, (int,), "an integer")
        if self._given(key, value) and not low <= value <= high:
            self.fault(f"{self.where}: {key} is {_kind(value)}, expected {low}..{high}")
            return low
        return value  # type: ignore[no-any-return]

    def number(
        self, key: str, default: Any = REQUIRED, *, low: float = -1e300, high: float = 1e300
    ) -> float:
        """A finite number, low..high; an integer counts."""
        value = self._get(key, default, (float, int), "a number")
        if not self._given(key, value):
            return value  # type: ignore[no-any-return]
        # NaN compares false; an integer too large for a float compares, and does not convert.
        if not low <= value <= high:
            self.fault(f"{self.where}: {key} is {_kind(value)}, expected {low:g}..{high:g}")
            return low
        return float(value)

    def boolean(self, key: str, default: Any = REQUIRED) -> bool:
        """A truth value, nothing that merely counts as one."""
        return self._get(key, default, (bool,), "true or false")  # type: ignore[no-any-return]

    def object(self, key: str, default: Any = REQUIRED) -> Fields:
        """The object under `key`, checked from here on as `<where>.<key>`."""
        value = self._get(key, default, (dict,), "an object")
        return Fields(value, f"{self.where}.{key}", self._error, self._faults)

    def objects(
        self, key: str, default: Any = REQUIRED, *, max_items: int, min_items: int = 0
    ) -> list[Fields]:
        """The list of objects under `key`."""
        return [
            Fields(item, f"{self.where}.{key}[{index}]", self._error, self._faults)
            for index, item in enumerate(self.items(key, default, max_items, min_items))
        ]

    def texts(
        self, key: str, default: Any = REQUIRED, *, max_items: int, max_len: int = 256
    ) -> tuple[str, ...]:
        """The list of strings under `key`."""
        values = self.items(key, default, max_items)
        for index, value in enumerate(values):
            if not isinstance(value, str) or len(value) > max_len:
                self.fault(
                    f"{self.where}: {key}[{index}] must be a string of at most {max_len} "
                    f"characters, found {_kind(value)}"
                )
                return ()
        return tuple(values)

    def numbers(
        self, key: str, default: Any = REQUIRED, *, max_items: int, min_items: int = 0
    ) -> tuple[float, ...]:
        """The list of finite numbers under `key`."""
        values = self.items(key, default, max_items, min_items)
        for index, value in enumerate(values):
            if type(value) not in (int, float) or not -1e300 <= value <= 1e300:
                self.fault(
                    f"{self.where}: {key}[{index}] must be a finite number, found {_kind(value)}"
                )
                return ()
        return tuple(float(value) for value in values)

    def items(
        self, key: str, default: Any = REQUIRED, max_items: int = 4096, min_items: int = 0
    ) -> Sequence[Any]:
        """The list under `key`, its length checked, its items not."""
        values = self._get(key, default, (list, tuple), "a list")
        if self._given(key, values) and not min_items <= len(values) <= max_items:
            self.fault(
                f"{self.where}: {key} has {len(values)} entries, expected {min_items}..{max_items}"
            )
            return ()
        return values  # type: ignore[no-any-return]

    def mapping(self, key: str, default: Any = REQUIRED) -> Mapping[str, Json]:
        """The object under `key` as it is, for options whose owner checks them later."""
        return self._get(key, default, (dict,), "an object")  # type: ignore[no-any-return]

    def rest(self, *taken: str) -> Mapping[str, Json]:
        """Everything but the keys `taken`, as it is."""
        self._seen.update(self._value)
        return {key: value for key, value in self._value.items() if key not in taken}


def all_of(faults: Sequence[str]) -> str:
    """Faults of one file as one sentence; of very many, the first."""
    more = len(faults) - MAX_FAULTS
    return "; ".join(faults[:MAX_FAULTS]) + (f"; and {more} more" if more > 0 else "")


def _kind(value: object) -> str:
    """What a person calls a JSON value; short values are shown."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"an integer of {value.bit_length()} bits"  # str() refuses the longest
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, Sequence) else f"a {type(value).__name__}"
