"""A window moves over rows and sounds; a long input has the mean of its windows' scores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_runtime
from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.inference.series import Placed, over_rows, over_sound
from edge_runtime.inference.tasks.results import Anomaly
from edge_runtime.inference.tasks.table import declared_steps
from edge_runtime.inference.tasks.windows import MAX_WINDOWS
from tests.fakes.senses import CLIP, RATE, colours, meters, pumps, tone, wav

pytest.importorskip("onnxruntime")


def rows(count: int, hot: int | None = None) -> list[dict[str, Any]]:
    """Row `hot` is 3 standard deviations above the mean, of which the model rebuilds one."""
    return [{"heat": 60 if at == hot else 30, "state": "on"} for at in range(count)]


ONE_HOT = 2.0**2 / (4 * 3)
"""The score of a window of 4 rows of 3 numbers with the hot one in it."""


def scores(series: Iterable[Placed]) -> list[tuple[float, float, Any]]:
    found = list(series)
    assert all(isinstance(one.result, Anomaly) for one in found)
    return [(one.start, one.end, one.result.score) for one in found]  # type: ignore[union-attr]


def test_each_window_of_a_series_has_an_answer(tmp_path: Path) -> None:
    with edge_runtime.load(meters(tmp_path / "meters")) as model:
        side_by_side = list(model.slide(rows(11, hot=5)))
        assert scores(side_by_side) == [(0, 4, 0), (4, 8, pytest.approx(ONE_HOT))]
        by_two = list(model.slide(rows(9, hot=5), hop=2))
        hot = pytest.approx(ONE_HOT)
        assert scores(by_two) == [(0, 4, 0), (2, 6, hot), (4, 8, hot)]
        apart = [row[:2] for row in scores(model.slide(rows(15), hop=5))]
        assert apart == [(0, 4), (5, 9), (10, 14)]
        assert by_two[1].as_json() == {
            "start": 2, "end": 6, "score": hot, "threshold": 0.1, "anomalous": True,
        }  # fmt: skip


def test_answers_come_while_the_series_goes_on(tmp_path: Path) -> None:
    read = []

    def endless() -> Any:
        while True:
            read.append(0)
            yield {"heat": 30, "state": "off"}

    with edge_runtime.load(meters(tmp_path / "meters")) as model:
        series = model.slide(endless(), hop=1)
        assert [next(series).end for _ in range(3)] == [4, 5, 6]
    assert len(read) == 6


def test_what_is_wrong_with_a_series_is_told_with_its_rows(tmp_path: Path) -> None:
    with edge_runtime.load(meters(tmp_path / "meters")) as model:
        with pytest.raises(InputError, match="rows: expected at least 4, a window's, found 3"):
            list(model.slide(rows(3)))
        wrong = [*rows(5), {"heat": "warm", "state": "on"}, *rows(5)]
        with pytest.raises(InputError, match="rows 4 to 8: row 1: heat is 'warm', expected a num"):
            list(model.slide(wrong))
    for folder, says in (
        (meters(tmp_path / "single", window=0), "an input is one row, not a window"),
        (colours(tmp_path / "colours"), "an input is one image, not a window"),
    ):
        with edge_runtime.load(folder) as model, pytest.raises(InputError, match=says):
            list(over_rows(model.pipeline, rows(9)))


def test_a_sound_has_an_answer_for_each_window(tmp_path: Path) -> None:
    noisy = np.concatenate([tone("low", 0.01), tone("low", 0.01, loud=1.0), tone("low", 0.01)])
    with edge_runtime.load(pumps(tmp_path / "pumps")) as model:
        found = scores(over_sound(model.pipeline, [noisy], hop_ms=10))
        assert [row[:2] for row in found] == [(0, 0.01), (0.01, 0.02), (0.02, 0.03)]
        assert [score > 0.01 for _, _, score in found] == [False, True, False]
    with (
        edge_runtime.load(pumps(tmp_path / "any", samples=0)) as model,
        pytest.raises(InputError, match="takes clips of any length, so has no window"),
    ):
        list(over_sound(model.pipeline, [noisy], hop_ms=10))


# An input that is longer than the window, answered as one.


def test_a_long_clips_score_is_the_mean_of_its_windows(tmp_path: Path) -> None:
    noisy = np.concatenate([tone("low", 0.01), tone("low", 0.01, loud=1.0), tone("low", 0.02)])
    with edge_runtime.load(pumps(tmp_path / "pumps", hop=CLIP // 2)) as model:
        parts = scores(over_sound(model.pipeline, [noisy], hop_ms=5))
        assert len(parts) == 7
        mean = np.mean([score for _, _, score in parts])
        for given in (noisy, wav(noisy)):
            found = model(given)
            assert isinstance(found, Anomaly)
            assert found.score == pytest.approx(mean, rel=1e-3)
        # One window, and less than one, which gets silence behind it.
        assert model([tone("low", 0.01), tone("low", 0.002)]) == [Anomaly(0, 0.01)] * 2
        several = model([noisy, tone("low", 0.01), noisy])
        assert [round(one.score / mean, 3) for one in several] == [1, 0, 1]


def test_a_long_series_score_is_the_mean_too(tmp_path: Path) -> None:
    with edge_runtime.load(meters(tmp_path / "meters", hop=1)) as model:
        found = model(tuple(rows(8, hot=0)))
        assert isinstance(found, Anomaly)
        assert found.score == pytest.approx(ONE_HOT / 5)
        with pytest.raises(InputError, match="rows: expected 4, found 3"):
            model(tuple(rows(3)))
        with pytest.raises(InputError, match="row 1 of 2: row 0: heat is missing"):
            model([tuple(rows(8)), [{"state": "on"}] * 6])


def test_without_a_hop_a_long_series_is_refused(tmp_path: Path) -> None:
    with (
        edge_runtime.load(meters(tmp_path / "meters")) as model,
        pytest.raises(InputError, match="rows: expected 4, found 8"),
    ):
        model(tuple(rows(8)))


def test_an_input_of_too_many_windows_is_refused_before_they_are_made(tmp_path: Path) -> None:
    with (
        edge_runtime.load(pumps(tmp_path / "pumps", hop=1)) as model,
        pytest.raises(InputError, match=f"make 7921 windows, at most {MAX_WINDOWS}"),
    ):
        model(np.zeros(RATE, np.float32))
    with (
        edge_runtime.load(pumps(tmp_path / "pumps", hop=1)) as model,
        pytest.raises(InputError, match=r"audio: 6\.0 s, at most 5 s are taken"),
    ):
        model(np.zeros(6 * RATE, np.float32))


def test_a_hop_needs_a_window(tmp_path: Path) -> None:
    for folder in (meters(tmp_path / "m", window=0, hop=2), pumps(tmp_path / "p", 5, samples=0)):
        with pytest.raises(IncompatibleError, match="has a hop, but no step before the model says"):
            declared_steps(verify(FolderReader(folder)).manifest)
