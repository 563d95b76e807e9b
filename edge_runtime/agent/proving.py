"""A proof as the worker sees it: a prover is started, watched, and its end put into words.

Whatever happens in there comes back as a report. A prover that takes too long, or more memory than
loading may, is killed; one that crashes is told by its signal and by what it was about to do. What
it prints goes on to our own stderr, and its last line into the sentence where it aborted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edge_runtime.agent.order import Proof
from edge_runtime.agent.process import signal_name
from edge_runtime.bundle.manifest import Variant
from edge_runtime.errors import DeviceError, UntrustedError
from edge_runtime.inference.selftest import failed
from edge_runtime.messages.worker import Frame, FrameReader, Refused, SelfTestReport, Stage, Tried
from edge_runtime.profile import DeviceProfile
from edge_runtime.profile.engine import CPU
from edge_runtime.text import plain

POLL_S = 0.05
REAP_S = 5.0
READ_BYTES = 64 << 10
MAX_SAID = 4096
PEAK = 4
"""A proof may hold so many times the budget for a moment: files are read, copied and unpacked."""
DRIVERS = {
    "litert": "the delegate",
    "onnxruntime": "the execution provider",
    "rknn": "the NPU's runtime",
}


def prove_apart(
    proof: Proof, variant: Variant, profile: DeviceProfile, limit_s: float
) -> SelfTestReport:
    """Prove `variant` in a process of its own, within `limit_s`.

    Args:
        proof: what the prover is told; its descriptor and parent are filled in here.

    Raises:
        UntrustedError: the bundle is not to be believed; no other variant helps.
        DeviceError: the bundle cannot be read, or no process can be started.
    """
    began_s = time.monotonic()
    limit_bytes = PEAK * profile.budget.ram_bytes or profile.ram_bytes
    watched = _Watched(limit_s, limit_bytes)
    with _scratch() as temporary:
        process, reports = _start(proof, temporary)
        try:
            watched.follow(process, reports, began_s)
        finally:
            os.close(reports)
            _end(process)
    report = watched.report(process.returncode, variant)
    return dataclasses.replace(report, took_s=time.monotonic() - began_s)


@contextlib.contextmanager
def _scratch() -> Iterator[Mapping[str, str]]:
    """Where engines write meanwhile, as an environment: what crashes does not clean up."""
    try:
        folder = tempfile.mkdtemp(prefix="edge-proof-")
    except OSError:  # Most engines write nothing.
        yield {}
        return
    try:
        yield {"TMPDIR": folder}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(proof: Proof, more: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """The prover, and the end of the pipe that its reports come out of."""
    ours, theirs = os.pipe()
    argument = dataclasses.replace(proof, report=theirs, parent=os.getpid()).to_argument()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_runtime.agent.prover", argument],
            stdin=subprocess.DEVNULL,
            stdout=2,
            stderr=subprocess.PIPE,
            pass_fds=(theirs,),
            env={**os.environ, **more},
            start_new_session=True,
        )
    except OSError as reason:
        os.close(ours)
        raise DeviceError(f"prover cannot be started ({reason.strerror})") from None
    finally:
        os.close(theirs)
    return process, ours


@dataclass(slots=True)
class _Watched:
    """A prover that runs, and what is known of it."""

    limit_s: float
    limit_bytes: int
    stage: str = "starting"
    said: bytes = b""
    last: Frame | None = None
    fault: str = ""
    held_bytes: int = 0
    frames: FrameReader = field(default_factory=FrameReader)

    def follow(self, process: subprocess.Popen[bytes], reports: int, began_s: float) -> None:
        """Until it has reported, ended, or has to be ended."""
        assert process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(reports, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            while self.last is None and not self.fault:
                left_s = began_s + self.limit_s - time.monotonic()
                if left_s <= 0:
                    self.fault = "hang"
                    return
                for key, _ in selector.select(min(left_s, POLL_S)):
                    data = os.read(key.fd, READ_BYTES)
                    if key.fd == reports:
                        if not data:  # Nobody else holds the other end.
                            self._rest(process)
                            return
                        self._heard(data)
                    elif data:
                        self._printed(data)
                    else:
                        selector.unregister(process.stderr)
                self.held_bytes = _rss_bytes(process.pid)
                if self.held_bytes > self.limit_bytes:
                    self.fault = "memory"

    def _heard(self, data: bytes) -> None:
        try:
            for frame in self.frames.feed(data):
                if isinstance(frame, Stage):
                    self.stage = plain(frame.name, 80).strip() or self.stage
                else:
                    self.last = frame
        except UntrustedError:  # vendor code wrote into our pipe
            self.fault = "crash"

    def _printed(self, data: bytes) -> None:
        self.said = (self.said + data)[-MAX_SAID:]
        with contextlib.suppress(OSError):
            os.write(2, data)

    def _rest(self, process: subprocess.Popen[bytes]) -> None:
        """What it printed at its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(REAP_S)
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        with contextlib.suppress(OSError):
            self._printed(os.read(process.stderr.fileno(), READ_BYTES))

    def report(self, code: int | None, variant: Variant) -> SelfTestReport:
        """What came of it.

        Raises:
            UntrustedError, DeviceError: as `prove_apart`.
        """
        if isinstance(self.last, Tried):
            return self.last.report
        if isinstance(self.last, Refused):
            raise UntrustedError(self.last.reason)
        fault, reason = self._ended(code, variant)
        return failed(variant, fault, reason)

    def _ended(self, code: int | None, variant: Variant) -> tuple[str, str]:
        accelerated = variant.placement.accelerator != CPU
        who = DRIVERS.get(variant.backend, "the engine") if accelerated else "the engine"
        while_ = (
            f"while {self.stage}" if self.stage.split()[0].endswith("ing") else f"in {self.stage}"
        )
        if self.fault == "hang":
            return "hang", f"{who} hung: no end within {self.limit_s:g} s, {while_}"
        if self.fault == "memory":
            return "memory", (
                f"memory: the process held {self.held_bytes} bytes {while_}, "
                f"at most {self.limit_bytes} are allowed"
            )
        if code == -signal.SIGKILL and not self.fault:
            return "memory", (
                f"the system ended {who} by SIGKILL {while_}: there may be too little memory"
            )
        lines = self.said.decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        more = f" ({plain(last, 200)})" if last and code != -signal.SIGSEGV else ""
        if code is not None and code < 0:
            return "crash", f"{who} crashed: {signal_name(-code)} {while_}{more}"
        return "crash", f"{who} ended the process with exit code {code} {while_}{more}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it, and whatever it started. One that not even this ends is left to the system."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(REAP_S)
    if process.stderr is not None:
        process.stderr.close()


def _rss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
