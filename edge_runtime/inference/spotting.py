"""From what a model says of each window to detections: smooth, compare, keep quiet for a while.

Pure: time is where in the sound a window ends, so the same windows give the same detections
whatever the machine.

Sources: Chen, Parada, Heigold, "Small-footprint keyword spotting using deep neural networks",
ICASSP 2014, 2.3 "Posterior handling", eq. 1 (smoothing, over fewer windows where there are no more
yet); TensorFlow's `recognize_commands` (suppression, words that stand for none).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.fields import Json
from edge_runtime.inference.tasks.results import FloatArray
from edge_runtime.inference.tasks.stream import Stream

_TIE_S = 1e-6
"""Positions are multiples of a sample; their differences, in binary, are not quite."""


@dataclass(frozen=True, slots=True)
class Detection:
    """A label that was heard. Times in seconds from the sound's beginning.

    `start_s` and `end_s` bound the first window that said so by itself: what was heard is in there,
    and ends about where it ends. `at_s` is how much of the sound there was when it was certain;
    `latency_ms` counts from `end_s` to the answer: the sound that was waited for, the wait for the
    model, and its run.
    """

    label: str
    score: float
    start_s: float
    end_s: float
    at_s: float
    latency_ms: float

    def as_json(self) -> dict[str, Json]:
        """For a program that reads JSON; times to the hundredth of a millisecond."""
        return {
            "label": self.label,
            "score": self.score,
            "start_s": round(self.start_s, 5),
            "end_s": round(self.end_s, 5),
            "at_s": round(self.at_s, 5),
            "latency_ms": round(self.latency_ms, 2),
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Heard:
    start_s: float
    end_s: float
    scores: FloatArray


class Spotter:
    """Takes the windows' scores in order. What it keeps is bounded by the smoothing."""

    def __init__(self, labels: Sequence[str], stream: Stream) -> None:
        self._labels = tuple(labels)
        self._threshold = stream.threshold
        self._smooth_s = stream.smooth_ms / 1000
        self._suppress_s = stream.suppress_ms / 1000
        self._ignored = frozenset(stream.ignore)
        self._recent: deque[_Heard] = deque()
        self._quiet_until_s = 0.0
        self._held: int | None = None  # Was detected, and has been as likely ever since.

    def __call__(self, start_s: float, end_s: float, scores: FloatArray) -> Detection | None:
        """What the window from `start_s` to `end_s` makes certain, if anything.

        Args:
            scores: 0..1 for each label, float32, (labels,).
        """
        self._recent.append(_Heard(start_s, end_s, scores))
        while end_s - self._recent[0].end_s > self._smooth_s - _TIE_S and len(self._recent) > 1:
            self._recent.popleft()
        means = np.stack([heard.scores for heard in self._recent]).mean(axis=0, dtype=np.float64)
        if self._held is not None and means[self._held] < self._threshold:
            self._held = None
        best = int(means.argmax())
        if (
            means[best] < self._threshold
            or self._labels[best] in self._ignored
            or best == self._held
            or end_s < self._quiet_until_s - _TIE_S
        ):
            return None
        self._held, self._quiet_until_s = best, end_s + self._suppress_s
        # A mean is not above all that it is of, but for rounding.
        certain = (heard for heard in self._recent if heard.scores[best] >= self._threshold)
        first = next(certain, self._recent[-1])
        waited_ms = 1000 * (end_s - first.end_s)
        score = float(means[best])
        return Detection(self._labels[best], score, first.start_s, first.end_s, end_s, waited_ms)
