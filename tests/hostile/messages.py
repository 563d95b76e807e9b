"""Malformed messages: what a device, an operator or a worker that means harm may send."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from edge_runtime.bundle.delta import MAX_INDEX_BYTES
from edge_runtime.errors import IncompatibleError, InputError, UntrustedError
from edge_runtime.messages.fleet import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES
from edge_runtime.messages.worker import MAX_FRAME_BYTES
from tests.fakes.messages import FAILED
from tests.hostile.attack import TRICKS, Attack, changed, dumped, many_keys, on_json, without
from tests.hostile.parsers import FLEET
from tests.hostile.sound import json_of, telemetry

REQUIRED = {
    "release": ("name", "version", "profile", "size_bytes", "manifest"),
    "desired": ("revision", "release"),
    "reported": ("revision", "state"),
    "online": ("online",),
    "telemetry": ("boot_id", "sequence", "time_s", "uptime_s", "requests", "latency"),
    "event": ("boot_id", "sequence", "time_s", "kind", "text"),
    "inferrequest": ("inputs",),
    "inferresult": (),
}
DIGEST = "ab" * 32


def _general() -> Iterator[Attack]:
    for kind in FLEET:
        parser, document = kind.lower(), json_of(kind.lower())
        limit = MAX_REQUEST_BYTES if parser.startswith("infer") else MAX_MESSAGE_BYTES
        yield from on_json(parser, document, limit, UntrustedError)
        yield Attack("another format", parser, changed(document, "format", 2), "format 2",
                     IncompatibleError)  # fmt: skip
        yield Attack("format as text", parser, changed(document, "format", "1"), "an integer")
        for key in REQUIRED[parser]:
            yield Attack(f"no {key}", parser, without(document, key), f"{key} is missing")


def _set(parser: str, path: str, value: object, says: str, name: str = "") -> Attack:
    shown = repr(value)[:30]
    return Attack(name or f"{path} is {shown}", parser, changed(json_of(parser), path, value), says)


def _specific() -> Iterator[Attack]:
    for where, parser in (("", "release"), ("release.", "desired")):
        for key in ("name", "version", "profile"):
            for what, text in TRICKS.items():
                yield _set(parser, where + key, text, f"{key} is", f"{what}, {where}{key}")
        yield _set(parser, f"{where}name", "../demo", "name is")
        yield _set(parser, f"{where}name", "demo/+/#", "name is")
        yield _set(parser, f"{where}version", "1.0.0+" + "x" * 300, "characters")
        yield _set(parser, f"{where}size_bytes", -1, "size_bytes is -1")
        yield _set(parser, f"{where}size_bytes", 1.0, "must be an integer")
        yield _set(parser, f"{where}size_bytes", 2**60, "size_bytes is")
        yield _set(parser, f"{where}manifest", None, "must be an object, found nothing")
        yield _set(parser, f"{where}manifest.path", "other.json", "manifest must be")
        yield _set(parser, f"{where}manifest.path", "../manifest.json", "path")
        yield _set(parser, f"{where}manifest.size_bytes", 2 << 20, "add up to")
        yield _set(parser, f"{where}manifest.sha256", DIGEST.upper(), "sha256 is")
        yield _set(parser, f"{where}manifest.chunks", [], "add up to 0")
        yield _set(parser, f"{where}manifest.chunks", [[DIGEST, 1 << 17]] * 1300, "add up to")
        yield _set(parser, f"{where}manifest.chunks.0", [1], "a chunk must be")
        yield _set(
            parser, f"{where}manifest.chunks.0", [DIGEST, True], "a chunk", "a chunk of true"
        )
        yield _set(parser, f"{where}manifest.chunks.0", ["../" * 22, 1], "a chunk must be")
    huge = [[DIGEST, 131072]] * 16
    yield Attack(
        "a manifest of 2 MiB", "release", _with_manifest(2 << 20, huge), "manifest must be"
    )
    yield Attack("an empty manifest", "release", _with_manifest(0, []), "manifest must be")
    yield _set("desired", "revision", -1, "revision is -1")
    yield _set("desired", "revision", 2**53 + 1, "revision is")
    yield _set("desired", "revision", True, "must be an integer, found true")
    yield _set("desired", "release", [], "must be an object, found a list")
    yield _set("desired", "release", "null", "must be an object")
    yield _set("desired", "attempt", "2", "must be an integer")
    yield _set("reported", "active", {}, "name is missing")
    yield _set("reported", "active.version", "1", "version is")
    yield _set("reported", "refused", [{}] * 65, "refused has 65 entries")
    yield _set("reported", "refused", [[]], "expected an object, found a list")
    yield _set("reported", "update_s", 1.1e300, "update_s is")
    yield _set("reported", "update_s", -0.1, "update_s is")
    yield _set("reported", "progress", {"chunks_held": 1}, "chunks_needed is missing")
    yield _set("reported", "accelerator.requested", 5, "must be a string")
    yield _set("online", "online", 1, "must be true or false")
    yield _set("online", "online", "true", "must be true or false")
    yield _set("online", "boot_id", "x" * 300, "300 characters")
    yield _set("telemetry", "gauges", {"a": 1e301}, "a is 1e+301")
    yield _set("telemetry", "gauges", {"a": "1"}, "must be a number")
    yield _set("telemetry", "gauges", {"a\n\x1b[2J" * 200: ""}, "gauges: a  [2Ja")
    yield _set("telemetry", "gauges", [], "must be an object")
    yield _set("telemetry", "latency", [], "must be an object")
    yield _set("telemetry", "uptime_s", -1, "uptime_s is -1")
    yield _set("telemetry", "sequence", 10**200, "sequence is an integer of")
    yield _set("event", "kind", "k" * 300, "300 characters")
    yield _set("event", "details", 7, "must be an object")
    yield _set("inferrequest", "inputs", ["a"] * 65, "65 entries")
    yield _set("inferrequest", "inputs", "abc", "must be a list")
    yield _set("inferresult", "results", [1], "expected an object")
    yield _set("inferresult", "results", [{}] * 65, "65 entries")


def _with_manifest(size_bytes: int, chunks: object) -> Callable[[], bytes]:
    entry = {"path": "manifest.json", "size_bytes": size_bytes, "sha256": DIGEST, "chunks": chunks}
    return changed(json_of("release"), "manifest", entry)


def _shown() -> Iterator[Attack]:
    """What nobody refuses, and an operator's terminal must bear."""
    histogram = telemetry()["latency"]
    for name, latency in (
        ("a mean beyond floats", {"sum_ms": 10**299}),
        ("a mean of a list", {"sum_ms": []}),
        ("an infinite histogram", histogram | {"sum_ms": 1e308, "max_ms": 1e300}),
        ("buckets beyond integers", histogram | {"buckets": [[0, 2**53]] * 400}),
        ("a bucket twice", histogram | {"buckets": [[0, 1], [0, 1]]}),
        ("a bucket of true", histogram | {"buckets": [[True, 1]]}),
        ("no buckets, a minimum", histogram | {"buckets": [], "min_ms": 1e200}),
    ):
        yield Attack(name, "telemetry", changed(telemetry, "latency", latency), error=None)
    for name, gauges in (
        ("hot as a star", {"temp_c_cpu": 1e300, "temp_c_x": -1e300}),
        ("memory beyond bytes", {"worker_rss_bytes": 1e300, "supervisor_rss_bytes": -1e300}),
    ):
        yield Attack(name, "telemetry", changed(telemetry, "gauges", gauges), error=None)
    for name, result in (
        ("a score beyond floats", {"label": "a", "score": 10**299}),
        ("a label over many lines", {"label": "a\n\x1b[2J\u202e", "score": 1.0}),
        ("a score of true", {"label": "a", "score": True}),
        ("a result of anything", {"label": [], "score": {}, "\x7f": "\x7f"}),
    ):
        yield Attack(name, "inferresult", changed(json_of("inferresult"), "results", [result]),
                     error=None)  # fmt: skip
    for what, text in TRICKS.items():
        for parser, key in (("event", "text"), ("event", "kind"), ("reported", "reason"),
                            ("reported", "state"), ("reported", "accelerator.actual")):  # fmt: skip
            yield Attack(f"{what}, {key}", parser, changed(json_of(parser), key, text), error=None)


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def _frames() -> Iterator[Attack]:
    def attack(name: str, build: Callable[[], bytes], says: str) -> Attack:
        return Attack(name, "frame", build, says)

    yield attack("a length beyond the limit", lambda: b"\xff\xff\xff\xff", "4294967295 bytes")
    yield attack("one byte too long", lambda: (MAX_FRAME_BYTES + 1).to_bytes(4, "big"), "at most")
    yield attack("a frame of nothing", lambda: b"\0\0\0\0", "not valid JSON")
    yield attack("a list", lambda: _framed(b"[]"), "expected an object")
    yield attack("no kind", lambda: _framed(b"{}"), "kind is missing")
    yield attack("another kind", lambda: _framed(b'{"kind":"Exec"}'), "kind 'Exec' is not known")
    yield attack("a kind of ours", lambda: _framed(b'{"kind":"__class__"}'), "is not known")
    yield attack("NaN", lambda: _framed(b'{"kind":"Serve","x":NaN}'), "NaN is not")
    yield attack("lists without end", lambda: _framed(b"[" * MAX_FRAME_BYTES), "nested deeper")
    yield attack(
        "as many lists as fit", lambda: _framed(b"[" + b"[]," * 1_300_000 + b"0]"), "more than"
    )
    yield attack(
        "as many objects as fit", lambda: _framed(b"[" + b'{"":0},' * 590_000 + b"0]"), "more than"
    )
    yield attack("as many keys as fit", lambda: _framed(many_keys(MAX_FRAME_BYTES)), "an object")
    yield attack(
        "as many strings as fit", lambda: _framed(b"[" + b'"ab",' * 800_000 + b"0]"), "an object"
    )
    for name, value, says in (
        ("a report without an end", {"kind": "Ready", "reports": [{}]}, "accelerator is missing"),
        ("65 reports", {"kind": "Ready", "reports": [{}] * 65}, "65 entries"),
        ("reports as text", {"kind": "Refused", "reason": "x", "reports": "x"}, "must be a list"),
        ("a reason that is none", {"kind": "Refused", "reason": 5}, "must be a string"),
        ("a count below 0", {"kind": "Heartbeat", "requests": -1, "errors": 0}, "requests is -1"),
        ("65 inputs", {"kind": "Ask", "id": "1", "inputs": ["x"] * 65}, "65 entries"),
        ("an id without end", {"kind": "Answer", "id": "x" * 300}, "300 characters"),
        ("results of numbers", {"kind": "Answer", "id": "1", "results": [1]}, "an object"),
        ("more than may be given", {"kind": "Need", "name": "x", "max_bytes": 1 << 40}, "is"),
        ("another fault", {"kind": "Tried", "report": report(fault="bored")}, "is 'bored'"),
        ("more than all", {"kind": "Tried", "report": report(share=1.5)}, "share is 1.5"),
        ("65 left", {"kind": "Tried", "report": report(), "left": ["x"] * 65}, "65 entries"),
        ("9 kinds off", {"kind": "Tried", "report": report(off=["x"] * 9)}, "9 entries"),
        ("a stage without end", {"kind": "Stage", "name": "x" * 300}, "300 characters"),
        ("another outcome", {"kind": "Verdict", "outcome": "fine"}, "outcome is 'fine'"),
    ):
        yield attack(name, lambda value=value: _framed(dumped(value)), says)  # type: ignore[misc]


def report(**changed: Any) -> dict[str, Any]:
    """A sound report of a self-test but for what is `changed`."""
    return dataclasses.asdict(FAILED) | changed


def _entries() -> Iterator[Attack]:
    """Chunk lists and delta indexes."""
    one = json_of("chunk-list", "one")
    yield from on_json("chunk-list", one, 1 << 20, UntrustedError)
    digest = one()["chunks"][0][0]
    for name, chunks, says in (
        ("a chunk of 0", [[digest, 0]], "a chunk must be"),
        ("a chunk below 0", [[digest, -10]], "a chunk must be"),
        ("a chunk of 128 KiB and one", [[digest, 131073]], "a chunk must be"),
        ("a chunk of 10.0", [[digest, 10.0]], "a chunk must be"),
        ("a chunk as object", [{"sha256": digest, "size_bytes": 10}], "a chunk must be"),
        ("a chunk of three", [[digest, 10, 10]], "a chunk must be"),
        ("sizes that wrap around", [[digest, 131072]] * 8, "add up to"),
        ("a digest with a newline", [[digest + "\n", 10]], "a chunk must be"),
        ("a digest in Arabic digits", [["١" * 64, 10]], "a chunk must be"),
        ("chunks as object", {"0": [digest, 10]}, "must be a list"),
        ("chunks nowhere", None, "must be a list"),
    ):
        yield Attack(name, "chunk-list", changed(one, "chunks", chunks), says)
    for what, text in TRICKS.items():
        yield Attack(f"{what} in the path", "chunk-list", changed(one, "path", text), "path")
    two = json_of("delta-index", "two")
    yield from on_json("delta-index", two, MAX_INDEX_BYTES, UntrustedError)
    yield Attack("another format", "delta-index", changed(two, "format", 9), "format 9",
                 IncompatibleError)  # fmt: skip
    for piece in ([DIGEST, 1, 0], [DIGEST, 0, 0, 1], [DIGEST, 1, -1, 1], [DIGEST, 1, 0, 17],
                  [DIGEST, 1, 0, 0], ["x", 1, 0, 1], [DIGEST, 1.5, 0, 1], "x", None,
                  [DIGEST, 1, 2**60, 1]):  # fmt: skip
        yield Attack(f"the piece {str(piece)[-20:]}", "delta-index",
                     changed(two, "pieces", [piece]), "a piece must be")  # fmt: skip


def _deltas() -> Iterator[Attack]:
    import zlib

    head = b"\0\0" + b"\0" * 8

    def coded(data: bytes) -> bytes:
        return head + len(data).to_bytes(4, "big") + data

    bomb = zlib.compress(b"\0" * (100 << 20), 9)
    for name, piece, says in (
        ("nothing", lambda: b"", "ends before"),
        ("half a head", lambda: head, "ends before"),
        ("a difference beyond the end", lambda: head + b"\xff\xff\xff\xff", "ends before"),
        ("no zlib", lambda: coded(b"xyz") * 2, "cannot be decompressed"),
        ("too few bytes", lambda: coded(zlib.compress(b"\0" * 999)) * 2, "not of exactly 1000"),
        ("too many bytes", lambda: coded(zlib.compress(b"\0" * 1001)) * 2, "not of exactly 1000"),
        ("100 MiB of zeros", lambda: coded(bomb) * 2, "not of exactly 1000"),
        ("cut short", lambda: coded(zlib.compress(b"\0" * 1000)[:-2]) * 2, "not of exactly 1000"),
        ("bytes behind", lambda: coded(zlib.compress(b"\0" * 1000) + b"x") * 2, "not of exactly"),
        ("a dictionary", lambda: coded(b"\x78\xbb\0\0\0\1" + b"x" * 20) * 2, "decompressed"),
        ("a third", lambda: coded(zlib.compress(b"\0" * 1000)) * 3, "after its last one"),
    ):
        yield Attack(name, "delta-piece", piece, says)
    far = b"\xff\xff" + b"\xff" * 8 + b"\0\0\0\0"
    yield Attack("an offset beyond all", "delta-piece", lambda: far * 2, "not of exactly 1000")


def _topics() -> Iterator[Attack]:
    for name, text, says in (
        ("nothing", "", "0 bytes long"),
        ("a wildcard", "edge/v1/device/+/reported", "wildcard"),
        ("a wildcard in a level", "edge/v1/device/a+/reported", "mixes text and wildcard"),
        ("a hash in the middle", "edge/#/x", "must be the last level"),
        ("a NUL", "edge/v1/device/a\0b/reported", "NUL"),
        ("too long", "x" * 70_000, "70000 bytes long"),
        ("levels without end", "/" * 60_000, "topic prefix"),
        ("an empty level", "edge//v1", "topic prefix"),
        ("a space", "edge v1", "topic prefix"),
        ("a line separator", "edge\u2028v1", "topic prefix"),
    ):
        yield Attack(name, "topic", lambda text=text: text.encode(), says, InputError)  # type: ignore[misc]
    for what, text in TRICKS.items():
        topic = f"edge/v1/device/{text}/reported"
        yield Attack(f"{what} as device", "topic", lambda topic=topic: topic.encode(), "",  # type: ignore[misc]
                     InputError if "\0" in text or not topic.isprintable() else None)  # fmt: skip


def _of(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def _enrolling() -> Iterator[Attack]:
    """What whoever reaches the server of enrolments sends, and what a false server answers."""
    for name, data, says in (
        ("nothing", b"", "does not begin with edge1_"),
        ("cut", b"edge1_AAAA", "was cut or mistyped"),
        ("no text", b"\xff", "does not begin with edge1_"),
        ("without end", b"edge1_" + b"A" * (1 << 20), "at most 4096"),
    ):
        yield Attack(name, "token", _of(data), says, InputError)
    later = "install a newer edge-agent"
    yield Attack("another format", "token", _of(b"edge9_AAAA"), later, IncompatibleError)
    for parser, error in (("enroll-request", InputError), ("enroll-answer", UntrustedError)):
        for name, data, says in (
            ("nothing", b"", "not valid JSON"),
            ("no text", b"\xff", "not valid JSON"),
            ("a list", b"[]", "expected an object"),
            ("empty", b"{}", "device is missing"),
        ):
            yield Attack(name, parser, _of(data), says, error)
        newer = b'{"format":9}'
        yield Attack("another format", parser, _of(newer), "format 9", IncompatibleError)
        large = b'{"device":"' + b"x" * (1 << 20) + b'"}'
        yield Attack("without end", parser, _of(large), "at most", error)


MESSAGE_ATTACKS: tuple[Attack, ...] = (
    *_general(), *_specific(), *_shown(), *_frames(), *_entries(), *_deltas(), *_topics(),
    *_enrolling(),
)  # fmt: skip
