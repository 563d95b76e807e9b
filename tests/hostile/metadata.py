"""Signed metadata whose bytes are malformed: before a signature is looked at, something parses it.

What is well formed and forged is in `tests/fakes/attacks.py`; here it is about bytes. An attack is
the name of a file, a newline, and what stands in its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from edge_runtime.errors import MetadataError
from edge_runtime.update.trust.client import (
    MAX_ROOT_BYTES,
    MAX_SNAPSHOT_BYTES,
    MAX_TARGETS_BYTES,
    MAX_TIMESTAMP_BYTES,
)
from tests.hostile.attack import TRICKS, Attack, changed, on_json, without
from tests.hostile.parse_peers import signed_files

FILES = {
    "3.root.json": ("2.root.json", MAX_ROOT_BYTES),
    "timestamp.json": ("timestamp.json", MAX_TIMESTAMP_BYTES),
    "2.snapshot.json": ("2.snapshot.json", MAX_SNAPSHOT_BYTES),
    "2.targets.json": ("2.targets.json", MAX_TARGETS_BYTES),
}
"""What a client asks for, the honest file that the attack begins with, the most that is read."""


def _as(name: str, build: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: name.encode() + b"\n" + build()


def _document(honest: str) -> Callable[[], Any]:
    return lambda: json.loads(signed_files()[honest])


def _metadata() -> Iterator[Attack]:
    for name, (honest, limit) in FILES.items():
        document = _document(honest)

        def attack(what: str, build: Callable[[], bytes], name: str = name) -> Attack:
            return Attack(f"{name}: {what}", "metadata", _as(name, build), "", MetadataError)

        for general in on_json("metadata", document, limit, MetadataError):
            yield attack(general.name, general.build)
            if name == "timestamp.json":
                yield Attack(
                    f"disk/{name}: {general.name}",
                    "metadata",
                    _as(f"disk/{name}", general.build),
                    error=None,
                )
        for path in ("signed", "signatures", "signed._type", "signed.version", "signed.expires"):
            yield attack(f"no {path}", without(document, path))
        for path, value in (
            ("signed", []),
            ("signed", "x"),
            ("signatures", {}),
            ("signatures", [[]]),
            ("signatures", [{}]),
            ("signatures", [{"keyid": 5, "sig": 5}]),
            ("signatures", [{"keyid": "a", "sig": "zz"}] * 2),
            ("signatures", [{"keyid": f"{number}", "sig": "00"} for number in range(100)]),
            ("signed._type", "mirrors"),
            ("signed._type", []),
            ("signed.spec_version", "2.0.0"),
            ("signed.spec_version", "1"),
            ("signed.spec_version", "1." + "9" * 250),
            ("signed.spec_version", 1.0),
            ("signed.version", "1"),
            ("signed.version", 0),
            ("signed.version", -1),
            ("signed.version", 1.5),
            ("signed.version", True),
            ("signed.version", 10**299),
            ("signed.expires", "9999-99-99T99:99:99Z"),
            ("signed.expires", "2030-01-01"),
            ("signed.expires", "٢٠٣٠-01-01T00:00:00Z"),
            ("signed.expires", 5),
            ("signed.expires", ""),
            ("signed.signed_at", 10**299),
            ("signed.signed_at", "9999-12-31T23:59:59Z"),
        ):
            shown = str(value)[:30]
            yield attack(f"{path} is {shown!r}", changed(document, path, value))
        for what, text in TRICKS.items():
            yield attack(f"{what} as type", changed(document, "signed._type", text))
    rows: tuple[tuple[str, str, Any], ...] = (
        ("timestamp.json", "signed.meta", {}),
        ("timestamp.json", "signed.meta", {"snapshot.json": {}}),
        ("timestamp.json", "signed.meta", {"snapshot.json": {"version": 2, "length": -1}}),
        ("timestamp.json", "signed.meta", {"snapshot.json": {"version": 2, "hashes": {}}}),
        ("timestamp.json", "signed.meta", {"../x.json": {"version": 2}}),
        ("2.snapshot.json", "signed.meta", []),
        ("2.snapshot.json", "signed.meta", {f"{n}.json": {"version": 1} for n in range(3000)}),
        ("2.targets.json", "signed.targets", []),
        ("2.targets.json", "signed.targets", {"../x": {"length": 1, "hashes": {"sha256": "a"}}}),
        ("2.targets.json", "signed.delegations", {"keys": {}, "roles": [{}]}),
        ("2.targets.json", "signed.delegations", {"keys": {}, "succinct_roles": {"bit_length": 9}}),
        ("3.root.json", "signed.keys", {}),
        ("3.root.json", "signed.keys", {"a": {"keytype": "x" * 5000, "scheme": "", "keyval": {}}}),
        ("3.root.json", "signed.keys", []),
        ("3.root.json", "signed.roles", {}),
        ("3.root.json", "signed.roles", {"root": {"keyids": [], "threshold": 10**299}}),
        ("3.root.json", "signed.consistent_snapshot", "yes"),
    )  # fmt: skip
    for name, path, value in rows:
        build = changed(_document(FILES[name][0]), path, value)
        yield Attack(f"{name}: {path} is {str(value)[:40]!r}", "metadata", _as(name, build), "",
                     MetadataError)  # fmt: skip


METADATA_ATTACKS: tuple[Attack, ...] = (*_metadata(),)
