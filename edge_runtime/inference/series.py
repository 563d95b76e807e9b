"""A model's window moved over a series: rows as they are read, or a sound in pieces.

One result for each window, as soon as it is full; what is kept is one window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edge_runtime.errors import InputError
from edge_runtime.fields import Json
from edge_runtime.inference.microphone import Chunk, windows
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.streaming import sample_rate, samples
from edge_runtime.inference.tasks.results import Raw, Result


@dataclass(frozen=True, slots=True)
class Placed:
    """The result of rows `start` to `end` (behind the last), or of those seconds of a sound."""

    start: float
    end: float
    result: Result

    def as_json(self) -> dict[str, Json]:
        """For a program that reads JSON."""
        return {"start": self.start, "end": self.end, **self.result.as_json()}


def over_rows(pipeline: Pipeline, rows: Iterable[Raw], hop: int = 0) -> Iterator[Placed]:
    """Windows over rows, one every `hop`; 0: side by side.

    Raises:
        InputError: the bundle takes no series; a row is wrong; fewer rows than a window has.
    """
    window = pipeline.steps.window
    if pipeline.takes != "row" or not window:
        raise InputError(
            f"task {pipeline.task.name}: an input is one {pipeline.takes}, not a window of a series"
        )
    kept: deque[Raw] = deque(maxlen=window)
    count = 0
    for row in rows:
        kept.append(row)
        count += 1
        if count >= window and (count - window) % (hop or window) == 0:
            try:
                (result,) = pipeline((list(kept),))
            except InputError as reason:
                raise InputError(f"rows {count - window} to {count}: {reason}") from None
            yield Placed(count - window, count, result)
    if count < window:
        raise InputError(f"rows: expected at least {window}, a window's, found {count}")


def over_sound(pipeline: Pipeline, chunks: Iterable[Chunk], hop_ms: float) -> Iterator[Placed]:
    """Windows over a sound, one every `hop_ms`.

    Raises:
        InputError: the bundle takes no sound, or clips of any length; it is none, or empty.
    """
    rate, window = sample_rate(pipeline), pipeline.steps.window
    if not window:
        raise InputError(f"task {pipeline.task.name}: takes clips of any length, so has no window")
    for one in windows(chunks, window, samples(hop_ms, rate)):
        (result,) = pipeline((one.samples,))
        yield Placed(one.begin / rate, one.end / rate, result)
