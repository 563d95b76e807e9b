"""What the supervisor, its workers and its notary say over socket pairs, and how it is framed.

A frame is four bytes of length, big-endian, then one JSON object whose `kind` names its dataclass.
Both ends are ours, but a worker runs vendor code in its address space: the supervisor reads its
frames with the same care as a stranger's.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from edge_runtime.errors import InputError, UntrustedError
from edge_runtime.fields import Fields, Json, decode_json, encode_json
from edge_runtime.messages.fleet import MAX_INPUTS, Accelerator

MAX_FRAME_BYTES = 4 << 20
MAX_GIVEN_BYTES = 2 << 20
"""Of a metadata file, whose base64 fits a frame."""
OUTCOMES = ("signed", "untrusted", "metadata", "transfer", "device")
FAULTS = (
    "", "engine", "placement", "steps", "numbers", "latency", "memory", "leak", "crash", "hang",
)  # fmt: skip
"""Why a variant did not pass, in a word: "" where it did."""
MAX_OFF = 8
"""Kinds of operators that a report names; the most frequent."""
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class SelfTestReport:
    """One variant's self-test: golden vectors, placement, latency, memory.

    `value` is the worst case of `metric`, to be at least `floor`. `fault` is one of FAULTS.
    `share` of the model's operators ran on the accelerator by the engine's own account, at least
    `share_floor` had to; None where the CPU was meant, or nothing ran. `off` are those that did
    not, by kind with their number. `growth_bytes` is what each inference keeps, at the least.
    Latency is that of the process that proved it, `rss_bytes` of the one that will serve.
    """

    variant: str
    passed: bool
    reason: str
    metric: str
    value: float
    floor: float
    cases: int
    latency_p95_ms: float
    rss_bytes: int
    accelerator: Accelerator
    fault: str = ""
    share: float | None = None
    share_floor: float = 0.0
    off: tuple[str, ...] = ()
    growth_bytes: int = 0
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Stage:
    """Prover to worker: what it is about to do, so that a crash or a hang can be told."""

    name: str


@dataclass(frozen=True, slots=True)
class Tried:
    """Prover to worker, and worker to supervisor: a variant's proof has ended.

    If it passed, it is loaded now. `left` are the variants that would come after it.
    """

    report: SelfTestReport
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker to supervisor: a variant passed; the reports of all that were tried, in order.

    `fitting` are all variants that the profile allows, in order; `accelerated` says that the one
    which passed runs on more than the CPU.
    """

    reports: tuple[SelfTestReport, ...]
    fitting: tuple[str, ...] = ()
    accelerated: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Worker to supervisor: no variant passed, or the bundle could not be loaded."""

    reason: str
    reports: tuple[SelfTestReport, ...] = ()


@dataclass(frozen=True, slots=True)
class Serve:
    """Supervisor to worker: start to accept. The listening socket was inherited."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Supervisor to worker: stop accepting, finish what runs, hand over idle connections, end."""


@dataclass(frozen=True, slots=True)
class Connection:
    """An idle client connection, its descriptor in the same message (SCM_RIGHTS)."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Worker to supervisor, about once a second: alive, with its counters since it started.

    What each counts is said at `telemetry.metrics.Snapshot`.
    """

    requests: int
    errors: int
    latency: Mapping[str, Json]
    queue_wait: Mapping[str, Json]
    failed: int
    work: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Ask:
    """Supervisor to worker: answer these inputs (they came over MQTT)."""

    id: str
    inputs: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Worker to supervisor: results for `id`, or why there are none."""

    id: str
    results: tuple[Mapping[str, Json], ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Need:
    """Notary to supervisor: what does the broker keep under the name of this metadata file?"""

    name: str
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Given:
    """Supervisor to notary: the file in base64, None where there is none; or why nobody knows."""

    data: str | None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Notary to supervisor, last: `outcome` is "signed", or the kind of the error `reason` tells.

    `trusted_s` is trusted time, Unix seconds; 0 where the metadata could not be followed.
    """

    outcome: str
    reason: str = ""
    root_version: int = 0
    timestamp_version: int = 0
    trusted_s: float = 0.0


Frame: TypeAlias = (
    Stage | Tried | Ready | Refused | Serve | Drain | Connection | Heartbeat | Ask | Answer
    | Need | Given | Verdict
)  # fmt: skip


def to_frame(message: Frame) -> bytes:
    """Length and JSON of `message`.

    Raises:
        InputError: more than MAX_FRAME_BYTES: the other end would take it for nonsense and hang up.
    """
    kind = type(message).__name__
    body = encode_json({"kind": kind, **dataclasses.asdict(message)})
    if len(body) > MAX_FRAME_BYTES:
        raise InputError(f"{kind}: {len(body)} bytes, at most {MAX_FRAME_BYTES} fit a frame")
    return _LENGTH.pack(len(body)) + body


@dataclass(slots=True)
class FrameReader:
    """Puts frames together from whatever pieces the socket delivers."""

    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Frames that `data` completes.

        Raises:
            UntrustedError: a frame larger than MAX_FRAME_BYTES, malformed or of unknown kind.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer)
            if size > MAX_FRAME_BYTES:
                raise UntrustedError(f"frame: {size} bytes, at most {MAX_FRAME_BYTES}")
            if len(self._buffer) < _LENGTH.size + size:
                return
            body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + size])
            del self._buffer[: _LENGTH.size + size]
            yield _from_body(body)


def _from_body(body: bytes) -> Frame:
    f = Fields(
        decode_json(body, max_bytes=MAX_FRAME_BYTES, where="frame", error=UntrustedError),
        "frame",
        UntrustedError,
    )
    match f.text("kind"):
        case "Stage":
            return Stage(f.text("name"))
        case "Tried":
            return Tried(_report(f.object("report")), f.texts("left", (), max_items=64))
        case "Ready":
            fitting = f.texts("fitting", (), max_items=64)
            return Ready(_reports(f), fitting, f.boolean("accelerated", False))
        case "Refused":
            return Refused(f.sentence("reason"), _reports(f))
        case "Serve":
            return Serve()
        case "Drain":
            return Drain()
        case "Connection":
            return Connection()
        case "Heartbeat":
            return Heartbeat(
                requests=f.integer("requests"),
                errors=f.integer("errors"),
                latency=f.mapping("latency"),
                queue_wait=f.mapping("queue_wait"),
                failed=f.integer("failed"),
                work=f.mapping("work"),
            )
        case "Ask":
            return Ask(f.text("id"), tuple(f.items("inputs", max_items=MAX_INPUTS)))
        case "Answer":
            return Answer(
                id=f.text("id"),
                results=tuple(r.rest() for r in f.objects("results", (), max_items=64)),
                error=f.sentence("error", ""),
            )
        case "Need":
            return Need(f.text("name", max_len=1024), f.integer("max_bytes", high=MAX_GIVEN_BYTES))
        case "Given":
            given = f.text("data", max_len=MAX_FRAME_BYTES) if f.present("data") else None
            return Given(given, f.sentence("failure", ""))
        case "Verdict":
            return Verdict(
                outcome=f.choice("outcome", OUTCOMES),
                reason=f.sentence("reason", ""),
                root_version=f.integer("root_version", 0),
                timestamp_version=f.integer("timestamp_version", 0),
                trusted_s=f.number("trusted_s", 0.0, low=0),
            )
        case kind:
            raise UntrustedError(f"frame: kind {kind!r} is not known")


def _reports(f: Fields) -> tuple[SelfTestReport, ...]:
    return tuple(_report(r) for r in f.objects("reports", (), max_items=64))


def _report(f: Fields) -> SelfTestReport:
    a = f.object("accelerator")
    return SelfTestReport(
        variant=f.text("variant"),
        passed=f.boolean("passed"),
        reason=f.sentence("reason", ""),
        metric=f.text("metric"),
        value=f.number("value"),
        floor=f.number("floor"),
        cases=f.integer("cases"),
        latency_p95_ms=f.number("latency_p95_ms", low=0),
        rss_bytes=f.integer("rss_bytes"),
        accelerator=Accelerator(
            variant=a.text("variant"),
            requested=a.text("requested"),
            actual=a.text("actual"),
            degraded=a.sentence("degraded", ""),
        ),
        fault=f.choice("fault", FAULTS, ""),
        share=f.number("share", low=0, high=1) if f.present("share") else None,
        share_floor=f.number("share_floor", 0.0, low=0, high=1),
        off=f.texts("off", (), max_items=MAX_OFF),
        growth_bytes=f.integer("growth_bytes", 0),
        took_s=f.number("took_s", 0.0, low=0),
    )
