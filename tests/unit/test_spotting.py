"""Scores of windows become detections: smoothed, compared, kept quiet, in sound's own time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import IncompatibleError
from edge_runtime.fields import Fields
from edge_runtime.inference.spotting import Detection, Spotter
from edge_runtime.inference.tasks.stream import Stream

LABELS = ("_silence_", "yes", "no")


def stream(**options: Any) -> Stream:
    return Stream.parse(Fields(options, "step stream", IncompatibleError))


def heard(scores: Sequence[Sequence[float]], **options: Any) -> list[Detection]:
    """What windows of 1 s, 0.1 s apart, with these scores of yes and no make certain."""
    spotter = Spotter(LABELS, stream(**options))
    found = []
    for at, (yes, no) in enumerate(scores):
        row = np.array([1 - yes - no, yes, no], np.float32)
        found.append(spotter(at / 10, at / 10 + 1, row))
    return [one for one in found if one is not None]


SILENCE, YES, NO = (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)


def test_a_label_is_detected_once_its_mean_reaches_the_threshold() -> None:
    (one,) = heard([SILENCE] * 5 + [YES] * 5)
    assert (one.label, one.score) == ("yes", 1.0)
    # Means of three windows: 1/3, 2/3, 1.
    assert one.at_s == pytest.approx(1.7)
    assert (one.start_s, one.end_s) == (0.5, 1.5)
    assert one.latency_ms == pytest.approx(200)


def test_the_mean_is_of_the_windows_there_are_and_of_no_more_than_the_smoothing() -> None:
    (one,) = heard([YES])
    assert (one.at_s, one.score) == (1.0, 1.0)
    assert heard([SILENCE, YES, SILENCE, YES, SILENCE]) == []
    (one,) = heard([(0.75, 0), (0.6, 0), (0.8, 0)], threshold=0.71)
    assert one.score == pytest.approx(0.75)
    (one,) = heard([(0.0, 0), (0.6, 0), (0.75, 0), (0.8, 0)], threshold=0.71)
    assert one.score == pytest.approx((0.6 + 0.75 + 0.8) / 3)


def test_without_smoothing_each_window_stands_for_itself() -> None:
    (one,) = heard([SILENCE, YES], smooth_ms=0)
    assert (one.at_s, one.latency_ms) == (1.1, 0)


def test_a_dropped_window_leaves_a_gap_and_not_an_older_one_in_the_mean() -> None:
    spotter = Spotter(LABELS, stream())
    row = np.array([0, 1, 0], np.float32)
    assert spotter(0.0, 1.0, np.array([1, 0, 0], np.float32)) is None
    found = spotter(0.3, 1.3, row)
    assert found is not None
    assert found.score == 1.0


def test_ignored_labels_are_no_detections_and_others_can_be_ignored() -> None:
    assert heard([SILENCE] * 9) == []
    assert heard([YES] * 9, ignore=["yes"]) == []
    assert [one.label for one in heard([SILENCE] * 9, ignore=[])] == ["_silence_"]


def test_what_goes_on_is_one_detection_however_long() -> None:
    assert len(heard([YES] * 100, suppress_ms=300)) == 1
    again = [*[YES] * 10, *[SILENCE] * 10, *[YES] * 10]
    assert [one.at_s for one in heard(again)] == pytest.approx([1.0, 3.2])


def test_nothing_else_is_detected_for_a_while() -> None:
    two = [*[YES] * 6, *[NO] * 30]
    assert [(one.label, round(one.at_s, 1)) for one in heard(two)] == [("yes", 1.0), ("no", 2.0)]
    soon = heard(two, suppress_ms=0)
    assert [(one.label, round(one.at_s, 1)) for one in soon] == [("yes", 1.0), ("no", 1.8)]


def test_a_detection_is_json() -> None:
    (one,) = heard([YES])
    assert one.as_json() == {
        "label": "yes", "score": 1.0, "start_s": 0.0, "end_s": 1.0, "at_s": 1.0, "latency_ms": 0.0,
    }  # fmt: skip


def test_the_defaults_are_those_of_the_sources() -> None:
    assert stream() == Stream(100, 1000, 300, 0.7, 1000, ("_silence_", "_unknown_"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hop_ms": 0}, "hop_ms is 0, expected 1..60000"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": "high"}, "threshold must be a number"),
        ({"hop_ms": 1, "smooth_ms": 2000}, "smooth_ms is 2000, expected at most 1000 times hop_ms"),
        ({"ignore": "yes"}, "ignore must be a list"),
    ],
)
def test_a_faulty_option_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(IncompatibleError, match=says):
        stream(**options)
