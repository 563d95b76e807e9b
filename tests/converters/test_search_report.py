"""The search's page: the choice and its cost on top, everything escaped, nothing loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from converters.figures import MAX_CONFUSED, confusion
from converters.model import TextModel
from converters.pipeline import Conversion
from converters.report import front_plots
from converters.report.confused import heat, moved
from converters.report.layers import layer_errors
from converters.report.plots import Series
from converters.report.search import change_words, search_page, times
from converters.report.story import original, story, subject
from converters.search.budget import Budget, Cost
from converters.search.front import front
from converters.search.result import ORIGINAL, Finalist, Found, Tried, float_model
from tests.converters.test_report import HOSTILE, Page

SHAPE, OTHER = "d1-n50-h100-v12k", "d2-n25-h50-v12k"
CHOICE = f"{SHAPE}/litert-cpu-dynamic-w8-channel"
HISTORY = [[40, 1.5, 0.6], [80, 0.9, 0.8]]
PASSES: dict[str, dict[str, Any]] = {
    "prune": {
        "parts": "neurons", "before": 512, "after": 256, "cosine_mean": 0.98,
        "layers": [
            {"before": 256, "after": 160, "sensitivity": [[0, 0], [0.5, 0.1]]},
            {"before": 256, "after": 96, "sensitivity": [[0, 0], [0.5, 0.3]]},
        ],
    },
    "distil": {
        "rows": 216, "steps": 80, "parameters": [1_800_000, 700_000], "history": HISTORY,
        "held_out": {"n": 24, "agreement": 0.9, "cosine": 0.97, "regret": 0.01}, "seconds": 12.5,
        "cached": True,
    },
    "distil 2": {
        "rows": 216, "steps": 80, "parameters": [700_000, 700_000], "history": HISTORY,
        "held_out": {"n": 24, "agreement": 0.95, "cosine": 0.98, "regret": 0.005}, "seconds": 10,
        "cached": True,
    },
}  # fmt: skip


def finalists(candidate: str, conversion: Conversion, share: float) -> list[Finalist]:
    """The conversion's variants as a shape that costs `share` of what was measured."""
    verdict = conversion.model.verdict
    assert verdict is not None
    return [
        Finalist(
            name=one.id,
            candidate=candidate,
            backend=one.backend,
            evidence=evidence,
            cost=Cost(
                latency_ms=share * evidence.latency_ms[max(evidence.latency_ms)],
                size_bytes=share * one.artifact.size_bytes,
                ram_bytes=60e6 if one.quantized else 0,
                drop=evidence.reference - evidence.value,
            ),
            quantized=one.quantized,
        )
        for one, evidence in zip(conversion.model.candidates, verdict.candidates, strict=True)
    ]


def tried(name: str, rungs: tuple[int, ...], loss: float) -> Tried:
    held = {"n": 24.0, "agreement": 0.9, "cosine": 0.97, "regret": loss}
    return Tried(name, rungs, loss, 22.5, 0.4, 1.1e6, held)


@pytest.fixture(scope="module")
def found(converted: Conversion) -> Found:
    """A search that chose a smaller shape; its files are the original's, which nobody minds."""
    small = replace(converted, passes=PASSES | dict(converted.passes))
    every = [*finalists(ORIGINAL, converted, 1), *finalists(SHAPE, small, 0.4)]
    return Found(
        budget=Budget(size_bytes=2e6, drop=0.05),
        minutes=10,
        seconds=321,
        tried=(tried(SHAPE, (80, 80), 0.005), tried(OTHER, (80,), 0.02)),
        finalists=tuple(every),
        front=tuple(front({one.id: one.cost for one in every})),
        choice=CHOICE,
        recipe=None,
        conversions={ORIGINAL: converted, SHAPE: small},
        chosen=small,
        stopped="",
        peak_rss_bytes=1_500_000_000,
    )


@pytest.fixture(scope="module")
def page(found: Found) -> str:
    return search_page(found)


def words_of(text: str) -> str:
    return re.sub(r"\s+", " ", Page(text).words)


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    shown = Page(page)
    assert shown.tags["script"] == shown.tags["img"] == shown.tags["link"] == 0
    assert shown.tags["svg"] == 4
    assert {link[0] for link in shown.links} <= {"#"}
    assert "url(http" not in page
    assert max(shown.ids.values(), default=1) == 1, "an id stands once"
    assert "color-scheme: dark" in page


def test_the_choice_and_what_it_costs_come_first(page: str, found: Found) -> None:
    words = words_of(page)
    end, base = found.finalist(CHOICE), original(found)
    assert words.index(CHOICE) < words.index("The front")
    saved = base.cost.size_bytes / end.cost.size_bytes
    assert f"{saved:.1f}× smaller" in words
    assert f"paired, n = {end.evidence.n:,}" in words
    assert "60.0 MB" in words
    assert "not on the board" in words
    assert end.evidence.n == 100


def test_every_finalist_has_a_row_with_what_it_is_over(page: str, found: Found) -> None:
    words = words_of(page)
    assert words.count("on the front") >= len(found.front)
    assert words.count("the choice") >= 2
    assert "over: size" in words
    assert words.count("n = 30") >= 2, "float variants answered fewer rows"


def test_the_story_goes_from_the_original_to_the_choice(page: str, found: Found) -> None:
    titles = [one.title for one in story(found)]
    assert titles == [
        "the original", "the original, quantized", "prune", "distil", "distil 2",
        f"{SHAPE}, float", "fuse", "quantize", "the choice",
    ]  # fmt: skip
    words = words_of(page)
    assert "neurons: 512 → 256" in words
    assert "12.5 s" in words
    assert [one.seconds for one in story(found) if one.title == "distil 2"] == [10]


def test_everything_is_compared_with_what_the_budget_s_ratios_are_of(found: Found) -> None:
    assert subject(found).backend == "litert"
    assert original(found) == float_model(found.finalists)
    assert original(found).name == "ort-cpu-float32"


def test_shapes_that_were_tried_are_all_there(page: str) -> None:
    words = words_of(page)
    assert "80 + 80" in words
    assert "dropped, rung 1" in words
    assert "Training of the shapes" in words
    assert "What each layer bears: prune" in words


def test_errors_of_layers_are_measured(found: Found) -> None:
    errors, reason = layer_errors(found)
    assert reason == ""
    assert len(errors) >= 6
    assert all(10 < decibel < 90 for _, decibel in errors)
    assert any(name.startswith("1 ") for name, _ in errors)


def test_without_files_the_page_says_why_and_goes_on(found: Found) -> None:
    def gone(model: TextModel) -> TextModel:
        candidates = tuple(
            replace(one, artifact=replace(one.artifact, path=one.artifact.path.with_name("gone")))
            for one in model.candidates
        )
        return replace(model, candidates=candidates)

    small = found.conversions[SHAPE]
    broken = {**found.conversions, SHAPE: replace(small, model=gone(small.text))}
    words = words_of(search_page(replace(found, conversions=broken)))
    assert "Could not be measured: FileNotFoundError" in words
    assert "where they run is unknown" in words


def test_nodes_have_a_place_on_both_engines(page: str) -> None:
    words = words_of(page)
    assert "on CPUExecutionProvider (measured)" in words
    assert "on XNNPACK (measured)" in words
    assert "2 Attention" in words


def test_a_search_that_chose_nothing_tells_what_came_nearest(found: Found) -> None:
    none = replace(found, choice=None, chosen=None, budget=Budget(size_bytes=1000),
                   stopped="the time was over")  # fmt: skip
    words = words_of(search_page(none))
    assert "Nothing meets the budget. Nearest came" in words
    assert subject(none).quantized
    assert "allowed 1.0 kB" in words
    assert "Ended before its plan: the time was over" in words
    assert "the nearest" in [one.title for one in story(none)]


def test_the_original_quantized_may_be_the_choice(found: Found) -> None:
    simple = replace(found, choice=f"{ORIGINAL}/litert-cpu-dynamic-w8-channel",
                     chosen=found.conversions[ORIGINAL], tried=())  # fmt: skip
    titles = [one.title for one in story(simple)]
    assert titles == ["the original", "fuse", "quantize", "the choice"]
    words = words_of(search_page(simple))
    assert "Shapes that were tried" not in words


def test_every_word_from_outside_is_escaped(found: Found) -> None:
    small = found.conversions[SHAPE]
    model = small.text
    hostile = replace(
        small,
        recipe=replace(small.recipe, name=HOSTILE),
        profile=replace(small.profile, name=HOSTILE, title=HOSTILE),
        model=replace(
            model,
            source=replace(model.source, name=HOSTILE, licence=HOSTILE),
            classes=tuple(HOSTILE + name for name in model.classes),
        ),
    )
    conversions = {**found.conversions, SHAPE: hostile}
    shown = Page(search_page(replace(found, conversions=conversions, stopped=HOSTILE)))
    assert shown.tags["script"] == 0
    assert HOSTILE in shown.words


def test_quick_figures_are_called_so(found: Found) -> None:
    quick = {name: replace(one, quick=True) for name, one in found.conversions.items()}
    assert "Quick mode" in search_page(replace(found, conversions=quick))


# Parts of it

CLASSES = ("a", "b", "c")


def test_counts_of_a_matrix_are_the_rows(found: Found, converted: Conversion) -> None:
    verdict = converted.model.verdict
    assert verdict is not None
    for evidence in (verdict.reference, verdict.candidates[0]):
        assert [sum(row) for row in evidence.confusion] == [25] * 4
        right = sum(row[place] for place, row in enumerate(evidence.confusion))
        assert right / 100 == pytest.approx(evidence.value)


def test_so_many_classes_that_nobody_could_read_them_have_no_matrix() -> None:
    targets, answers = np.zeros(1, dtype=np.int64), np.zeros((1, MAX_CONFUSED), dtype=np.float32)
    assert len(confusion(MAX_CONFUSED, targets, answers)) == MAX_CONFUSED
    assert confusion(MAX_CONFUSED + 1, targets, answers) == ()


def test_a_wrong_answer_stands_out_and_a_right_one_is_marked() -> None:
    rows = heat(CLASSES, ((9, 1, 0), (0, 10, 0), (5, 0, 5)))
    cells = rows[0]["cells"]
    assert [one["right"] for one in cells] == [True, False, False]
    assert int(cells[0]["strength"]) > int(cells[1]["strength"]) > int(cells[2]["strength"]) == 0
    assert cells[1]["words"] == "a answered as b: 1 of 10"


def test_what_moved_most_comes_first() -> None:
    before, after = ((9, 1, 0), (0, 10, 0), (5, 0, 5)), ((4, 6, 0), (0, 10, 0), (6, 0, 4))
    found = moved(CLASSES, before, after)
    assert [(one["label"], one["answer"], one["before"], one["after"]) for one in found] == [
        ("a", "a", 9, 4), ("a", "b", 1, 6), ("c", "a", 5, 6), ("c", "c", 5, 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "metric", "words"),
    [(-0.0123, "accuracy", "−1.23"), (0.004, "cosine", "+0.0040"), (0.0, "accuracy", "±0")],
)
def test_differences_read_as_people_read_them(value: float, metric: str, words: str) -> None:
    assert change_words(value, metric) == words


def test_what_grew_is_not_called_smaller() -> None:
    assert times(10, 5, ("smaller", "larger")) == "2.0× smaller"
    assert times(5, 10, ("smaller", "larger")) == "2.0× larger"


def test_rungs_of_a_training_follow_each_other() -> None:
    (course,) = front_plots.as_courses({"shape": [HISTORY, HISTORY]})
    assert [step for step, _, _ in course.points] == [40, 80, 120, 160]
    assert course.rungs == (80, 160)


def marks(latencies: Sequence[float]) -> list[front_plots.Mark]:
    series = Series("one", "litert", True)
    return [
        front_plots.Mark(place, series, latency, 1e6, 0.9, (0.88, 0.92), True, place == 1)
        for place, latency in enumerate(latencies, 1)
    ]


def test_a_bound_far_below_is_told_and_does_not_flatten_the_front() -> None:
    near = front_plots.front("a", "accuracy", marks([1, 2]), [1, 2],
                             front_plots.Bounds(0, 0.88, 0.9))  # fmt: skip
    far = front_plots.front("a", "accuracy", marks([1, 2]), [1, 2],
                            front_plots.Bounds(0, 0.1, 0.9))  # fmt: skip
    assert "lowest allowed: 10" in far
    assert "lowest allowed: 10" not in near
    assert "slowest" not in near


def test_latencies_that_are_far_apart_go_on_a_logarithmic_axis() -> None:
    plot = front_plots.front("a", "cosine", marks([0.5, 50]), [1, 2],
                             front_plots.Bounds(2, 0.8, 0.9))  # fmt: skip
    for tick in (">0.5<", ">5<", ">50<"):
        assert tick in plot
    assert "slowest allowed" in plot
    assert "var(--litert)" in plot
