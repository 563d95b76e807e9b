"""Quantized files are a quarter of the size and still answer; smoothing alone changes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from converters.encoding import Encoded
from converters.network import TextNetwork
from converters.quantize import QUANTIZERS, quantizer
from converters.quantize.config import Options
from converters.quantize.litert_file import answers_litert, layers_of
from converters.quantize.slim import slim
from converters.quantize.smooth import activation_ranges, search_smoothing, smooth
from edge_runtime.errors import InputError
from tests.converters.engines import cosine, litert_answers, onnx_answers, torch_answers
from tests.converters.small import CLASSES, HIDDEN, MAX_LENGTH

ORT_RECIPES = [recipe for engine, recipe in QUANTIZERS if engine == "onnxruntime"]


@pytest.mark.parametrize("recipe", ORT_RECIPES)
@pytest.mark.parametrize("graph", ["plain", "fused"])
def test_onnx_shrinks_and_answers(
    recipe: str,
    graph: str,
    plain_onnx: bytes,
    fused_onnx: bytes,
    network: TextNetwork,
    texts: tuple[Encoded, ...],
) -> None:
    source = {"plain": plain_onnx, "fused": fused_onnx}[graph]
    made = quantizer("onnxruntime", recipe)(source, texts)
    bits = next(int(found) for found in re.findall(r"_[wc](\d)", recipe))
    assert len(made.model) < (0.16 if bits == 4 else 0.28) * len(source)
    found, wanted = onnx_answers(made.model, texts), torch_answers(network, texts)
    if bits == 4:  # single texts that lie between classes may turn; all together may not
        assert cosine(found.reshape(1, -1), wanted.reshape(1, -1)) > 0.97
    else:
        assert cosine(found, wanted) > 0.99
    assert quantizer("onnxruntime", recipe)(source, texts).model == made.model, "same bytes again"


@pytest.mark.parametrize("recipe", ORT_RECIPES)
def test_the_head_stays_float(recipe: str, fused_onnx: bytes, texts: tuple[Encoded, ...]) -> None:
    made = onnx.load_from_string(quantizer("onnxruntime", recipe)(fused_onnx, texts).model).graph
    shapes = [len(CLASSES), HIDDEN], [len(CLASSES)]
    head = [one for one in made.initializer if list(one.dims) in shapes]
    assert [one.data_type for one in head] == [onnx.TensorProto.FLOAT] * 2


def test_a_litert_file_says_nothing_twice_and_answers_the_same(
    litert_file: bytes, texts: tuple[Encoded, ...], tmp_path: Path
) -> None:
    """Also where the tables, and not the weights, are most of the file."""
    from ai_edge_quantizer import quantizer as theirs
    from ai_edge_quantizer import recipe

    path = tmp_path / "model.tflite"
    path.write_bytes(litert_file)
    work = theirs.Quantizer(str(path))
    work.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    given = bytes(work.quantize(None).quantized_model)
    layers = layers_of(given)
    names = {layer.output for layer in layers}
    found = slim(given, names=names)
    assert len(found) < 0.9 * len(given)
    assert np.array_equal(answers_litert(found, texts), answers_litert(given, texts))
    assert [one.name for one in layers_of(found)] == [one.name for one in layers]
    assert slim(found, names=names) == found, "there is nothing left to take out"
    assert slim(given, names=names) == found


def test_litert_shrinks_and_answers(
    litert_file: bytes, network: TextNetwork, texts: tuple[Encoded, ...]
) -> None:
    made = quantizer("litert", "dynamic_w8_channel")(litert_file, texts)
    assert len(made.model) < 0.32 * len(litert_file)
    answers = litert_answers(made.model, texts, (16, MAX_LENGTH))
    assert cosine(answers, torch_answers(network, texts)) > 0.99
    assert quantizer("litert", "dynamic_w8_channel")(litert_file, texts).model == made.model


@pytest.mark.parametrize("alpha", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("graph", ["plain", "fused"])
def test_smoothing_alone_leaves_every_answer(
    alpha: float, graph: str, plain_onnx: bytes, fused_onnx: bytes, texts: tuple[Encoded, ...]
) -> None:
    source = {"plain": plain_onnx, "fused": fused_onnx}[graph]
    ranges = activation_ranges(source, texts[:6])
    assert len(ranges) >= 6
    smoothed = smooth(source, ranges, alpha)
    assert smoothed != source
    assert np.abs(onnx_answers(smoothed, texts) - onnx_answers(source, texts)).max() < 1e-4


def test_ranges_are_the_largest_magnitude_of_each_channel(
    plain_onnx: bytes, texts: tuple[Encoded, ...]
) -> None:
    one, many = activation_ranges(plain_onnx, texts[:1]), activation_ranges(plain_onnx, texts[:5])
    assert all((many[name] >= one[name]).all() and (many[name] >= 0).all() for name in one)


def test_the_search_takes_what_comes_closest(texts: tuple[Encoded, ...], fused_onnx: bytes) -> None:
    found = search_smoothing(fused_onnx, texts, lambda model: model)
    assert found.alpha == 0.0, "there is nothing to mend"
    assert found.cosine_before == pytest.approx(1.0)


def test_outliers_are_what_smoothing_mends(
    network: TextNetwork, texts: tuple[Encoded, ...], fused_onnx: bytes
) -> None:
    """One channel of one norm, a hundred times as large, ruins the scale of a whole tensor."""
    from onnx import numpy_helper

    from converters.quantize.onnxruntime import rewrite

    proto = onnx.load_from_string(fused_onnx)
    weights = {one.name: one for one in proto.graph.initializer}
    norm = next(node for node in proto.graph.node if node.op_type == "SkipLayerNormalization")
    readers = [n for n in proto.graph.node if n.input and n.input[0] == norm.output[0]]
    gamma = numpy_helper.to_array(weights[norm.input[2]]).copy()
    gamma[3] *= 100
    weights[norm.input[2]].CopyFrom(numpy_helper.from_array(gamma, norm.input[2]))
    for reader in readers:
        if reader.op_type == "MatMul":
            weight = numpy_helper.to_array(weights[reader.input[1]]).copy()
            weight[3] /= 100
            weights[reader.input[1]].CopyFrom(numpy_helper.from_array(weight, reader.input[1]))
    plain = Options("dynamic_w8_channel")
    found = search_smoothing(
        proto.SerializeToString(), texts, lambda one: rewrite(one, texts, plain, rounding="nearest")
    )
    assert found.alpha > 0
    assert found.cosine_after > found.cosine_before


def test_too_few_texts_cannot_calibrate(fused_onnx: bytes, texts: tuple[Encoded, ...]) -> None:
    with pytest.raises(InputError, match="needs 4 or more calibration texts, found 3"):
        quantizer("onnxruntime", "smooth_dynamic_w8_channel")(fused_onnx, texts[:3])


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="'w2' is not known for engine litert; known are dynamic"):
        quantizer("litert", "w2")
    with pytest.raises(InputError, match="engine npu; known are none"):
        quantizer("npu", "dynamic_w8_channel")
