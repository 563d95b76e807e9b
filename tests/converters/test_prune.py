"""What goes and what is left of it: least squares, Optimal Brain Surgeon, allocation, masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.prune.allocate import Curve, by_curves, rounded, uniform
from converters.prune.choose import activity, eliminate, norms, strongest
from converters.prune.config import PruneConfig, parse_prune
from converters.prune.moments import Moments
from converters.prune.sparse import compensated, mask
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields

TOKENS, INPUTS, OUTPUTS = 400, 12, 5


def seen(inputs: torch.Tensor, weights: torch.Tensor) -> Moments:
    """The moments of `inputs` and of the map's answers, added in two batches."""
    moments = Moments(inputs.shape[1], weights.shape[1])
    for part in (slice(0, 150), slice(150, None)):
        moments.add(inputs[part], inputs[part] @ weights + 0.5)
    return moments


@pytest.fixture
def inputs() -> torch.Tensor:
    """Correlated, off zero: (TOKENS, INPUTS)."""
    torch.manual_seed(5)
    return torch.randn(TOKENS, INPUTS) @ torch.randn(INPUTS, INPUTS) + torch.randn(INPUTS)


@pytest.fixture
def weights() -> torch.Tensor:
    torch.manual_seed(6)
    return torch.randn(INPUTS, OUTPUTS)


def test_what_is_left_is_fitted_as_least_squares_does(
    inputs: torch.Tensor, weights: torch.Tensor
) -> None:
    loss = seen(inputs, weights).quadratic(weights, ridge=1e-9)
    kept = torch.tensor([0, 3, 4, 7, 11])
    fitted = loss.weights(kept)
    table = np.c_[inputs[:, kept].numpy(), np.ones(TOKENS)].astype(np.float64)
    answers = (inputs @ weights + 0.5).numpy().astype(np.float64)
    expected = np.linalg.lstsq(table, answers, rcond=None)[0]
    assert np.abs(fitted.numpy() - expected[:-1]).max() < 1e-4
    assert np.abs(loss.bias(kept, fitted).numpy() - expected[-1]).max() < 1e-4


def test_inputs_that_never_stirred_keep_their_weights(weights: torch.Tensor) -> None:
    inputs = torch.randn(TOKENS, INPUTS)
    inputs[:, 3] = 0
    loss = seen(inputs, weights).quadratic(weights, ridge=1e-3)
    fitted = loss.weights(torch.arange(INPUTS))
    assert np.abs(fitted.numpy() - weights.numpy()).max() < 1e-3


def test_a_twin_goes_first_where_a_ranking_would_take_a_weaker_one(weights: torch.Tensor) -> None:
    inputs = torch.randn(TOKENS, INPUTS)
    inputs[:, 5] = 2 * inputs[:, 4]  # nothing is lost without one of them
    moments = seen(inputs, weights)
    (left,) = eliminate(moments.quadratic(weights, ridge=1e-6), [INPUTS - 1])
    assert set(range(INPUTS)) - set(left.tolist()) <= {4, 5}
    ranked = strongest(activity(moments.energy, weights.T, size=1), INPUTS - 1)
    assert {4, 5} <= set(ranked.tolist())


def test_the_first_group_to_go_is_the_one_whose_loss_is_least(
    inputs: torch.Tensor, weights: torch.Tensor
) -> None:
    size = 3
    loss = seen(inputs, weights).quadratic(weights, ridge=1e-6)
    left = {kept: eliminate(loss, [kept], size=size)[0].tolist() for kept in (3, 2)}

    def lost(groups: list[int]) -> float:
        kept = torch.tensor([group * size + place for group in groups for place in range(size)])
        return float(-(loss.pull[kept] * loss.weights(kept)).sum())

    choices = [[group for group in range(4) if group != gone] for gone in range(4)]
    assert left[3] == min(choices, key=lost)
    assert set(left[2]) < set(left[3])


def test_one_elimination_serves_several_counts(inputs: torch.Tensor, weights: torch.Tensor) -> None:
    loss = seen(inputs, weights).quadratic(weights, ridge=1e-6)
    several = eliminate(loss, [9, 6, 2])
    assert [len(one) for one in several] == [9, 6, 2]
    assert torch.equal(several[1], eliminate(loss, [6])[0])


def test_norms_are_of_all_weights_that_go_with_a_group() -> None:
    into = torch.tensor([[3.0, -4.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    out = torch.tensor([[0.0, 12.0, 1.0, 1.0]])
    assert norms(into, out, order=1, size=2).tolist() == [19.0, 6.0]
    assert norms(into, out, order=2, size=1).tolist()[:2] == [5.0, 12.0]


@pytest.mark.parametrize(
    ("count", "ratio", "step", "kept"),
    [(1536, 0.5, 32, 768), (1536, 0.66, 32, 512), (1536, 1.0, 32, 32), (12, 0.5, 1, 6),
     (12, 1.0, 1, 1), (20, 0.9, 32, 20), (100, 0.0, 32, 100), (100, 0.01, 32, 96)],
)  # fmt: skip
def test_what_is_kept_is_a_multiple_and_never_nothing(
    count: int, ratio: float, step: int, kept: int
) -> None:
    assert rounded(count, ratio, step) == kept
    assert uniform([count, count], ratio, step) == [kept, kept]


def test_more_goes_where_less_is_lost() -> None:
    dull = Curve(((0, 0.0), (25, 0.001), (50, 0.002), (75, 0.004), (90, 0.02)))
    keen = Curve(((0, 0.0), (25, 0.01), (50, 0.05), (75, 0.2), (90, 0.8)))
    keep = by_curves([100, 100], [dull, keen], 0.5, 10)
    assert sum(keep) == 100
    assert keep == [20, 80]


def test_a_bad_first_step_does_not_hide_a_good_second_one() -> None:
    stairs = Curve(((0, 0.0), (50, 0.1), (100, 0.1)))
    slope = Curve(((0, 0.0), (50, 0.08), (100, 0.16)))
    assert stairs.at(50) == pytest.approx(0.05)
    assert by_curves([100, 100], [slope, stairs], 0.25, 50) == [100, 50]


def test_an_allocation_stops_where_every_layer_is_down_to_its_last() -> None:
    curve = Curve(((0, 0.0), (6, 0.1)))
    assert by_curves([12, 12, 12], [curve] * 3, 1.0, 1) == [1, 1, 1]


def test_two_of_every_four_stay_and_an_incomplete_four_is_whole() -> None:
    keep = mask(torch.tensor([[4.0, 1, 3, 2, 9, 9, 9, 9, 1, 2]]), 0.5, True)
    assert keep.tolist() == [[True, False, True, False, False, False, True, True, True, True]]


def test_every_output_loses_alike_only_where_asked() -> None:
    scores = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    assert mask(scores, 0.5, False).sum(1).tolist() == [0, 4]
    assert mask(scores, 0.5, False, rows=True).sum(1).tolist() == [2, 2]


def test_the_weights_that_stay_make_good_for_the_others(inputs: torch.Tensor) -> None:
    weight = torch.randn(OUTPUTS, INPUTS)
    keep = torch.ones_like(weight, dtype=torch.bool)
    keep[:, :3] = False  # all that make good are to the right of them: exact least squares
    moment = inputs.T.double() @ inputs.double() / TOKENS
    factor = torch.linalg.cholesky(torch.linalg.inv(moment), upper=True).float()
    thin = compensated(weight, factor, keep)
    assert torch.equal(thin != 0, keep)
    expected = torch.linalg.lstsq(inputs[:, 3:], inputs @ weight.T).solution.T
    assert (thin[:, 3:] - expected).abs().max() < 1e-3


def parsed(**table: Any) -> PruneConfig:
    return parse_prune(Fields({"parts": "neurons"} | table, "pass 2", InputError), Path())


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"reconstruct": False}, "criterion = obs needs reconstruct = true"),
        ({"pattern": "2:4"}, "pattern is for parts = weights, not for parts = neurons"),
        ({"allocate": "global"}, "allocate = global is for parts = weights"),
        ({"parts": "weights", "pattern": "2:4", "ratio": 0.6}, "pattern = 2:4 is ratio = 0.5"),
        ({"parts": "layers"}, "heads"),
        ({"ratio": 1.5}, "ratio"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(table: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parsed(**table)


def test_defaults_are_the_best_that_was_measured() -> None:
    assert parsed() == PruneConfig("neurons", 0.5, "obs", "uniform", "", True, 256, 32)
