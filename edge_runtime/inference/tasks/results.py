"""What a task answers: one value for each text, typed, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from edge_runtime.fields import Json

FloatArray: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest label and its probability, 0..1; `scores` has the likeliest few, descending.

    `truncated`: the text was longer than the model reads, and its end did not count.
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


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A text as a vector, float32, shape (dimensions,). `truncated` as in Classification."""

    vector: FloatArray
    truncated: bool = False

    def as_json(self) -> dict[str, Json]:
        """For a program that reads JSON."""
        return {"vector": self.vector.tolist(), "truncated": self.truncated}


Result: TypeAlias = Union[Classification, Embedding]  # noqa: UP007 - read by people as a pair
