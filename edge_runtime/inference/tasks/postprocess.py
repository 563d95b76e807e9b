"""Steps after the model: from rows of numbers to probabilities, unit vectors, ranked labels.

Each step is a frozen value made from its options; calling it is pure. All are stable: no
exponential overflows, no vector is divided by zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import IncompatibleError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.results import FloatArray

MAX_LABELS = 1 << 16
DEFAULT_TOP = 5


@dataclass(frozen=True, slots=True)
class Softmax:
    """exp(x) / sum(exp(x)) along the last axis."""

    @classmethod
    def parse(cls, options: Fields) -> Softmax:
        """It has no options."""
        return cls()

    def __call__(self, rows: FloatArray) -> FloatArray:
        """(n, classes) scores of any size → probabilities, float32."""
        # The largest becomes 0, so that no exponential overflows.
        powers = np.exp(rows - rows.max(axis=-1, keepdims=True))
        probabilities: FloatArray = powers / powers.sum(axis=-1, keepdims=True)
        return probabilities


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """1 / (1 + exp(-x)), each for itself: labels that do not exclude each other."""

    @classmethod
    def parse(cls, options: Fields) -> Sigmoid:
        """It has no options."""
        return cls()

    def __call__(self, rows: FloatArray) -> FloatArray:
        """Scores of any size → probabilities, float32."""
        # By tanh, which does not overflow.
        probabilities: FloatArray = np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * rows))
        return probabilities


@dataclass(frozen=True, slots=True)
class L2Normalize:
    """x / |x| along the last axis; a zero vector stays zero."""

    @classmethod
    def parse(cls, options: Fields) -> L2Normalize:
        """It has no options."""
        return cls()

    def __call__(self, rows: FloatArray) -> FloatArray:
        """(n, dimensions) → unit vectors, float32."""
        # In double, and scaled first: squares of large or tiny floats leave float32's range.
        wide = rows.astype(np.float64)
        largest = np.abs(wide).max(axis=-1, keepdims=True, initial=0.0)
        wide /= np.where(largest > 0, largest, 1.0)
        norm = np.sqrt(np.square(wide).sum(axis=-1, keepdims=True))
        return (wide / np.where(norm > 0, norm, 1.0)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class TopK:
    """The `k` largest of a row with their labels, descending; ties in the labels' order."""

    labels: tuple[str, ...]
    k: int

    @classmethod
    def parse(cls, options: Fields) -> TopK:
        """Options: labels (one for each output, in order), k (default 5)."""
        labels = options.texts("labels", max_items=MAX_LABELS)
        if not labels:
            options.fault(f"{options.where}: labels is empty")
        k = options.integer("k", DEFAULT_TOP, low=1, high=MAX_LABELS)
        return cls(labels, min(k, len(labels)))

    def __call__(self, rows: FloatArray) -> list[tuple[tuple[str, float], ...]]:
        """(n, len(labels)) → for each row its (label, value) pairs.

        Raises:
            IncompatibleError: the model has another number of outputs.
        """
        if rows.shape[-1] != len(self.labels):
            raise IncompatibleError(
                f"step top_k: {len(self.labels)} labels for {rows.shape[-1]} outputs of the model"
            )
        order = np.argsort(-rows, axis=-1, kind="stable")[:, : self.k].tolist()
        values: Sequence[Sequence[float]] = rows.tolist()
        labels = self.labels
        return [
            tuple((labels[index], row[index]) for index in best)
            for best, row in zip(order, values, strict=True)
        ]
