"""The step `boxes`: a detector's numbers to objects, in pixels of the picture that was sent.

Detectors agree on nothing: where boxes and scores stand, what four numbers mean, whether "nothing"
is a class. All of it is options, and `FORMATS` names the usual ones. Overlapping boxes of one
class are thinned out greedily (non-maximum suppression), the surest kept.

Sources: Redmon et al. 2016 (YOLO), Liu et al. 2016 (SSD), Carion et al. 2020 (DETR).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import IncompatibleError
from edge_runtime.fields import Fields
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.tasks.image import Picture
from edge_runtime.inference.tasks.postprocess import Sigmoid, Softmax
from edge_runtime.inference.tasks.results import Box, Boxes, FloatArray

CORNERS = ("xyxy", "yxyx", "cxcywh", "xywh")
ACTIVATIONS = ("none", "sigmoid", "softmax")
BACKGROUNDS = ("none", "first", "last")
MAX_LABELS = 1 << 16
CANDIDATES = 1000
"""Boxes above the threshold that are compared with each other, the surest first."""


@dataclass(frozen=True, slots=True)
class BoxesOptions:
    """Options of the step, as the manifest declares them.

    `boxes` and `scores` name the model's outputs; where they are the same, each row holds four
    numbers of the box, then `objectness` if there is one, then the scores. `classes` names an
    output with the class of each box, where `scores` has one number a box. `transposed`: rows and
    columns are swapped, as YOLOv8 has them. `normalized`: boxes are shares of the input's size.
    `background` is the class that means nothing. `iou` is how much two boxes of one class may
    overlap, 0..1; 1 switches suppression off. `most` is how many objects are told.
    """

    boxes: str
    scores: str
    classes: str
    corners: str
    normalized: bool
    transposed: bool
    objectness: bool
    activation: str
    background: str
    labels: tuple[str, ...]
    threshold: float
    iou: float
    most: int

    @classmethod
    def parse(cls, options: Fields) -> BoxesOptions:
        """From the step's options; faults go to `options`."""
        boxes = options.text("boxes", "boxes")
        made = cls(
            boxes=boxes,
            scores=options.text("scores", boxes),
            classes=options.text("classes", ""),
            corners=options.choice("corners", CORNERS, "xyxy"),
            normalized=options.boolean("normalized", False),
            transposed=options.boolean("transposed", False),
            objectness=options.boolean("objectness", False),
            activation=options.choice("activation", ACTIVATIONS, "none"),
            background=options.choice("background", BACKGROUNDS, "none"),
            labels=options.texts("labels", max_items=MAX_LABELS),
            threshold=options.number("threshold", 0.3, low=0, high=1),
            iou=options.number("iou", 0.5, low=0, high=1),
            most=options.integer("most", 100, low=1, high=CANDIDATES),
        )
        if not made.labels:
            options.fault(f"{options.where}: labels is empty")
        if made.objectness and made.scores != made.boxes:
            options.fault(f"{options.where}: objectness stands among the boxes, with the scores")
        return made

    @property
    def outputs(self) -> tuple[str, ...]:
        """The model's outputs that the step reads."""
        return tuple(dict.fromkeys(filter(None, (self.boxes, self.scores, self.classes))))


class Detect:
    """The step. Pure; safe to call from any thread."""

    def __init__(self, options: BoxesOptions) -> None:
        self.options = options

    @classmethod
    def parse(cls, options: Fields) -> Detect:
        """From the step's options; faults go to `options`."""
        return cls(BoxesOptions.parse(options))

    def __call__(self, values: Mapping[str, Tensor], index: int, picture: Picture) -> Boxes:
        """Row `index` of the model's outputs as objects.

        Raises:
            IncompatibleError: the outputs have shapes that the options do not describe.
        """
        boxes, scores, classes = self._read(values, index)
        sure = scores > self.options.threshold
        chosen = np.flatnonzero(sure)
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")[:CANDIDATES]]
        boxes = self._pixels(self._to_corners(boxes[chosen]), picture)
        kept = keep(boxes, classes[chosen], self.options.iou)[: self.options.most]
        labels = self.options.labels
        return Boxes(
            tuple(
                Box(
                    labels[int(classes[chosen[at]])],
                    float(scores[chosen[at]]),
                    tuple(float(side) for side in boxes[at]),  # type: ignore[arg-type]
                )
                for at in kept
            )
        )

    def _read(
        self, values: Mapping[str, Tensor], index: int
    ) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
        """Boxes (n, 4) as the model has them, scores (n,) and classes (n,)."""
        o = self.options
        table = self._table(values[o.boxes][index], o.boxes)
        if table.shape[1] < 4:
            raise self._wrong(o.boxes, table, "four numbers a box at least")
        boxes, scores = table[:, :4], table[:, 4:]
        if o.scores != o.boxes:
            scores = self._table(values[o.scores][index], o.scores)
        sure = np.ones(len(table), dtype=np.float32)
        if o.objectness:
            sure, scores = _activated(scores[:, :1], "sigmoid" if o.activation == "sigmoid"
                                      else "none")[:, 0], scores[:, 1:]  # fmt: skip
        scores = _activated(scores, o.activation)
        if o.classes:
            classes = np.rint(values[o.classes][index]).astype(np.int64).ravel()
            best = scores.reshape(-1)
        else:
            scores = {"none": scores, "first": scores[:, 1:], "last": scores[:, :-1]}[o.background]
            if scores.shape[1] != len(o.labels):
                raise self._wrong(o.scores, scores, f"{len(o.labels)} scores a box, one a label")
            classes = scores.argmax(axis=1)
            best = scores.max(axis=1)
        known = (classes >= 0) & (classes < len(o.labels))
        if not len(boxes) == len(best) == len(classes):
            raise self._wrong(o.scores, scores, f"one for each of {len(boxes)} boxes")
        return boxes, np.where(known, best * sure, np.float32(-1)).astype(np.float32), classes

    def _table(self, value: Tensor, name: str) -> FloatArray:
        """One row of a batch as (boxes, numbers)."""
        found = np.asarray(value, dtype=np.float32)
        if found.ndim == 1:
            found = found[:, None]
        found = found.reshape(-1, found.shape[-1]) if found.ndim > 2 else found
        return found.T if self.options.transposed else found

    def _wrong(self, name: str, found: Tensor, expected: str) -> IncompatibleError:
        return IncompatibleError(
            f"step boxes: output {name} gives {list(found.shape)}, expected {expected}"
        )

    def _to_corners(self, boxes: FloatArray) -> FloatArray:
        """Left, top, right, bottom."""
        a, b, c, d = boxes.T
        if self.options.corners == "xyxy":
            return boxes
        if self.options.corners == "yxyx":
            return np.stack([b, a, d, c], axis=1)
        if self.options.corners == "xywh":
            return np.stack([a, b, a + c, b + d], axis=1)
        return np.stack([a - c / 2, b - d / 2, a + c / 2, b + d / 2], axis=1)

    def _pixels(self, boxes: FloatArray, picture: Picture) -> FloatArray:
        """Of the input's coordinates those of the picture that was sent, cut at its edges."""
        if self.options.normalized:
            boxes = boxes * np.tile(np.array(picture.size, dtype=np.float32), 2)
        moved = (boxes - np.tile(picture.shift, 2)) / np.tile(picture.scale, 2)
        limits = np.tile([picture.width, picture.height], 2)
        found: FloatArray = np.clip(moved, 0, limits).astype(np.float32)
        return found


def _activated(scores: FloatArray, kind: str) -> FloatArray:
    if kind == "none":
        return scores
    return Sigmoid()(scores) if kind == "sigmoid" else Softmax()(scores)


def keep(boxes: FloatArray, classes: NDArray[np.int64], iou: float) -> list[int]:
    """Indexes of the boxes that no surer one of their class overlaps by more than `iou`.

    `boxes` are corners, (n, 4), the surest first.
    """
    if iou >= 1:
        return list(range(len(boxes)))
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    left = np.arange(len(boxes))
    kept: list[int] = []
    while len(left):
        best, rest = int(left[0]), left[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        union = areas[best] + areas[rest] - shared
        overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        left = rest[(overlap <= iou) | (classes[rest] != classes[best])]
    return kept
