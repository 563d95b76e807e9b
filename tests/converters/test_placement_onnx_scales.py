"""Power-of-two scales: the numerics of the rewriting."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from converters.quantize.power_of_two import (
    covering,
    fitting,
    power_of_two,
    rounded,
    scales_of,
)
from edge_runtime.errors import InputError
from tests.converters.placed_nets import (
    answers,
    convolutional,
    cosine,
    images,
    quantized,
)


@pytest.fixture(scope="module")
def channels() -> bytes:
    """Symmetric, with a scale for each channel of the weights."""
    return quantized(convolutional(), "s8", channel=True)


def is_power(scale: float) -> bool:
    return math.frexp(scale)[0] == 0.5


@given(st.floats(1e-30, 1e30))
def test_the_covering_power_is_the_smallest_that_is_not_less(scale: float) -> None:
    found = covering(scale)
    assert is_power(found)
    assert scale <= found < 2 * scale


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_what_is_no_scale_has_no_covering_power(scale: float) -> None:
    with pytest.raises(InputError, match="scale"):
        covering(scale)


def test_one_outlier_in_the_weights_does_not_spoil_the_rest() -> None:
    draw = np.random.default_rng(0)
    values = np.append(draw.normal(size=4000) * 0.1, 1.02)  # just above 127/128, so 2**-6 covers
    found = fitting(values, -127, 127)
    assert found < covering(1.02 / 127)

    def error(scale: float) -> float:
        return float(np.square(rounded(values, scale, -127, 127) * scale - values).sum())

    assert error(found) < error(covering(1.02 / 127))
    assert fitting(np.zeros(3), -127, 127) == 1


def test_every_scale_becomes_a_power_of_two_and_stands_for_a_whole_tensor(channels: bytes) -> None:
    assert any(one.size > 1 for one in scales_of(channels).values())
    made = power_of_two(channels)
    onnx.checker.check_model(onnx.load_from_string(made), full_check=True)
    scales = scales_of(made)
    assert set(scales) == set(scales_of(channels))
    for one in scales.values():
        assert one.size == 1
        assert is_power(float(one.reshape(-1)[0]))


def test_activations_keep_their_range(channels: bytes) -> None:
    before, after = scales_of(channels), scales_of(power_of_two(channels))
    graph = onnx.load_from_string(channels).graph
    computed = [one.output[0] for one in graph.node if one.op_type == "QuantizeLinear"]
    assert computed
    for name in computed:
        old, new = float(before[name].max()), float(after[name].max())
        assert old <= new < 2 * old


def test_a_bias_has_the_product_of_its_layers_scales(channels: bytes) -> None:
    made = power_of_two(channels)
    graph, scales = onnx.load_from_string(made).graph, scales_of(made)
    (head,) = (one for one in graph.node if one.op_type == "Gemm")
    source, weights, bias = (float(scales[name].max()) for name in head.input)
    assert bias == source * weights
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    (maker,) = (one for one in graph.node if one.output[0] == head.input[2])
    assert stored[maker.input[0]] * bias == pytest.approx(np.linspace(-1, 1, 5), abs=0.01)


def test_answers_stay_near(channels: bytes) -> None:
    truth = convolutional().SerializeToString()
    made = power_of_two(channels)
    for image in images(4):
        assert cosine(answers(made, image), answers(truth, image)) > 0.99


def test_a_second_rewriting_changes_no_answer(channels: bytes) -> None:
    once = power_of_two(channels)
    twice = power_of_two(once)
    assert scales_of(twice) == scales_of(once)
    for image in images(2):
        assert np.array_equal(answers(twice, image), answers(once, image))


def test_a_zero_point_or_no_quantizer_is_refused() -> None:
    with pytest.raises(InputError, match="zero point"):
        power_of_two(quantized(convolutional()))
    with pytest.raises(InputError, match="no quantizers"):
        power_of_two(convolutional().SerializeToString())
