"""One worker as its supervisor sees it: a process, its channel, and what it last said."""

from __future__ import annotations

import enum
import logging
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace

from edge_runtime.agent.channel import Channel, ChannelClosed
from edge_runtime.agent.order import Order
from edge_runtime.errors import DeviceError
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.messages.worker import Frame, Ready, Tried

log = logging.getLogger(__name__)

REAP_S = 5.0
QUIET = {
    # A board's one inference at a time brings its own threads; numpy's would only take memory.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # ONNX Runtime reports to its vendor unless told before it is imported.
    "ORT_DISABLE_TELEMETRY": "1",
}


class Phase(enum.Enum):
    """How far a worker has come."""

    LOADING = "loading"
    READY = "ready"
    SERVING = "serving"
    DRAINING = "draining"


class WorkerProcess:
    """A worker, from its start on.

    `asks` are the questions that it has not answered. `deadline_s` is when it must have left its
    phase; `heard_s` when it last said anything. `loading` is the variant that passed its proof and
    is being loaded.

    Raises:
        DeviceError: the process cannot be started.
    """

    def __init__(self, order: Order, now_s: float) -> None:
        self.manifest_sha256 = order.manifest_sha256
        self.phase = Phase.LOADING
        self.heard_s = now_s
        self.deadline_s: float | None = now_s + order.worker.start_timeout_s
        self.asks: set[str] = set()
        self.accelerator: Accelerator | None = None
        self.loading: Tried | None = None
        self.ready: Ready | None = None
        self.fault = ""
        ours, theirs = socket.socketpair()
        try:
            order = replace(order, control=theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge_runtime.agent.worker", order.to_argument()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # Whatever an engine prints goes to the log.
                pass_fds=(order.control, order.listener),
                env={**os.environ, **QUIET},
                # Ctrl-C in a terminal is for the supervisor, which ends its workers in order.
                start_new_session=True,
            )
        except (OSError, ValueError) as reason:  # ValueError: a descriptor that is closed.
            ours.close()
            why = getattr(reason, "strerror", None) or reason
            raise DeviceError(f"worker cannot be started ({why})") from None
        finally:
            theirs.close()
        self.channel = Channel(ours)
        log.info("worker started", extra={"manifest": self.manifest_sha256[:12], "pid": self.pid})

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def passed(self, ready: Ready) -> None:
        """It has proved itself; the last report is that of the variant it will serve."""
        self.ready = ready
        self.phase = Phase.READY
        self.deadline_s = self.loading = None
        self.accelerator = next((r.accelerator for r in ready.reports if r.passed), None)

    def send(self, frame: Frame, descriptor: int | None = None) -> bool:
        """False where it cannot be told any more: it is then on its way out."""
        try:
            self.channel.send(frame, descriptor)
        except ChannelClosed as reason:
            self.kill(str(reason))
            return False
        return True

    def kill(self, fault: str) -> None:
        """End it at once; its channel will say so. The first `fault` is the one told."""
        self.fault = self.fault or fault
        self._process.kill()

    def reap(self) -> str:
        """After its channel has ended: how it ended, for people. Frees what it held here."""
        self.channel.close()
        try:
            code = self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._wait()
        if self.fault:
            return self.fault
        if code < 0:
            return f"the worker was ended by signal {signal_name(-code)}"
        return f"the worker ended with exit code {code}"

    def _wait(self) -> int:
        try:
            return self._process.wait(REAP_S)
        except subprocess.TimeoutExpired:
            log.error("worker does not end, not even killed", extra={"pid": self.pid})
            return -signal.SIGKILL


def signal_name(number: int) -> str:
    """As SIGSEGV; its number where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
