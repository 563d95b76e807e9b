"""The pure parts of a search: budgets, the front, the choice, shapes, rungs, recipes as TOML."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.bootstrap import Difference
from converters.cache import Cache
from converters.configs import VerifyConfig
from converters.distil.config import DistilConfig
from converters.model import Evidence
from converters.progress import Silent
from converters.prune.config import PruneConfig
from converters.quantize.config import Options, QuantizeConfig
from converters.quantize.sensitivity import Sensitivity, greedy
from converters.recipe import Recipe, load_recipe, parse_recipe
from converters.search import ladder
from converters.search.budget import Budget, Cost, parse_budget
from converters.search.front import choose, front, nearest, refusal
from converters.search.halving import MIN_STEPS, Rung, plan, survivors
from converters.search.ladder import Candidate
from converters.search.minutes import training_seconds
from converters.search.precision import against_loss, against_size, mendable
from converters.search.recipes import compression_passes, finished, lesson, shaping, teaching
from converters.search.result import Finalist
from converters.search.space import (
    AIM,
    HEADS,
    NEURONS,
    Encoder,
    Measured,
    Shape,
    damage,
    latency_ms,
    promising,
    size_bytes,
    whole,
)
from converters.search.written import recipe_toml
from converters.vocabulary.config import VocabularyConfig
from edge_runtime.errors import InputError
from tests.converters.small import EXAMPLE

MINILM = Encoder(depth=6, hidden=384, heads=12, intermediate=1536, vocabulary=30522)
MEASURED = Measured(latency_ms=10.0, size_bytes=23.6e6)


def cost(latency_ms: float, size_mb: float = 10, drop: float = 0.0, ram_mb: float = 50) -> Cost:
    return Cost(latency_ms, size_mb * 1e6, ram_mb * 1e6, drop)


# Budgets


@pytest.mark.parametrize(
    ("words", "budget"),
    [
        ([], Budget()),
        (["latency_ms=4,drop=2%"], Budget(latency_ms=4, drop=0.02)),
        (["size_bytes=9MB", "ram_bytes = 64MiB"], Budget(size_bytes=9e6, ram_bytes=64 * 2**20)),
        (["latency_ms=0.5s,drop=0"], Budget(latency_ms=500, drop=0)),
        (["faster=8,smaller=10x"], Budget(faster=8, smaller=10)),
        (["latency_ms=5.,drop=1.4%"], Budget(latency_ms=5, drop=0.014)),
    ],
)
def test_a_budget_is_read_as_written(words: list[str], budget: Budget) -> None:
    assert parse_budget(words, Budget()) == budget


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("speed=4", "expected name=value with a name of latency_ms, size_bytes, ram_bytes, drop"),
        ("latency_ms", "expected name=value"),
        ("drop=1%,drop=2%", "drop stands twice"),
        ("latency_ms=fast", "expected a number above 0"),
        ("latency_ms=0", "expected a number above 0"),
        ("faster=1e400", "expected a number above 0"),
        ("faster=99999999", "expected a number above 0"),
        ("size_bytes=" + "9" * 400, "expected a number above 0"),
        ("size_bytes=999999999999GB", "expected a number above 0"),
        ("size_bytes=5ms", "with one of the units k, kb, m, mb"),
        ("drop=-1", "expected a number from 0"),
    ],
)
def test_a_budget_that_says_nothing_is_refused(word: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_budget([word], Budget())


def test_a_bound_that_is_not_given_binds_nothing() -> None:
    assert Budget(drop=0.01).broken(cost(1e9, 1e9, 0.01)) == {}
    assert Budget(latency_ms=5).broken(cost(10)) == {"latency_ms": 2.0}
    assert Budget(drop=0.01).broken(cost(1, drop=0.01 + 1e-12)) == {}, "lost exactly as allowed"
    assert Budget(drop=0.0).broken(cost(1, drop=0.25))["drop"] == pytest.approx(250)
    assert "drop" in Budget().broken(cost(1, drop=float("nan")))


def test_what_answers_golden_vectors_otherwise_is_over_its_bound() -> None:
    budget, spoiled = Budget(golden=0.98), replace(cost(1), golden=0.9)
    assert budget.broken(cost(1)) == {}
    assert budget.broken(spoiled) == {"golden": pytest.approx(5)}
    assert choose({"spoiled": spoiled, "slow": cost(9)}, budget) == "slow"
    said = refusal({"spoiled": spoiled}, budget)
    assert "cosine 0.9000 on a golden vector, expected cosine 0.9800" in said
    assert said.endswith("at least")
    assert "golden" in budget.broken(replace(cost(1), golden=float("nan")))


def test_a_ratio_is_of_the_original_and_the_stricter_bound_counts() -> None:
    budget = Budget(latency_ms=4, faster=10, smaller=9).against(cost(30, 90))
    assert budget == Budget(latency_ms=3, size_bytes=10e6)
    assert Budget(latency_ms=2, faster=10).against(cost(30)).latency_ms == 2
    assert Budget(drop=0.1).against(cost(30)) == Budget(drop=0.1)


# Front and choice

COSTS = {
    "float": cost(30, 90, 0.0),
    "int8": cost(10, 25, 0.001),
    "small": cost(3, 8, 0.012),
    "tiny": cost(1, 4, 0.05),
    "slow": cost(11, 26, 0.002),
}


def test_the_front_leaves_out_what_another_beats() -> None:
    assert front(COSTS) == ["tiny", "small", "int8", "float"]


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12
    )
)
def test_nothing_off_the_front_is_better_than_all_of_it(figures: list[tuple[int, ...]]) -> None:
    costs = {str(i): cost(a, b, c / 100) for i, (a, b, c) in enumerate(figures)}
    kept = front(costs)
    assert kept

    def axes(name: str) -> tuple[float, ...]:
        one = costs[name]
        return one.latency_ms, one.size_bytes, one.drop

    for name in costs:
        beaten = any(
            all(a <= b for a, b in zip(axes(other), axes(name), strict=True))
            and axes(other) != axes(name)
            for other in costs
        )
        assert (name in kept) == (not beaten)


def test_within_a_bound_of_cost_the_most_accurate_is_chosen() -> None:
    assert choose(COSTS, Budget(latency_ms=12, drop=0.02)) == "int8"
    assert choose(COSTS, Budget(size_bytes=9e6, drop=0.1)) == "small"


def test_where_only_the_drop_is_bounded_the_fastest_is_chosen() -> None:
    assert choose(COSTS, Budget(drop=0.02)) == "small"
    assert choose(COSTS, Budget(drop=0.1)) == "tiny"


def test_a_budget_that_nothing_meets_names_the_nearest_and_what_binds() -> None:
    budget = Budget(latency_ms=2, drop=0.02)
    assert choose(COSTS, budget) is None
    assert nearest(COSTS, budget) == "small"
    told = refusal(COSTS, budget)
    assert "the nearest is small" in told
    assert "what binds is latency 3 ms, expected latency 2 ms at most" in told


# A scheme for each layer

LOSSES = (
    Sensitivity("encoder.0", "w8", 0.5, 300),
    Sensitivity("encoder.1", "w8", 0.1, 100),
    Sensitivity("embeddings.words", "w8", 0.01, 600),
)


def finalist(figures: Cost, *, quantized: bool = True) -> Finalist:
    evidence = Evidence(
        id="ort-x", metric="accuracy", value=0.5, reference=0.5, interval=(0, 1),
        difference=Difference(0, (0, 0), 0.5, 9), n=9, agreement=1, cosine_mean=1, cosine_min=1,
        golden_cosine=1, latency_ms={8: 1.0}, classes=(), refused="",
    )  # fmt: skip
    name = "ort-x" if quantized else "ort-float"
    return Finalist(name, "original", "onnxruntime", evidence, figures, quantized)


def test_a_layer_that_costs_accuracy_goes_back_to_float_as_far_as_time_allows() -> None:
    choices = against_loss(LOSSES, finalist(cost(4)), "w8")
    assert greedy(choices, 100).schemes == dict.fromkeys([one.layer for one in LOSSES], "float")
    # encoder.0 takes 3 ms of 4 in INT8, 9 in float; encoder.1 1 and 3; a table takes none.
    some = greedy(choices, 10)
    assert some.schemes == {
        "encoder.0": "float", "encoder.1": "w8", "embeddings.words": "float",
    }  # fmt: skip
    assert some.cost == pytest.approx(10)
    assert not greedy(choices, 3.9).met


def test_what_loses_too_much_is_mended_only_where_its_float_model_does_not() -> None:
    budget = Budget(drop=0.01, golden=0.98)
    sound = finalist(cost(30), quantized=False)
    for spoiled in (cost(4, drop=0.5), replace(cost(4), golden=0.5)):
        lost = finalist(spoiled)
        assert mendable([lost, sound], budget) == [lost]
        assert mendable([lost, finalist(spoiled, quantized=False)], budget) == []
        assert mendable([lost, sound, finalist(cost(4))], budget) == []
    slow_too = finalist(cost(9, drop=0.5))
    assert mendable([slow_too, sound], replace(budget, latency_ms=5)) == []


def test_the_layers_that_lose_least_for_their_size_get_fewer_bits() -> None:
    choices = against_size(LOSSES, finalist(cost(4, size_mb=10)), "w8", "w4")
    plan = greedy(choices, 7e6)
    assert plan.schemes == {"encoder.0": "w8", "encoder.1": "w8", "embeddings.words": "w4"}
    assert plan.cost == pytest.approx(7e6)


# Shapes


def test_the_whole_shape_costs_what_was_measured() -> None:
    shape = whole(MINILM, 30522)
    assert latency_ms(MINILM, shape, MEASURED, 128) == pytest.approx(10)
    assert MINILM.parameters(shape) == pytest.approx(6 * 1769472 + 384 * 30522)
    half = replace(shape, depth=3)
    assert latency_ms(MINILM, half, MEASURED, 128) == pytest.approx(0.5 + 9.5 / 2)


@pytest.mark.parametrize(
    ("shape", "ms", "megabytes"),
    [
        (Shape(3, 0.5, 5 / 6, 12208), 3.92, 8.7),
        (Shape(4, 0.5, 0.5, 12208), 3.98, 9.1),
        (Shape(5, 0.25, 0.5, 12208), 3.84, 8.6),
    ],
)
def test_estimates_are_what_was_measured_of_shapes_that_were_built(
    shape: Shape, ms: float, megabytes: float
) -> None:
    """MiniLM-L6 in INT8 on LiteRT at 128 tokens."""
    measured = Measured(latency_ms=10.51, size_bytes=23.6e6)
    assert latency_ms(MINILM, shape, measured, 128) == pytest.approx(ms, rel=0.04)
    assert size_bytes(MINILM, shape, measured) == pytest.approx(megabytes * 1e6, rel=0.02)


def test_estimates_of_latency_are_those_of_shapes_that_an_earlier_search_built() -> None:
    measured = Measured(latency_ms=10.4, size_bytes=23.6e6)
    for shape, ms in ((Shape(5, 0.25, 2 / 3, 12000), 4.51), (Shape(4, 0.25, 1.0, 12000), 4.7)):
        assert latency_ms(MINILM, shape, measured, 128) == pytest.approx(ms, rel=0.05)


def test_of_one_depth_the_shape_that_fits_and_does_least_damage_is_tried() -> None:
    (shape,) = promising(
        MINILM, Budget(latency_ms=6), MEASURED, tokens=128, vocabularies=[30522, 9000], count=1
    )
    others = [Shape(shape.depth, neurons, heads, 30522) for neurons in NEURONS for heads in HEADS]
    fitting = [one for one in others if latency_ms(MINILM, one, MEASURED, 128) <= AIM * 6]
    assert shape in fitting
    assert damage(shape) == min(damage(one) for one in fitting)


def test_promising_shapes_fit_and_differ_in_depth() -> None:
    budget = Budget(latency_ms=3, size_bytes=9e6)
    shapes = promising(
        MINILM, budget, MEASURED, tokens=128, vocabularies=[30522, 12000, 6000], count=6
    )
    assert len({shape.depth for shape in shapes}) == len(shapes) >= 3
    for shape in shapes:
        assert latency_ms(MINILM, shape, MEASURED, 128) <= AIM * 3
        assert size_bytes(MINILM, shape, MEASURED) <= AIM * 9e6


def test_heads_that_cannot_go_stay() -> None:
    fast = Budget(latency_ms=2)
    for tied in (False, True):
        encoder = replace(MINILM, loose_heads=not tied)
        shapes = promising(encoder, fast, MEASURED, tokens=128, vocabularies=[30522], count=6)
        assert shapes
        assert all(shape.heads == 1 for shape in shapes) is tied


def test_without_a_bound_shapes_of_many_costs_are_tried() -> None:
    shapes = promising(MINILM, Budget(), MEASURED, tokens=128, vocabularies=[30522], count=6)
    costs = sorted(latency_ms(MINILM, shape, MEASURED, 128) for shape in shapes)
    assert len(shapes) == 6
    assert costs[0] < 3.2
    assert costs[-1] > 5


def test_no_shape_fits_what_no_shape_can_meet() -> None:
    budget = Budget(latency_ms=0.01)
    assert promising(MINILM, budget, MEASURED, tokens=128, vocabularies=[30522], count=6) == []


# Rungs


def test_rungs_end_with_one_that_costs_as_much_as_all_before() -> None:
    rungs = plan(6, [1.0] * 6, 3600)
    assert [rung.keep for rung in rungs] == [6, 2, 1]
    assert [rung.keep * rung.steps for rung in rungs] == [900, 900, 1800]
    assert plan(1, [1.0], 3600) == [Rung(1, 3600)]


def test_with_little_time_fewer_are_tried_and_with_none_nobody() -> None:
    few = plan(6, [1.0] * 6, 5 * MIN_STEPS)
    assert 0 < few[0].keep < 6
    assert few[0].steps >= MIN_STEPS
    assert plan(6, [1.0] * 6, 5) == []


def test_students_train_for_what_other_work_leaves_as_decided_the_first_time(
    tmp_path: Path,
) -> None:
    cache, parts = Cache(tmp_path), {"encoder": "a"}
    first = training_seconds(60, 900, parts, cache)
    assert first == pytest.approx(60 * 60 * 0.82 - 900)
    assert training_seconds(60, 1, parts, cache) == first, "a search that goes on plans alike"
    assert training_seconds(30, 3600, parts, cache) == pytest.approx(0.3 * 30 * 60)
    assert training_seconds(60, 1, {"encoder": "b"}, cache) > first


def test_a_shape_that_does_not_suit_the_model_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = [Shape(depth, 1.0, 1.0, 30522) for depth in (3, 2, 1)]

    def taught(_: Any, shape: Shape, before: Candidate | None, steps: int) -> Candidate:
        if shape.depth == 2:
            raise InputError("tokenizer: at least 8,451 tokens stay")
        rungs = (*(before.rungs if before else ()), steps)
        model: Any = None
        return Candidate(shape, model, (), rungs, 0.1 * shape.depth, 1.0, {}, {})

    monkeypatch.setattr(ladder, "_taught", taught)
    monkeypatch.setattr(ladder, "step_seconds", lambda *_: 1.0)
    told: Any = SimpleNamespace(
        job=SimpleNamespace(
            recipe=SimpleNamespace(task="embedding", data=SimpleNamespace(max_length=128)),
            cache=None,
            progress=Silent(),
        ),
        encoder=MINILM,
        seconds=1000.0,
        deadline=float("inf"),
    )
    done, why = ladder.climb(told, shapes)
    assert [one.shape.depth for one in done] == [1, 3]
    assert why == "d2-n100-h100-v31k was left out: tokenizer: at least 8,451 tokens stay"
    monkeypatch.setattr(ladder, "_taught", lambda _, shape, *__: taught(_, shapes[1], None, 1))
    assert ladder.climb(told, shapes)[0] == []


def test_the_better_go_on_and_equals_by_name() -> None:
    assert survivors([("b", 0.1), ("a", 0.1), ("c", 0.05)], 2) == ["c", "a"]


# Recipes


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe((EXAMPLE / "recipe.toml").absolute())


def whole_recipe(recipe: Recipe) -> Recipe:
    shape = Shape(depth=3, neurons=0.5, heads=0.5, vocabulary=9000)
    passes = [
        *shaping(MINILM, shape),
        *teaching(MINILM, shape, lesson(recipe.task, 128), [100, 300]),
    ]
    quantization = QuantizeConfig(
        {"litert": Options("dynamic_w8_channel", layers={"encoder/*": "float"})}
    )
    verify = recipe.config(VerifyConfig)
    assert verify is not None
    return finished(recipe, passes, quantization, verify, ("litert",))


def test_a_shape_becomes_the_passes_that_make_it(recipe: Recipe) -> None:
    vocabulary, neurons, heads, first, second = compression_passes(whole_recipe(recipe))
    assert isinstance(vocabulary, VocabularyConfig)
    assert vocabulary.size == 9000
    assert isinstance(neurons, PruneConfig)
    assert isinstance(heads, PruneConfig)
    assert (neurons.parts, neurons.ratio, heads.parts) == ("neurons", 0.5, "heads")
    assert isinstance(first, DistilConfig)
    assert isinstance(second, DistilConfig)
    assert (first.depth, first.steps, second.depth, second.steps) == (3, 100, 0, 300)


def test_a_recipe_is_read_back_as_it_was_written(recipe: Recipe, tmp_path: Path) -> None:
    made = whole_recipe(recipe)
    text = recipe_toml(made, tmp_path, "Found for a budget.\n\nRun it.")
    again = parse_recipe(text.encode(), tmp_path / "chosen.toml")
    assert text.startswith("# Found for a budget.\n#\n# Run it.\n")
    assert again.passes == made.passes
    assert (again.data, again.source, again.seed) == (made.data, made.source, made.seed)
