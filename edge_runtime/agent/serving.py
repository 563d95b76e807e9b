"""One model, many askers: runs of the engine take turns, and every run is timed.

A small board runs one inference at a time best, so requests queue here, up to a bound; one more is
told at once to come back later. A request of many rows is many runs, and goes to the end of the
queue after each: a short one waits for a run of each of the others, never for a long one's end.
`stuck_s` is how the worker notices that its engine hangs, and so it looks at a run, whose size is
bounded, not at a request.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from edge_runtime.agent.tensors import MAX_TEXTS
from edge_runtime.errors import DeviceError, EdgeError, InputError
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.pipeline import Pipeline, Turn, check_feeds
from edge_runtime.inference.tasks.results import Raw, Result
from edge_runtime.telemetry import Metrics, Outcome

T = TypeVar("T")

MAX_REQUEST_ROWS = MAX_TEXTS
"""Texts, or rows of tensors, that one request may hold."""


class Busy(EdgeError):
    """As many requests wait as may. Try again soon."""


class Turns:
    """The engine, for one run at a time, in the order in which it was asked for.

    A plain lock goes to whoever is there first, and that is the thread which has just left it.
    """

    def __init__(self) -> None:
        self.began_s: float | None = None
        self._lock = threading.Lock()
        self._taken = False
        self._line: deque[threading.Event] = deque()

    @contextmanager
    def take(self) -> Iterator[float]:
        """Wait for a turn and have it; gives the seconds that the wait took."""
        asked_s = time.monotonic()
        self._wait()
        self.began_s = time.monotonic()
        try:
            yield self.began_s - asked_s
        finally:
            self.began_s = None
            self._pass_on()

    def _wait(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._line.append(mine)
        mine.wait()

    def _pass_on(self) -> None:
        with self._lock:
            if self._line:
                self._line.popleft().set()  # Still taken, by the next.
            else:
                self._taken = False


class Serving:
    """A pipeline behind a queue. Callable from any thread.

    `metrics` counts every inference asked for; an error in it is one of the device: overload or
    a bundle that failed, not a request that was wrong. What is no finite number is no answer: it
    counts as a failure, here and not where it cannot be written.
    """

    def __init__(self, pipeline: Pipeline, max_waiting: int, metrics: Metrics) -> None:
        self.pipeline = pipeline
        self.metrics = metrics
        self._max_waiting = max_waiting
        self._waiting = 0
        self._count = threading.Lock()
        self._turns = Turns()

    def answers(self, raws: Sequence[Raw]) -> list[Result]:
        """One result for each input of the task's.

        Raises:
            Busy: the queue is full.
            InputError: too many inputs, or one that the task does not take.
            DeviceError: the engine failed, or gave something that is not a finite number.
        """

        def work(turn: Turn) -> list[Result]:
            _check_rows(len(raws))
            results = self.pipeline(raws, turn)
            if not all(result.finite for result in results):
                raise DeviceError("the model answers with a value that is not finite")
            return results

        return self._run(work)

    def tensors(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's outputs. Raises as `answers` does; a sequence may be as long as a text."""

        def work(turn: Turn) -> dict[str, Tensor]:
            sizes = check_feeds(self.pipeline.manifest.inputs, feeds)
            _check_rows(sizes.get("batch", 1))
            length, most = sizes.get("sequence", 0), self.pipeline.max_length
            if length > most:
                raise InputError(f"request: a sequence of {length}, at most {most} are taken")
            values = self.pipeline.run(feeds, turn)
            for name, value in values.items():
                if value.dtype.kind == "f" and not np.isfinite(value).all():
                    raise DeviceError(f"output {name}: holds a value that is not finite")
            return values

        return self._run(work)

    def stuck_s(self, now_s: float) -> float:
        """How long the engine's present run has been going on, 0 where there is none."""
        began_s = self._turns.began_s
        return 0.0 if began_s is None else now_s - began_s

    def _run(self, work: Callable[[Turn], T]) -> T:
        asked_s = time.monotonic()
        with self._count:
            full = self._waiting > self._max_waiting
            self._waiting += not full
        if full:
            self.metrics.record(latency_ms=0.0, queue_wait_ms=0.0, outcome=Outcome.TURNED_AWAY)
            raise Busy(f"{self._max_waiting} requests are waiting already, try again soon")
        waits_s: list[float] = []

        @contextmanager
        def turn() -> Iterator[None]:
            with self._turns.take() as waited_s:
                waits_s.append(waited_s)
                yield

        outcome = Outcome.FAILED
        try:
            result = work(turn)
            outcome = Outcome.ANSWERED
            return result
        except InputError:
            outcome = Outcome.WRONG
            raise
        except MemoryError:
            raise DeviceError("the engine ran out of memory") from None
        finally:
            with self._count:
                self._waiting -= 1
            self.metrics.record(
                latency_ms=1000 * (time.monotonic() - asked_s),
                queue_wait_ms=1000 * sum(waits_s),
                outcome=outcome,
            )


def _check_rows(rows: int) -> None:
    if rows > MAX_REQUEST_ROWS:
        raise InputError(f"request: {rows} rows, at most {MAX_REQUEST_ROWS} are answered at once")
