"""What an attack is: bytes, the parser that they are meant for, and how that must refuse them.

Most are a valid document with one thing changed; `changed`, `without`, `written` and `rewritten`
make those. An attack that nobody need refuse (a spoiled line among sound ones is passed over) has
no error: then it is the bounds on memory, time and files that are tried.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.errors import EdgeError, UntrustedError


@dataclass(frozen=True)
class Attack:
    """`build()` makes what the parser called `parser` (see `parsers.PARSERS`) reads.

    It must end in `error`, not in one derived from it, with a sentence that holds `says`.
    """

    name: str
    parser: str
    build: Callable[[], bytes]
    says: str = ""
    error: type[EdgeError] | None = UntrustedError

    @property
    def id(self) -> str:
        """For pytest."""
        return f"{self.parser}: {self.name}"


Document = Callable[[], Any]
"""Makes a fresh valid document, as JSON decodes it."""


def dumped(value: object) -> bytes:
    """As a stranger may write it: NaN passes, and nothing is sorted."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _at(document: Any, path: str) -> tuple[Any, Any]:
    """The value that holds what a dotted path names, and the last step to it."""
    steps = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in steps[:-1]:
        document = document[step]
    return document, steps[-1]


def changed(document: Document, path: str, value: object) -> Callable[[], bytes]:
    """The document with the value at a dotted path replaced, or added."""

    def build() -> bytes:
        made = document()
        inner, last = _at(made, path)
        inner[last] = value
        return dumped(made)

    return build


def without(document: Document, path: str) -> Callable[[], bytes]:
    """The document without what a dotted path names."""

    def build() -> bytes:
        made = document()
        inner, last = _at(made, path)
        del inner[last]
        return dumped(made)

    return build


def rewritten(document: Document, old: str, new: str) -> Callable[[], bytes]:
    """The document's text with its first `old` replaced by `new`, which JSON need not be."""

    def build() -> bytes:
        text = dumped(document())
        assert old.encode() in text
        return text.replace(old.encode(), new.encode("utf-8", "surrogatepass"), 1)

    return build


def on_json(
    parser: str, document: Document, max_bytes: int, error: type[EdgeError]
) -> list[Attack]:
    """What every parser of JSON must refuse, whatever the document is about.

    `document` is an object whose first key is an ordinary one.
    """

    def attack(name: str, build: Callable[[], bytes], says: str) -> Attack:
        return Attack(name, parser, build, says, error)

    text = dumped(document())
    first = text[: text.index(b":") + 1].decode()
    pair = first + "1," + first[1:]
    huge = max_bytes - 10
    return [
        attack("nothing", lambda: b"", "not valid JSON"),
        attack("one byte too many", lambda: text.ljust(max_bytes + 1), "at most"),
        attack("a list", lambda: b"[]", "expected an object, found a list"),
        attack("null", lambda: b"null", "expected an object, found nothing"),
        attack("a number", lambda: b"7", "expected an object, found 7"),
        attack("not UTF-8", lambda: text.replace(b'"', b'"\xff', 1), "not valid JSON"),
        attack("UTF-16", lambda: text.decode().encode("utf-16"), "not valid JSON"),
        attack("a byte order mark", lambda: b"\xef\xbb\xbf" + text, "not valid JSON"),
        attack("cut short", lambda: text[:-1], "not valid JSON"),
        attack("two documents", lambda: text + text, "not valid JSON"),
        attack("NUL behind it", lambda: text + b"\0", "not valid JSON"),
        attack("a comment", lambda: text + b"// fine", "not valid JSON"),
        attack("single quotes", lambda: text.replace(b'"', b"'"), "not valid JSON"),
        attack("a key twice", lambda: text.replace(first.encode(), pair.encode(), 1), "twice"),
        attack(
            "a key twice, once escaped",
            lambda: text.replace(
                first.encode(), f'{first}1,"\\u{ord(first[2]):04x}{first[3:]}'.encode(), 1
            ),
            "twice",
        ),
        attack("NaN", rewritten(document, first, '{"x":NaN,' + first[1:]), "NaN is not"),
        attack("infinity", rewritten(document, first, '{"x":-Infinity,' + first[1:]), "-Infinity"),
        attack("1e999", rewritten(document, first, '{"x":1e999,' + first[1:]), "out of range"),
        attack(
            "an endless number",
            rewritten(document, first, '{"x":' + "9" * (max_bytes // 2) + "," + first[1:]),
            "digits",
        ),
        attack("half a surrogate pair", rewritten(document, first, r'{"x":"\udc00",' + first[1:]),
               "not valid JSON"),
        attack("lists without end", lambda: b"[" * huge, "nested deeper"),
        attack("objects without end", lambda: b'{"":' * (huge // 4), "nested deeper"),
        attack("one level too many", lambda: b"[" * 33 + b"]" * 33, "nested deeper"),
        attack("a string without end", lambda: b'{"x":"' + b"a" * huge, "not valid JSON"),
        attack("escapes without end", lambda: b'{"x":"' + b"\\" * huge, "not valid JSON"),
        attack("spaces without end", lambda: b" " * huge, "not valid JSON"),
        attack("as many lists as fit", lambda: b"[" + b"[]," * (huge // 3) + b"0]", ""),
        attack("as many objects as fit", lambda: b"[" + b'{"":0},' * (huge // 7) + b"0]", ""),
        attack("as many keys as fit", lambda: many_keys(huge), ""),
    ]  # fmt: skip


def many_keys(size_bytes: int) -> bytes:
    """One object of as many different keys as fit, and not one that means anything."""
    keys = ",".join(f'"{number:x}":0' for number in range(size_bytes // 10))
    return b"[{" + keys.encode() + b"}]"


TRICKS: Mapping[str, str] = {
    "a full-width letter": "ｄemo",
    "a Cyrillic letter": "dеmo",
    "a ligature": "ﬁle",
    "a combining accent": "de\u0301mo",
    "a zero-width space": "de\u200bmo",
    "text from right to left": "\u202eomed",
    "a soft hyphen": "de\u00admo",
    "a capital that grows": "dİmo",
    "a Kelvin sign": "\u212aelvin",
    "a line separator": "demo\u2028",
    "a newline": "demo\n",
    "an escape sequence": "demo\x1b[2J",
    "a NUL": "demo\0",
    "a non-breaking space": "demo\u00a0",
    "a delete": "demo\x7f",
}
"""Names that a person takes for another name, by what is wrong with each."""
