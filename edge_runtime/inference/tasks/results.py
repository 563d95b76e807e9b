"""What a task answers: one value for each input, typed, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from edge_runtime.fields import Json

FloatArray: TypeAlias = NDArray[np.float32]
Raw: TypeAlias = object
"""What a task takes: a text, two texts, a file's bytes, pixels, samples, a row. The first step of
the bundle checks it."""


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest label and its probability, 0..1; `scores` has the likeliest few, descending.

    `truncated`: the input was longer than the model reads, and its end did not count.
    """

    label: str
    score: float
    scores: tuple[tuple[str, float], ...]
    truncated: bool = False

    def as_json(self) -> dict[str, Json]:
        """For a program that reads JSON; `scores` stays a list, its order means something."""
        return {
            "label": self.label,
            "score": self.score,
            "scores": [{"label": label, "score": score} for label, score in self.scores],
            "truncated": self.truncated,
        }

    @property
    def finite(self) -> bool:
        return bool(np.isfinite([score for _, score in self.scores]).all())


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """An input as a vector, float32, shape (dimensions,). `truncated` as in Classification."""

    vector: FloatArray
    truncated: bool = False

    def as_json(self) -> dict[str, Json]:
        """For a program that reads JSON."""
        return {"vector": self.vector.tolist(), "truncated": self.truncated}

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.vector).all())


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the text: characters `start` to `end` (behind the last), label and score."""

    label: str
    score: float
    start: int
    end: int

    def as_json(self) -> dict[str, Json]:
        """For a program that reads JSON."""
        return {"label": self.label, "score": self.score, "start": self.start, "end": self.end}


@dataclass(frozen=True, slots=True)
class Spans:
    """What was found in a text, in its order. `truncated` as in Classification."""

    spans: tuple[Span, ...]
    truncated: bool = False

    def as_json(self) -> dict[str, Json]:
        """For a program that reads JSON."""
        return {"spans": [span.as_json() for span in self.spans], "truncated": self.truncated}

    @property
    def finite(self) -> bool:
        return bool(np.isfinite([span.score for span in self.spans]).all())


@dataclass(frozen=True, slots=True)
class Box:
    """An object; corners are left, top, right, bottom, in pixels of the picture that was sent."""

    label: str
    score: float
    corners: tuple[float, float, float, float]

    def as_json(self) -> dict[str, Json]:
        """For a program that reads JSON."""
        return {"label": self.label, "score": self.score, "box": list(self.corners)}


@dataclass(frozen=True, slots=True)
class Boxes:
    """The objects in a picture, the surest first."""

    boxes: tuple[Box, ...]

    def as_json(self) -> dict[str, Json]:
        """For a program that reads JSON."""
        return {"boxes": [box.as_json() for box in self.boxes]}

    @property
    def finite(self) -> bool:
        return bool(np.isfinite([(box.score, *box.corners) for box in self.boxes]).all())


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A class for every point of a picture, uint16 of shape (height, width), indexes of `labels`.

    It is as fine as the model is; `corners` (left, top, right, bottom) say which part of the
    picture that was sent it covers, in that picture's pixels.
    """

    classes: NDArray[np.uint16]
    labels: tuple[str, ...]
    corners: tuple[float, float, float, float]

    def shares(self) -> dict[str, float]:
        """Share of the mask that each label has, 0..1; labels without a point are left out."""
        counts = np.bincount(self.classes.ravel(), minlength=len(self.labels))
        return {
            label: float(count) / self.classes.size
            for label, count in zip(self.labels, counts.tolist(), strict=True)
            if count
        }

    def as_json(self) -> dict[str, Json]:
        """For a program that reads JSON; the classes row by row, each run as [class, length]."""
        flat = self.classes.ravel()
        starts = np.flatnonzero(np.diff(flat.astype(np.int32), prepend=-1))
        lengths = np.diff(starts, append=flat.size)
        height, width = self.classes.shape
        return {
            "height": height,
            "width": width,
            "corners": list(self.corners),
            "labels": list(self.labels),
            "shares": dict(self.shares()),
            "runs": [
                [int(flat[start]), int(length)]
                for start, length in zip(starts, lengths, strict=True)
            ],
        }

    @property
    def finite(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Values:
    """Named numbers: a regression's answer."""

    values: Mapping[str, float]

    def as_json(self) -> dict[str, Json]:
        """For a program that reads JSON."""
        return {"values": dict(self.values)}

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(list(self.values.values())).all())


@dataclass(frozen=True, slots=True)
class Anomaly:
    """How strange an input is; `anomalous` where the score is above the model's threshold."""

    score: float
    threshold: float

    @property
    def anomalous(self) -> bool:
        return self.score > self.threshold

    def as_json(self) -> dict[str, Json]:
        """For a program that reads JSON."""
        return {"anomalous": self.anomalous, "score": self.score, "threshold": self.threshold}

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.score))


Result: TypeAlias = Union[  # noqa: UP007 - read by people as a list
    Classification, Embedding, Spans, Boxes, Mask, Values, Anomaly
]
