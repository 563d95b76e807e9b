"""A sound that does not end, heard by a model of short clips: windows to detections.

`microphone` cuts the windows. What is between a window and the model's answer is the bundle's own
steps; what is made of the answers is in its step `stream`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import DeviceError, IncompatibleError, InputError
from edge_runtime.fields import Fields, Json
from edge_runtime.inference.microphone import Chunk, Microphone, Window, windows
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.spotting import Detection, Spotter
from edge_runtime.inference.tasks.stream import Stream


@dataclass(slots=True)
class Heard:
    """How much was heard: windows, those dropped since the model was too slow, and their cost.

    `seconds` of the sound; `run_ms` is the mean time of a window in steps and model.
    """

    windows: int = 0
    dropped: int = 0
    seconds: float = 0.0
    run_ms: float = 0.0

    def as_json(self) -> dict[str, Json]:
        """For a program that reads JSON."""
        return dataclasses.asdict(self)


class Listening:
    """Detections as they come: iterate once. `heard` counts meanwhile and afterwards."""

    def __init__(
        self,
        pipeline: Pipeline,
        chunks: Iterable[Chunk],
        stream: Stream,
        *,
        live: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream = stream
        self.heard = Heard()
        self._pipeline = pipeline
        self._rate = sample_rate(pipeline)
        self._clock = clock
        length = pipeline.steps.window or samples(stream.window_ms, self._rate)
        hop = samples(stream.hop_ms, self._rate)
        self._microphone = Microphone(chunks, length, hop, clock) if live else None
        self._windows = iter(self._microphone or windows(chunks, length, hop, clock))
        self._found = self._detections()

    def __iter__(self) -> Iterator[Detection]:
        return self

    def __next__(self) -> Detection:
        """Waits for the next detection.

        Raises:
            StopIteration: the sound has ended.
            InputError: what comes is no sound, or there is none.
            DeviceError: the engine failed, or answers with what is no finite number.
        """
        return next(self._found)

    def _detections(self) -> Generator[Detection, None, None]:
        labels = self._pipeline.steps.last.labels
        spotter = Spotter(labels, self.stream)
        for window in self._windows:
            began_s = self._clock()
            scores = self._pipeline.numbers(window.samples)
            if len(scores) != len(labels):
                raise IncompatibleError(
                    f"step top_k: {len(labels)} labels for {len(scores)} outputs of the model"
                )
            if not np.isfinite(scores).all():
                raise DeviceError("the model answers with a value that is not finite")
            found = spotter(window.begin / self._rate, window.end / self._rate, scores)
            done_s = self._clock()
            self._count(window, 1000 * (done_s - began_s))
            if found is not None:
                waited_ms = 1000 * (done_s - window.came_s)
                yield dataclasses.replace(found, latency_ms=found.latency_ms + waited_ms)

    def _count(self, window: Window, run_ms: float) -> None:
        heard = self.heard
        heard.windows += 1
        heard.run_ms += (run_ms - heard.run_ms) / heard.windows
        heard.seconds = window.end / self._rate
        heard.dropped = self._microphone.dropped if self._microphone else 0

    def close(self) -> None:
        """Listen no more. A microphone's thread ends with its next chunk."""
        self._found.close()
        if self._microphone is not None:
            self._microphone.close()


def samples(ms: float, rate: int) -> int:
    """How many samples `ms` are, at least one."""
    return max(1, round(ms * rate / 1000))


def sample_rate(pipeline: Pipeline) -> int:
    """Samples of a second of the sound that the bundle's steps take.

    Raises:
        InputError: they take something else.
    """
    if pipeline.takes != "audio":
        raise InputError(
            f"task {pipeline.task.name}: takes {pipeline.takes}, there is nothing to listen to"
        )
    return int(pipeline.steps.before[0].sample_rate)


def stream_of(pipeline: Pipeline, changed: Mapping[str, object]) -> Stream:
    """How the bundle wants to be put to a sound without end; `changed` replaces single options.

    Raises:
        InputError: it gives no labels to sounds, or an option is out of range.
    """
    if pipeline.takes != "audio" or pipeline.task.answers != "labels":
        raise InputError(
            f"task {pipeline.task.name} of {pipeline.takes} input: only a model that gives labels "
            "to sounds can listen, audio-classification"
        )
    declared = pipeline.steps.stream
    options = dataclasses.asdict(declared) if declared is not None else {}
    return Stream.parse(Fields({**options, **changed}, "listen", InputError))
