"""A detector's numbers become objects, whatever its conventions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import IncompatibleError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.boxes import Detect, keep
from edge_runtime.inference.tasks.image import Picture
from edge_runtime.inference.tasks.results import Boxes

SEEN = Picture(np.zeros((100, 200, 3), np.uint8), 400, 200, (0.5, 0.5), (0.0, 0.0))
"""An input of 200 × 100 pixels, of a picture of twice that."""
TWO = np.array([[10, 20, 50, 60], [100, 10, 140, 90]], np.float32)
LABELS = ["cat", "dog"]


def detect(**options: Any) -> Detect:
    return Detect.parse(Fields({"labels": LABELS, **options}, "step boxes", IncompatibleError))


def corners(found: Boxes) -> list[tuple[float, ...]]:
    return [tuple(round(side) for side in box.corners) for box in found.boxes]


SENT = [(20, 40, 100, 120), (200, 20, 280, 180)]


@pytest.mark.parametrize(
    ("form", "boxes"),
    [
        ("xyxy", TWO),
        ("yxyx", TWO[:, [1, 0, 3, 2]]),
        ("xywh", np.concatenate([TWO[:, :2], TWO[:, 2:] - TWO[:, :2]], axis=1)),
        ("cxcywh", np.concatenate([(TWO[:, :2] + TWO[:, 2:]) / 2, TWO[:, 2:] - TWO[:, :2]], 1)),
    ],
)
def test_boxes_of_every_convention_are_the_same_places(form: str, boxes: np.ndarray) -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    values = {"boxes": boxes[None], "scores": scores[None]}
    found = detect(scores="scores", corners=form)(values, 0, SEEN)
    assert corners(found) == SENT
    assert [box.label for box in found.boxes] == LABELS
    shares = boxes / np.array([200, 100, 200, 100] if form != "yxyx" else [100, 200, 100, 200])
    step = detect(scores="scores", corners=form, normalized=True)
    assert corners(step({"boxes": shares[None], "scores": scores[None]}, 0, SEEN)) == SENT


def test_scores_of_a_transformer_have_a_class_for_nothing() -> None:
    logits = np.array([[5, 0, 0], [0, 4, 0], [0, 0, 9]], np.float32)
    boxes = np.concatenate([TWO, TWO[:1]])
    step = detect(scores="logits", activation="softmax", background="last", threshold=0.5)
    found = step({"boxes": boxes[None], "logits": logits[None]}, 0, SEEN)
    assert [box.label for box in found.boxes] == ["cat", "dog"]
    assert found.boxes[0].score == pytest.approx(np.exp(5) / (np.exp(5) + 2), rel=1e-5)


def test_one_output_may_hold_boxes_objectness_and_scores() -> None:
    rows = np.array([[30, 40, 40, 40, 0.9, 0.8, 0.1], [120, 50, 40, 80, 0.2, 0.1, 0.9]], np.float32)
    step = detect(boxes="out", corners="cxcywh", objectness=True, threshold=0.25)
    (box,) = step({"out": rows[None]}, 0, SEEN).boxes
    assert box.label == "cat"
    assert box.score == pytest.approx(0.72)
    swapped = detect(boxes="out", corners="cxcywh", transposed=True)
    columns = np.delete(rows, 4, axis=1).T[None]
    assert corners(swapped({"out": columns}, 0, SEEN)) == [SENT[1], SENT[0]]


def test_classes_may_be_an_output_of_their_own() -> None:
    values = {
        "boxes": TWO[None],
        "scores": np.array([[0.7, 0.6]], np.float32),
        "classes": np.array([[1.0, 7.0]], np.float32),
    }
    found = detect(scores="scores", classes="classes")(values, 0, SEEN)
    assert [box.label for box in found.boxes] == ["dog"], "class 7 has no label"


def test_boxes_are_cut_at_the_edges_of_the_picture() -> None:
    values = {"boxes": np.array([[[-5, -5, 500, 500]]], np.float32),
              "scores": np.array([[[0.9, 0]]], np.float32)}  # fmt: skip
    assert corners(detect(scores="scores")(values, 0, SEEN)) == [(0, 0, 400, 200)]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"boxes": np.zeros((1, 2, 3)), "scores": np.zeros((1, 2, 2))}, "four numbers a box"),
        ({"boxes": np.zeros((1, 2, 4)), "scores": np.zeros((1, 2, 5))}, "2 scores a box"),
        ({"boxes": np.zeros((1, 2, 4)), "scores": np.zeros((1, 3, 2))}, "one for each of 2 boxes"),
    ],
)
def test_outputs_that_the_options_do_not_describe_are_refused(values: Any, told: str) -> None:
    with pytest.raises(IncompatibleError, match=told):
        detect(scores="scores")(values, 0, SEEN)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    return shared / union if union > 0 else 0.0


@given(
    st.lists(st.tuples(*[st.integers(0, 20)] * 4, st.integers(0, 1)), max_size=12),
    st.sampled_from([0.3, 0.5, 0.7]),
)
def test_of_overlapping_boxes_the_surest_is_kept(rows: list[Any], iou: float) -> None:
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in rows], np.float32).reshape(-1, 4)
    classes = np.array([row[4] for row in rows], np.int64)
    wanted: list[int] = []
    for at in range(len(rows)):
        if all(classes[at] != classes[k] or overlap(boxes[at], boxes[k]) <= iou for k in wanted):
            wanted.append(at)
    assert keep(boxes, classes, iou) == wanted
