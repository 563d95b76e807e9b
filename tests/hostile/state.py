"""Spoiled files on the device's own disk: whatever stands there, the agent starts and goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.agent.installer import MAX_REQUEST_BYTES
from edge_runtime.errors import DeviceError, EdgeError, InputError, UntrustedError
from edge_runtime.update.clock import MAX_FLOOR_BYTES
from edge_runtime.update.journal import MAX_JOURNAL_BYTES
from tests.hostile.attack import TRICKS, Attack, changed, on_json, without
from tests.hostile.sound import ASKED, FLOOR, ISSUED, json_of


def _journals() -> Iterator[Attack]:
    document = json_of("journal")
    yield from on_json("journal", document, MAX_JOURNAL_BYTES, DeviceError)

    def attack(path: str, value: object, says: str, error: type[EdgeError] = DeviceError) -> Attack:
        name = f"{path} is {str(value)[:30]!r}"
        return Attack(name, "journal", changed(document, path, value), says, error)

    for key in document():
        if key not in ("desired", "active", "previous", "candidate"):
            yield Attack(
                f"no {key}", "journal", without(document, key), f"{key} is missing", DeviceError
            )
    yield attack("format", 2, "format 2")
    yield attack("state", "serving", "state is 'serving'")
    yield attack("state", "IDLE", "state is 'IDLE'")
    yield attack("state", "idle", "does not fit the candidate")
    yield attack("candidate", None, "does not fit the candidate")
    yield attack("desired.revision", -1, "revision is -1", UntrustedError)
    yield attack("desired.release.manifest.chunks", [], "add up to", UntrustedError)
    yield attack("desired.release.name", "../x", "name is", UntrustedError)
    yield attack("active", {}, "name is missing")
    yield attack("active.manifest_sha256", "../" * 21 + "x", "manifest_sha256 is")
    yield attack("good", 1, "must be true or false")
    yield attack("boots", 2**60, "boots is")
    yield attack("update_s", -1.0, "update_s is")
    yield attack("refused", [{}] * 65, "65 entries")
    yield attack("refused", [[]], "expected an object")
    yield attack("reason", "x" * 3000, "3000 characters")
    for what, text in TRICKS.items():
        yield Attack(f"{what}, reason", "journal", changed(document, "reason", text), error=None)


def _quiet(parser: str, attacks: list[Attack]) -> Iterator[Attack]:
    """The same bytes, where a parser logs what is wrong with them and goes on without."""
    for attack in attacks:
        yield Attack(attack.name, parser, attack.build, error=None)


def _lines() -> Iterator[Attack]:
    for name, data in (
        ("nothing", b""),
        ("zeros", b"\0" * 4096),
        ("noise", bytes(range(256)) * 20),
        ("lines without an end", b'{"n":1}' * 700),
        ("a line without an end", b"{" + b"x" * 7000),
        ("empty objects", b"{}\n" * 2000),
        ("newlines", b"\n" * 8192),
        ("carriage returns", b'{"n":1}\r\n' * 100),
        ("a torn line in the middle", b'{"n":1}\n{"n":2,"t\n{"n":3}\n'),
        ("larger than the bound", b'{"n":1}\n' * 4000),
    ):
        yield Attack(name, "spool", lambda data=data: data, error=None)  # type: ignore[misc]


def _asked() -> Iterator[Attack]:
    yield from on_json("install", lambda: ASKED, MAX_REQUEST_BYTES, InputError)
    for key, value, says in (
        ("path", None, "must be a string"),
        ("path", "x" * 5000, "5000 characters"),
        ("release", 5, "must be a string"),
        ("release", "x" * 600, "600 characters"),
        ("token", [], "must be a string"),
        ("token", "x" * 65, "65 characters"),
    ):
        name = f"{key} is {str(value)[:20]}"
        yield Attack(name, "install", changed(lambda: dict(ASKED), key, value), says, InputError)
    for attack in on_json("certificates", lambda: dict(ISSUED), 1 << 18, InputError):
        if attack.name != "one byte too many":  # Of a quarter of a gigabyte.
            yield attack


STATE_ATTACKS: tuple[Attack, ...] = (
    *_journals(),
    *_quiet("time-floor", on_json("time-floor", lambda: FLOOR, MAX_FLOOR_BYTES, DeviceError)),
    *_quiet("slot", on_json("slot", json_of("slot"), 1 << 20, UntrustedError)),
    *_lines(),
    *_asked(),
)


@dataclass(frozen=True)
class Planted:
    """Something in the state folder that the agent did not write: `plant(path)` puts it there."""

    name: str
    plant: Callable[[Path], object]


def _huge(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 1 << 42)


def _away(path: Path) -> None:
    """A link to a file outside, which must not be read, changed or removed."""
    outside = path.parents[1] / "outside"
    outside.write_bytes(b'{"n":"outside"}\n')
    path.symlink_to(outside)


PLANTED: tuple[Planted, ...] = (
    Planted("a file without end", _huge),
    Planted("a folder", lambda path: path.mkdir()),
    Planted("a pipe", os.mkfifo),
    Planted("a link to nowhere", lambda path: path.symlink_to("nowhere")),
    Planted("a link to itself", lambda path: path.symlink_to(path.name)),
    Planted("a link to zeros without end", lambda path: path.symlink_to("/dev/zero")),
    Planted("a link outside", _away),
    Planted("an empty file", lambda path: path.write_bytes(b"")),
)
