"""Our side of TensorFlow's process: find an interpreter, start it, ask, and name what went wrong.

The contract is one line of JSON a request and one an answer: `{"job": …}` there, and back
`{"ok": …}` or `{"error": sentence}`. Arrays and files lie in a folder that both see; an array's
name is its place in the model's interface, because a tensor's own may be any text. Whatever ends
the process (a crash in native code, no memory, a deadline) is one InputError with the reason
reduced. After any failure of the contract the process is ended: its next answer would be a stale
one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edge_runtime.errors import InputError
from edge_runtime.inference.backend import Tensor, one_line

INTERPRETER = "EDGE_TENSORFLOW_PYTHON"
ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds our packages: a checkout, or where the wheel was unpacked."""
VENV = ".venv-tensorflow"
START_S = 300.0
JOB_S = 1800.0
END_S = 5.0
MAX_ANSWER_BYTES = 16 << 20
TAIL_BYTES = 4000
THREADS = 2
CHATTER = re.compile(r"[Ww]arning|^\s|^[IW]\d{4} |^INFO:|^fully_quantize|TF 2\.\d+|deprecat")
"""Lines of the log that are no reason."""

BOOT = (
    "import sys; sys.path.insert(0, {root!r}); import converters, edge_runtime; del sys.path[0]; "
    "from converters.tensorflow.worker import main; sys.exit(main())"
)
"""Our packages come from our folder, all others from the environment of that interpreter."""

MISSING = (
    "Keras models and SavedModels need TensorFlow in an environment of its own, and none was "
    "found: type `make setup-tensorflow` in a checkout, or install "
    '"edge-runtime[keras]" into a new environment and name its interpreter in ' + INTERPRETER
)


def find_python(root: Path = ROOT) -> Path:
    """The interpreter that has TensorFlow.

    $EDGE_TENSORFLOW_PYTHON; else this one where tensorflow is installed; else that of the
    environment which `make` sets up in a checkout at `root`.

    Raises:
        InputError: there is none.
    """
    if chosen := os.environ.get(INTERPRETER):
        if not os.access(chosen, os.X_OK):
            raise InputError(f"{INTERPRETER}: {chosen} is not an interpreter that can be run")
        return Path(chosen)
    if importlib.util.find_spec("tensorflow") is not None:
        return Path(sys.executable)
    python = root / VENV / "bin" / "python"
    if not python.is_file():
        raise InputError(MISSING)
    return python


class TensorFlow:
    """A process with TensorFlow in it, started with the first request; one thread asks it.

    A context manager; `close` ends it, and a later request starts another. One model is open at a
    time: `holds` is whoever opened it, None after a failure. `subject` begins every sentence, as
    "model faces.keras". `python` is its interpreter, else what `find_python` finds.
    """

    def __init__(
        self,
        subject: str = "TensorFlow",
        *,
        python: Path | None = None,
        start_s: float = START_S,
        job_s: float = JOB_S,
    ) -> None:
        self.subject = subject
        self.holds: object = None
        self._python = python
        self._start_s, self._job_s = start_s, job_s
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._buffer = b""

    def __enter__(self) -> TensorFlow:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def path(self, name: str) -> Path:
        """Where a file called `name` lies that both sides see; gone after `close`."""
        if self._folder is None:
            raise RuntimeError("the process has no folder before its first request")
        return Path(self._folder.name) / name

    def start(self) -> None:
        """Start the process, unless it runs; returns when TensorFlow is imported.

        Raises:
            InputError: no interpreter, or TensorFlow cannot be imported there.
        """
        if self._process is not None:
            return
        python = self._python or find_python()
        self._folder = tempfile.TemporaryDirectory(prefix="edge-tensorflow-")
        self._buffer = b""
        try:
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    [str(python), "-I", "-c", BOOT.format(root=str(ROOT))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self._folder.name,
                    env=_environment(Path(self._folder.name)),
                )
        except OSError as reason:
            self.close()
            raise InputError(f"{self.subject}: {python} cannot be started ({reason})") from None
        self._ask({"job": "hello"}, self._start_s)

    def call(self, job: str, **request: Any) -> dict[str, Any]:
        """What the process answers to `job`.

        Raises:
            InputError: it refuses the job, took too long, or ended.
        """
        self.start()
        return self._ask({"job": job, **request}, self._job_s)

    def save(self, name: str, arrays: Sequence[Tensor]) -> str:
        """Write arrays, in the order of the interface, for the other side; returns the path."""
        self.start()
        path = self.path(name)
        np.savez(path, **{str(i): one for i, one in enumerate(arrays)})  # type: ignore[arg-type]
        return str(path)

    def load(self, name: str, count: int) -> list[Tensor]:
        """Read `count` arrays that the other side wrote.

        Raises:
            InputError: they are not there.
        """
        try:
            with np.load(self.path(name), allow_pickle=False) as arrays:
                return [arrays[str(i)] for i in range(count)]
        except (OSError, ValueError, KeyError) as reason:
            raise InputError(
                f"{self.subject}: TensorFlow's process left no arrays in {name} "
                f"({one_line(reason)})"
            ) from None

    def close(self) -> None:
        """End the process and delete its folder. A second call does nothing."""
        self.holds = None
        process, self._process = self._process, None
        if process is not None:
            _end(process)
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

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
        where = f"{self.subject}: TensorFlow's process"
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
                f"{where} answered {one_line(line.decode(errors='replace'))!r}, expected JSON"
            ) from None
        if isinstance(error, str):
            raise _Refused(f"{self.subject}: {one_line(error)}")
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
        return f"{how} ({_last_words(self._log)})"


class _Refused(Exception):
    """The other side answered that it cannot."""


def _environment(folder: Path) -> dict[str, str]:
    """This process's variables, with TensorFlow kept quiet, on the CPU, without your settings."""
    return os.environ | {
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "KERAS_HOME": str(folder),  # a keras.json of yours could change the layout of pictures
        "OMP_NUM_THREADS": str(THREADS),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": str(THREADS),
        "TMPDIR": str(folder),  # what a toolchain leaves behind goes with it
    }


def _last_words(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    said = [line for line in lines if line.strip() and not CHATTER.search(line)]
    return one_line(said[-1]) if said else "it said nothing"


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
