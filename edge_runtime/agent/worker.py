"""The worker: a process that has one bundle proved, loads it, serves it, and ends.

Order: 1. open the bundle from the device's store by its manifest's digest, every byte checked;
2. ask the profile which variants fit; 3. let throw-away processes prove them, one after another,
until one passes, and load that one; 4. say so; 5. accept connections when told to; 6. when told to
drain, finish, hand the idle connections over and end. All memory goes back with the process. It
ends, too, when its supervisor does.

The heart beats from a thread of its own, and stops while an inference takes longer than it may:
the supervisor takes silence for a hang and ends the process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from edge_runtime.agent import logs
from edge_runtime.agent.built import Builds
from edge_runtime.agent.openinference import OpenInference
from edge_runtime.agent.opening import own_cores, pin, stored_bundle
from edge_runtime.agent.order import Order, Proof
from edge_runtime.agent.proving import prove_apart
from edge_runtime.agent.server import HttpServer
from edge_runtime.agent.serving import Serving
from edge_runtime.errors import EdgeError, InputError
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.selftest import confirm
from edge_runtime.inference.tasks.sent import raw_of
from edge_runtime.messages.fleet import MAX_REQUEST_BYTES
from edge_runtime.messages.worker import (
    Answer,
    Ask,
    Connection,
    Drain,
    Frame,
    FrameReader,
    Heartbeat,
    Ready,
    Refused,
    SelfTestReport,
    Serve,
    Tried,
    to_frame,
)
from edge_runtime.profile import load_profile
from edge_runtime.profile.engine import CPU
from edge_runtime.telemetry import Metrics

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
MOST = 0.9
"""Of what a worker has for each variant, that building may take."""
READ_BYTES = 256 << 10
OOM_SCORE = "500"
"""Where memory runs out, a worker goes before the supervisor, and a prover before a worker."""


class Control:
    """The worker's end of the socket pair. Without a supervisor the process ends at once."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._reader = FrameReader()
        self._descriptors: list[int] = []

    def send(self, frame: Frame, descriptor: int | None = None) -> None:
        """Send `frame`; the supervisor gets a copy of `descriptor`.

        Raises:
            InputError: it is too large; nothing was sent.
        """
        data = to_frame(frame)
        try:
            with self._lock:
                sent = 0
                if descriptor is not None:
                    sent = socket.send_fds(self._sock, [data], [descriptor])
                self._sock.sendall(data[sent:])
        except OSError:
            os._exit(0)

    def frames(self) -> Iterator[tuple[Frame, int | None]]:
        """What the supervisor says, for ever; a Connection comes with its descriptor."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._sock, READ_BYTES, 32)
            except OSError:
                data, descriptors = b"", []
            if not data:
                os._exit(0)
            self._descriptors += descriptors
            for frame in self._reader.feed(data):
                has_one = isinstance(frame, Connection)
                yield frame, self._descriptors.pop(0) if has_one else None


class Heart(threading.Thread):
    """Beats once a second, with the counters, unless an inference is stuck."""

    def __init__(self, control: Control, metrics: Metrics, hang_s: float) -> None:
        super().__init__(name="heart", daemon=True)
        self._control = control
        self._metrics = metrics
        # The supervisor allows the other half for the silence itself.
        self._hang_s = hang_s / 2
        self.serving: Serving | None = None

    def run(self) -> None:
        """Until the process ends."""
        while True:
            if self.serving is None or self.serving.stuck_s(time.monotonic()) < self._hang_s:
                self.beat()
            time.sleep(HEARTBEAT_S)

    def beat(self) -> None:
        """Say what was counted so far."""
        snapshot = self._metrics.snapshot()
        self._control.send(
            Heartbeat(
                snapshot.requests,
                snapshot.errors,
                snapshot.latency.as_json(),
                snapshot.queue_wait.as_json(),
                snapshot.failed,
                snapshot.work.as_json(),
            )
        )


class Loaded(NamedTuple):
    """What steps 1 to 3 came to. Without a pipeline none of the variants passed."""

    pipeline: Pipeline | None
    reports: tuple[SelfTestReport, ...]
    fitting: tuple[str, ...]

    @property
    def accelerated(self) -> bool:
        """Whether the one that passed runs on more than the CPU."""
        return self.pipeline is not None and self.pipeline.variant.placement.accelerator != CPU


def load(order: Order, tried: Callable[[Tried], None] = lambda _: None) -> Loaded:
    """Steps 1 to 3; `tried` hears of each proof as it ends.

    Raises:
        EdgeError: the bundle cannot be read, is not to be believed or not for this device.
    """
    # 1.
    bundle = stored_bundle(Path(order.state_dir), order.manifest_sha256)
    # 2.
    profile = load_profile(order.profile)
    fitting = profile.fits(bundle.manifest)
    variants = [v for v in fitting if not order.variants or v.id in order.variants]
    # 3.
    ids = tuple(variant.id for variant in fitting)
    proof = Proof(-1, -1, order.state_dir, order.manifest_sha256, order.profile, "")
    cores, builds = own_cores(), Builds(Path(order.state_dir), profile)
    limits = order.worker
    reports: list[SelfTestReport] = []
    for at, variant in enumerate(variants):
        left = tuple(later.id for later in variants[at + 1 :])
        proof = dataclasses.replace(proof, variant=variant.id)
        limit_s = builds.limit_s(variant, limits.prove_timeout_s, limits.start_timeout_s * MOST)
        report = prove_apart(proof, variant, profile, limit_s)
        tried(Tried(report, left))
        pipeline = None
        if report.passed:
            engine = builds.engine(bundle.manifest, variant)
            pin(engine, cores)
            pipeline, report = confirm(bundle, variant, engine, profile.budget, report)
            if pipeline is None:
                tried(Tried(report, left))
        reports.append(report)
        if not report.passed:
            builds.forget(bundle.manifest, variant)
        if pipeline is not None:
            builds.prune()
            return Loaded(pipeline, tuple(reports), ids)
    return Loaded(None, tuple(reports), ids)


class Worker:
    """Steps 4 to 6, for a bundle that passed."""

    def __init__(self, order: Order, control: Control, serving: Serving, heart: Heart) -> None:
        self._order = order
        self._control = control
        self._serving = serving
        self._heart = heart
        self._asks: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        self._answerer = threading.Thread(target=self._answer_asks, name="asks", daemon=True)
        self._server = HttpServer(
            socket.socket(fileno=order.listener),
            order.api,
            OpenInference(serving, order.version, order.api.max_body_bytes),
            lambda sock: control.send(Connection(), sock.fileno()),
        )

    def run(self) -> None:
        """Do as the supervisor says, until it says drain."""
        self._answerer.start()
        for frame, descriptor in self._control.frames():
            match frame:
                case Serve():
                    self._server.start()
                case Connection() if descriptor is not None:
                    self._server.adopt(socket.socket(fileno=descriptor))
                case Ask():
                    self._asks.put(frame)
                case Drain():
                    break
        self._asks.put(None)
        end_s = time.monotonic() + self._order.worker.drain_s
        if not self._server.drain(self._order.worker.drain_s):
            log.warning("requests are still running, ending them")
        self._answerer.join(max(0.0, end_s - time.monotonic()))
        self._heart.beat()

    def _answer_asks(self) -> None:
        while (ask := self._asks.get()) is not None:
            answer = self._answer(ask)
            try:
                self._control.send(answer)
            except InputError:
                # The broker's bound is what the asker has to know; a frame's is beyond it.
                sentence = f"the answer has more than {MAX_REQUEST_BYTES} bytes"
                self._control.send(Answer(ask.id, error=sentence))

    def _answer(self, ask: Ask) -> Answer:
        try:
            takes = self._serving.pipeline.takes
            raws = [raw_of(value, takes) for value in ask.inputs]
            results = self._serving.answers(raws) if raws else []
            return Answer(ask.id, tuple(result.as_json() for result in results))
        except EdgeError as reason:
            return Answer(ask.id, error=str(reason))
        except Exception:
            log.exception("inference failed")
            return Answer(ask.id, error="the engine failed; the device's log says more")


def main() -> int:
    """Entry point; `python -m edge_runtime.agent.worker ORDER`, by a supervisor only."""
    # The supervisor decides when we end; a terminal's or service manager's signal reaches it, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    order = Order.from_argument(sys.argv[1])
    logs.configure(order.log_level, process="worker")
    control = Control(socket.socket(fileno=order.control))
    metrics = Metrics()
    heart = Heart(control, metrics, order.worker.hang_s)
    heart.start()
    try:
        pipeline, reports, fitting = found = load(order, control.send)
    except EdgeError as reason:
        control.send(Refused(str(reason)))
        return 1
    except Exception as reason:
        log.exception("bundle cannot be loaded")
        control.send(Refused(f"bundle cannot be loaded ({type(reason).__name__}: {reason})"))
        return 1
    for report in reports:
        log.info("self-test", extra={"variant": report.variant, "passed": report.passed,
                                     "reason": report.reason or None,
                                     "took_s": round(report.took_s, 2)})  # fmt: skip
    if pipeline is None:
        why = "; ".join(f"{report.variant}: {report.reason}" for report in reports)
        control.send(Refused(f"no variant passed its self-test ({why})", reports))
        return 1
    heart.serving = Serving(pipeline, order.api.max_waiting, metrics)
    control.send(Ready(reports, fitting, found.accelerated))
    Worker(order, control, heart.serving, heart).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
