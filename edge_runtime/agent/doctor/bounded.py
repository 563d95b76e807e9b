"""Looks that end: side by side, each within its time, whatever a driver or a broken wheel does.

Reading a sensor may hang in its driver and a name may wait for a name server, so each look has a
thread that nobody waits for longer than agreed. What native code may crash runs in a process of its
own, `look`, which is killed with all that it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from edge_runtime.text import plain

T = TypeVar("T")

MAX_ANSWER_BYTES = 64 << 10
END_S = 0.2
LOOK = "edge_runtime.agent.doctor.look"


class Overdue(Exception):
    """A look was not over in time."""


class Late(str):
    """In words, that no answer came in time: nothing is known."""

    __slots__ = ()


class Running(Generic[T]):
    """`work` in a thread of its own, from now on."""

    def __init__(self, work: Callable[[], T], limit_s: float) -> None:
        self._limit_s = limit_s
        self._end_s = time.monotonic() + limit_s
        self._done: list[T] = []
        self._failed: list[Exception] = []
        # A daemon: one that hangs in a driver must not keep the command from ending.
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], T]) -> None:
        try:
            self._done.append(work())
        except Exception as reason:  # Whatever it is, it is this look's own, and a finding.
            self._failed.append(reason)

    def result(self) -> T:
        """What it found.

        Raises:
            Overdue: it is not over within its time.
            Exception: whatever the look raised.
        """
        self._thread.join(max(self._end_s - time.monotonic(), 0))
        if self._done:
            return self._done[0]
        if self._failed:
            raise self._failed[0]
        raise Overdue(f"not told within {self._limit_s:g} s")


def ask(arguments: Sequence[str], limit_s: float) -> Mapping[str, object] | str:
    """The answer of `look` to `arguments`, or in words how its process ended without one.

    `Late` where it did not end in time, and was killed.
    """
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    try:
        process = subprocess.Popen(
            # As a worker is started, so that the same engines are found.
            [sys.executable, "-m", LOOK, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError as reason:
        return f"no process can be started ({reason.strerror})"
    except ValueError as reason:  # A null byte in an argument.
        return f"no process can be asked that ({reason})"
    try:
        data, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _end(process)
        return Late(f"no answer within {limit_s:.1f} s: it hangs, or this machine is slow")
    return _answer(data, process.returncode)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started; one that a driver holds is left to the kernel."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)


def _answer(data: bytes, code: int) -> Mapping[str, object] | str:
    if code < 0:
        try:
            return f"it crashed ({signal.Signals(-code).name})"
        except ValueError:
            return f"it was ended by signal {-code}"
    try:
        value = json.loads(data[:MAX_ANSWER_BYTES])
    except ValueError:
        return f"it ended with code {code} and no answer"
    if not isinstance(value, dict):
        return "its answer is no object"
    fault = value.get("fault")
    return plain(fault) if isinstance(fault, str) else value
