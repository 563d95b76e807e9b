"""The step `class_map`: a segmenter's scores to a class for every point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import IncompatibleError
from edge_runtime.fields import Fields
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.tasks.image import LAYOUTS, Picture
from edge_runtime.inference.tasks.results import Mask

MAX_LABELS = 1 << 16


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Options of the step: `labels`, `layout` of the scores.

    The mask is as fine as the scores are: growing it to the picture's size would cost megabytes a
    class on a small board, and whoever draws it can do so better.
    """

    labels: tuple[str, ...]
    layout: str

    @classmethod
    def parse(cls, options: Fields) -> ClassMap:
        """From the step's options; faults go to `options`."""
        labels = options.texts("labels", max_items=MAX_LABELS)
        if not labels:
            options.fault(f"{options.where}: labels is empty")
        return cls(labels, options.choice("layout", LAYOUTS, "NCHW"))

    def __call__(self, scores: Tensor, picture: Picture) -> Mask:
        """Scores of one picture, three-dimensional.

        Raises:
            IncompatibleError: the model has another number of classes, or no map.
        """
        axis = 0 if self.layout == "NCHW" else -1
        if scores.ndim != 3 or scores.shape[axis] != len(self.labels):
            raise IncompatibleError(
                f"step class_map: scores of shape {list(scores.shape)} in {self.layout[1:]} for "
                f"{len(self.labels)} labels"
            )
        classes = scores.argmax(axis=axis).astype(np.uint16)
        width, height = picture.size
        sides = [
            float(np.clip((at - picture.shift[axis]) / picture.scale[axis], 0, most))
            for at, axis, most in (
                (0, 0, picture.width),
                (0, 1, picture.height),
                (width, 0, picture.width),
                (height, 1, picture.height),
            )
        ]
        return Mask(classes, self.labels, (sides[0], sides[1], sides[2], sides[3]))
