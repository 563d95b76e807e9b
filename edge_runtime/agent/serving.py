"""One model, many askers: inferences take turns, and every turn is timed.

A small board runs one inference at a time best, so requests queue here, up to a bound; one more is
told at once to come back later. `stuck_s` is how the worker notices that its engine hangs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from edge_runtime.errors import DeviceError, EdgeError, InputError
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.tasks.results import Result
from edge_runtime.telemetry import Metrics

T = TypeVar("T")


class Busy(EdgeError):
    """As many requests wait as may. Try again soon."""


class Serving:
    """A pipeline behind a queue. Callable from any thread.

    `metrics` counts every inference asked for; an error in it is one of the device: overload or
    an engine that failed, not a request that was wrong.
    """

    def __init__(self, pipeline: Pipeline, max_waiting: int, metrics: Metrics) -> None:
        self.pipeline = pipeline
        self.metrics = metrics
        self._max_waiting = max_waiting
        self._waiting = 0
        self._count = threading.Lock()
        self._turn = threading.Lock()
        self._began_s: float | None = None

    def texts(self, texts: Sequence[str]) -> list[Result]:
        """One result for each text.

        Raises:
            Busy: the queue is full.
            InputError: a text that the task does not take.
            DeviceError: the engine failed.
        """
        return self._run(lambda: self.pipeline(texts))

    def tensors(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's outputs. Raises as `texts` does."""
        return self._run(lambda: self.pipeline.run(feeds))

    def stuck_s(self, now_s: float) -> float:
        """How long the present inference has been running, 0 where there is none."""
        began_s = self._began_s
        return 0.0 if began_s is None else now_s - began_s

    def _run(self, work: Callable[[], T]) -> T:
        asked_s = time.monotonic()
        with self._count:
            full = self._waiting > self._max_waiting
            self._waiting += not full
        if full:
            self.metrics.record(latency_ms=0.0, queue_wait_ms=0.0, ok=False)
            raise Busy(f"{self._max_waiting} requests are waiting already, try again soon")
        wait_s = 0.0
        failed = True
        try:
            with self._turn:
                self._began_s = time.monotonic()
                wait_s = self._began_s - asked_s
                try:
                    result = work()
                finally:
                    self._began_s = None
            failed = False
            return result
        except InputError:
            failed = False
            raise
        except MemoryError:
            raise DeviceError("the engine ran out of memory") from None
        finally:
            with self._count:
                self._waiting -= 1
            self.metrics.record(
                latency_ms=1000 * (time.monotonic() - asked_s),
                queue_wait_ms=1000 * wait_s,
                ok=not failed,
            )
