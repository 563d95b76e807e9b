"""A process of its own for a toolchain that cannot live in ours: start it, ask, name what failed.

Vendors' tools and TensorFlow fight with the rest over memory, versions and the terminal, so each
lives in an environment of its own. The contract is one line of JSON a request and one an answer:
`{"job": …}` there, and back `{"ok": …}` or `{"error": sentence}`; the first is `hello`. Arrays and
files lie in a folder that both see. Whatever ends the process (a crash in native code, no memory, a
deadline) is one InputError with the reason reduced. After any failure of the contract the process
is ended: its next answer would be a stale one.

`Toolchain` is our side, `answer_all` the other one's loop, which therefore imports nothing here
that is heavy.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from edge_runtime.errors import InputError
from edge_runtime.text import plain

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds our packages: a checkout, or where the wheel was unpacked."""
START_S = 300.0
JOB_S = 1800.0
END_S = 5.0
MAX_ANSWER_BYTES = 16 << 20
MAX_LINE = 300
TAIL_BYTES = 4000
PR_SET_PDEATHSIG = 1

BOOT = (
    "import sys; sys.path.insert(0, {root!r}); import converters, edge_runtime; del sys.path[0]; "
    "from converters.toolchain import end_with; end_with({parent}); "
    "from {module} import main; sys.exit(main({arguments}))"
)
"""Our packages come from our folder, all others from the environment of that interpreter."""

Self = TypeVar("Self", bound="Toolchain")


class Toolchain:
    """A process that is started with the first request; one thread asks it.

    A context manager; `close` ends it, and a later request starts another. `subject` begins every
    sentence, as "model faces.keras"; `whose` names the process in them, as "TensorFlow's process".
    `module` has the other side's `main`, called with `arguments`. `interpreter` is asked at each
    start. `chatter` matches lines of the log that are no reason.
    """

    def __init__(
        self,
        subject: str,
        whose: str,
        module: str,
        interpreter: Callable[[], Path],
        *,
        arguments: tuple[str, ...] = (),
        chatter: str = r"^\s",
        prefix: str = "edge-tool-",
        start_s: float = START_S,
        job_s: float = JOB_S,
    ) -> None:
        self.subject = subject
        self.whose = whose
        self._interpreter = interpreter
        self._module, self._arguments = module, ", ".join(map(repr, arguments))
        self._chatter = re.compile(chatter)
        self._prefix = prefix
        self._start_s, self._job_s = start_s, job_s
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._buffer = b""
        self._greeting: dict[str, Any] = {}

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def environment(self, folder: Path) -> Mapping[str, str]:
        """Variables that the process gets beside ours; `folder` goes with the process."""
        return {"TMPDIR": str(folder)}  # what a toolchain leaves behind goes with it

    def path(self, name: str) -> Path:
        """Where a file called `name` lies that both sides see; gone after `close`."""
        if self._folder is None:
            raise RuntimeError("the process has no folder before its first request")
        return Path(self._folder.name) / name

    def start(self) -> dict[str, Any]:
        """Start the process, unless it runs; returns what it answered to `hello`.

        Raises:
            InputError: no interpreter, or the toolchain cannot be imported there.
        """
        if self._process is not None:
            return self._greeting
        python = self._interpreter()
        self._folder = tempfile.TemporaryDirectory(prefix=self._prefix)
        folder = Path(self._folder.name)
        self._buffer = b""
        try:
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    [str(python), "-I", "-c", self._boot()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=folder,
                    env=os.environ | self.environment(folder),
                )
        except OSError as reason:
            self.close()
            raise InputError(f"{self.subject}: {python} cannot be started ({reason})") from None
        self._greeting = self._ask({"job": "hello"}, self._start_s)
        return self._greeting

    def call(self, job: str, **request: Any) -> dict[str, Any]:
        """What the process answers to `job`.

        Raises:
            InputError: it refuses the job, took too long, or ended.
        """
        self.start()
        return self._ask({"job": job, **request}, self._job_s)

    def close(self) -> None:
        """End the process and delete its folder. A second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    def _boot(self) -> str:
        # The system means the thread that starts a process when it speaks of its parent.
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        return BOOT.format(
            root=str(ROOT), module=self._module, arguments=self._arguments, parent=parent
        )

    @property
    def _log(self) -> Path:
        return self.path("log.txt")

    def _ask(self, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        try:
            return self._exchange(request, limit_s)
        except _Refused as reason:  # the job failed, the process is well
            raise InputError(str(reason)) from None
        except BaseException:
            self.close()
            raise

    def _exchange(self, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None:
            raise RuntimeError("the process is closed")
        where = f"{self.subject}: {self.whose}"
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise InputError(f"{where} {self._ending(process)}") from None
        line = self._line(process, time.monotonic() + limit_s)
        if line is None:
            raise InputError(f"{where} took longer than {limit_s:.0f} s for {request['job']}")
        if not line.endswith(b"\n"):
            raise InputError(f"{where} {self._ending(process)}")
        try:
            answer = json.loads(line)
            error, found = answer.get("error"), answer.get("ok")
        except (ValueError, AttributeError, RecursionError):
            raise InputError(
                f"{where} answered {shortened(line.decode(errors='replace'))!r}, expected JSON"
            ) from None
        if isinstance(error, str):
            raise _Refused(f"{self.subject}: {shortened(error)}")
        if not isinstance(found, dict):
            raise InputError(f"{where} answered neither ok nor error")
        return found

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes | None:
        """One line, with its end; without one where the process ended; None at the deadline."""
        if process.stdout is None:
            raise RuntimeError("the process was started without a pipe")
        pipe = process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                return None
            more = os.read(pipe, 1 << 16)
            if not more or len(self._buffer) > MAX_ANSWER_BYTES:
                return self._buffer.rstrip(b"\n")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line + b"\n"

    def _ending(self, process: subprocess.Popen[bytes]) -> str:
        """How it ended and the last that it said, for a sentence."""
        try:
            code = process.wait(END_S)
        except subprocess.TimeoutExpired:
            return "closed its output and went on"
        if code < 0:
            try:
                how = f"was ended by {signal.Signals(-code).name}"
            except ValueError:
                how = f"was ended by signal {-code}"
        else:
            how = f"ended with exit code {code}"
        return f"{how} ({self._last_words()})"

    def _last_words(self) -> str:
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            lines = []
        said = [line for line in lines if line.strip() and not self._chatter.search(line)]
        return shortened(said[-1]) if said else "it said nothing"


class _Refused(Exception):
    """The other side answered that it cannot."""


def shortened(said: str) -> str:
    """What a toolchain said, on one line, cut at 300 characters."""
    return plain(" ".join(said.split()), MAX_LINE)


def end_with(parent: int) -> None:
    """The other side: be killed when `parent` ends, however it does; nothing for 0.

    The end of its input says the same to the loop, but not to a tool that hangs. Linux only.
    """
    if not parent or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def answer_all(
    answer: Callable[[dict[str, Any]], dict[str, Any]], reduced: Callable[[Exception], str]
) -> int:
    """The other side: read a line of JSON, do the job, answer a line; ends with its input.

    What others print goes to stderr, which our side keeps in a file: only answers reach the pipe.
    `reduced` makes one sentence of what `answer` raised. Returns the exit code.
    """
    # The pipe is ours alone: whatever prints to descriptor 1, in C++ too, prints to the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            found: dict[str, Any] = {"ok": answer(json.loads(line))}
        except Exception as reason:  # of toolchains, converters, protobuf: no common base
            found = {"error": reduced(reason)}
        answers.write(json.dumps(found) + "\n")
        answers.flush()
    return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close its input, which ends the loop over there; kill it where that does not help."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what could not be written any more
                pipe.close()
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
