"""Schemes on a small real network, layer by layer, and the figures that choose between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from converters.encoding import Encoded, encode, load_tokenizer
from converters.network import TextNetwork
from converters.quantize import quantizer
from converters.quantize.config import Options
from converters.quantize.errors import layer_errors
from converters.quantize.graph import (
    Graph,
    clamp_masks,
    find_layers,
    observe,
    open_embeddings,
)
from converters.quantize.litert_file import layer_sizes
from converters.quantize.sensitivity import Choice, greedy, sensitivities
from edge_runtime.errors import InputError
from tests.converters.engines import cosine, litert_answers, onnx_answers, torch_answers
from tests.converters.small import CLASSES, HEADS, HIDDEN, MAX_LENGTH, picked, write_encoder

LENGTHS = (16, MAX_LENGTH)
FFN = "encoder.layer.1.output.dense"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> TextNetwork:
    """Untrained: these tests compare files with the network, not answers with the truth."""
    import torch

    from converters.network import load_encoder, new_head

    folder = tmp_path_factory.mktemp("schemes") / "encoder"
    write_encoder(folder)
    torch.manual_seed(1)
    found = TextNetwork(load_encoder(folder), new_head(HIDDEN, len(CLASSES))).eval()
    found.folder = folder  # type: ignore[assignment]
    return found


@pytest.fixture(scope="module")
def texts(network: TextNetwork) -> tuple[Encoded, ...]:
    folder: Path = network.folder  # type: ignore[assignment]
    tokenizer = load_tokenizer(folder / "tokenizer.json", max_length=MAX_LENGTH)
    found = [row["text"] for row in picked("calibration", 6)]
    return encode(tokenizer, [" ".join(text.split()[:4]) for text in found[:4]] + found[4:])


@pytest.fixture(scope="module")
def plain(network: TextNetwork) -> bytes:
    from converters.export.onnx import export_onnx

    return export_onnx(network, opset=17)


@pytest.fixture(scope="module")
def fused(plain: bytes) -> bytes:
    from converters.fuse import fuse_onnx

    return fuse_onnx(plain, architecture="bert", heads=HEADS, hidden=HIDDEN)[0]


@pytest.fixture(scope="module")
def litert(network: TextNetwork) -> bytes:
    from converters.export.litert import export_litert

    return export_litert(network, lengths=LENGTHS)


@pytest.fixture(scope="module")
def answers(network: TextNetwork, texts: tuple[Encoded, ...]) -> np.ndarray:
    return torch_answers(network, texts)


def made(model: bytes, texts: tuple[Encoded, ...], scheme: str, **options: object) -> bytes:
    return quantizer("onnxruntime", Options(scheme, **options))(model, texts).model  # type: ignore[arg-type]


def operators(model: bytes) -> set[str]:
    return {node.op_type for node in Graph(model).proto.graph.node}


def test_layers_have_the_same_names_in_every_file(
    plain: bytes, fused: bytes, litert: bytes
) -> None:
    names = [
        {one.name for one in find_layers(Graph(open_embeddings(model)).proto)}
        for model in (plain, fused)
    ]
    assert FFN in names[0] & names[1] & set(layer_sizes(litert))
    assert "encoder.layer.0.attention.self.qkv" in names[1]
    assert "encoder.layer.0.attention.self.key" in names[0]
    assert all("embeddings.word_embeddings" in one for one in (*names, layer_sizes(litert)))


def test_open_embeddings_answer_the_same(
    fused: bytes, texts: tuple[Encoded, ...], answers: np.ndarray
) -> None:
    opened = open_embeddings(fused)
    assert "EmbedLayerNormalization" not in operators(opened)
    assert np.abs(onnx_answers(opened, texts) - answers).max() < 1e-4


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy", "mse"])
def test_static_uses_integers_in_the_fused_graph(
    calibration: str, fused: bytes, texts: tuple[Encoded, ...], answers: np.ndarray
) -> None:
    found = made(fused, texts, "static_w8a8_channel", calibration=calibration, percentile=99.99)
    assert {"QAttention", "QuantizeLinear", "DequantizeLinear"} <= operators(found)
    assert not operators(found) & {"DynamicQuantizeLinear", "Attention"}
    assert cosine(onnx_answers(found, texts), answers) > 0.99


def test_nothing_but_inputs_and_weights_of_layers_is_quantized(
    plain: bytes, texts: tuple[Encoded, ...]
) -> None:
    graph = Graph(made(plain, texts, "static_w8a8_channel")).proto.graph
    sources = {one.source for one in find_layers(Graph(plain).proto)}
    quantized = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert quantized <= sources
    assert len(quantized) == 8, "query, key and value share one; two layers of four inputs"


def test_mask_constants_are_clamped_for_static_schemes(
    plain: bytes, texts: tuple[Encoded, ...], answers: np.ndarray
) -> None:
    def lowest(model: bytes) -> float:
        tensors = [
            attribute.t
            for node in Graph(model).proto.graph.node
            for attribute in node.attribute
            if node.op_type == "Constant" and attribute.t.data_type == 1
        ]
        return min(float(numpy_helper.to_array(one).min()) for one in tensors)

    assert lowest(plain) < -1e30
    assert lowest(clamp_masks(plain)) == -30
    assert lowest(made(plain, texts, "static_w8a8_channel")) == -30
    assert np.abs(onnx_answers(clamp_masks(plain), texts) - answers).max() < 1e-5


@pytest.mark.parametrize(
    ("scheme", "share"), [("dynamic_c4_channel", 0.15), ("weight_w4_block32", 0.16)]
)
def test_four_bits_halve_the_file_and_gptq_brings_answers_closer(
    scheme: str, share: float, fused: bytes, texts: tuple[Encoded, ...], answers: np.ndarray
) -> None:
    layers = {"embeddings.*": "weight_w8_channel"}
    nearest = made(fused, texts, scheme, layers=layers)
    rounded = made(fused, texts, scheme, layers=layers, rounding="gptq")
    assert len(made(fused, texts, scheme)) < share * len(fused)

    def error(model: bytes) -> float:
        return float(np.linalg.norm(onnx_answers(model, texts) - answers))

    assert error(rounded) < 0.9 * error(nearest)


def test_a_codebook_is_four_bits_in_the_file_and_integers_while_it_runs(
    fused: bytes, texts: tuple[Encoded, ...]
) -> None:
    proto = onnx.load_from_string(made(fused, texts, "dynamic_c4_channel"))
    books = [one for one in proto.graph.initializer if one.name.endswith(".codebook")]
    packed = [one for one in proto.graph.initializer if one.name.endswith(".packed")]
    assert len(books) == len(packed) == 8 + 2
    assert all(len(numpy_helper.to_array(one)) <= 16 for one in books)
    assert all(one.data_type == onnx.TensorProto.INT8 for one in books)
    assert "MatMulInteger" in {node.op_type for node in proto.graph.node}


def test_each_layer_can_have_a_scheme_of_its_own(
    fused: bytes, texts: tuple[Encoded, ...], answers: np.ndarray
) -> None:
    layers = {
        "encoder.layer.0.*": "float",
        FFN: "weight_w4_block32",
        "encoder.layer.1.intermediate.dense": "static_w8a16_channel",
        "embeddings.*": "dynamic_c4_channel",
    }
    found = made(fused, texts, "dynamic_w8_channel", layers=layers)
    assert {"Attention", "QAttention", "MatMul", "MatMulNBits", "QuantizeLinear"} <= operators(
        found
    )
    assert cosine(onnx_answers(found, texts), answers) > 0.9


def test_all_layers_float_is_the_float_model(
    fused: bytes, texts: tuple[Encoded, ...], answers: np.ndarray
) -> None:
    found = made(fused, texts, "dynamic_w8_channel", layers={"*": "float"})
    assert np.abs(onnx_answers(found, texts) - answers).max() < 1e-4


@pytest.mark.parametrize("scheme", ["static_w8a8_channel", "dynamic_w8_channel"])
def test_smoothing_and_rounding_go_with_every_scheme(
    scheme: str, fused: bytes, texts: tuple[Encoded, ...], answers: np.ndarray
) -> None:
    found = made(fused, texts, scheme, smooth=0.6, rounding="gptq")
    assert cosine(onnx_answers(found, texts), answers) > 0.99
    assert any(node.name.endswith(".smoother") for node in Graph(found).proto.graph.node)
    assert made(fused, texts, scheme, smooth=0.6, rounding="gptq") == found, "same bytes again"


def test_calibration_without_texts_is_refused(fused: bytes) -> None:
    for options in (Options("static_w8a8_channel"), Options("dynamic_w8_channel", rounding="gptq"),
                    Options("dynamic_w8_channel", smooth=0.5)):  # fmt: skip
        with pytest.raises(InputError, match="needs 4 or more calibration texts, found 0"):
            quantizer("onnxruntime", options)(fused, ())


def test_a_stream_is_watched_in_one_pass(fused: bytes, texts: tuple[Encoded, ...]) -> None:
    opened = open_embeddings(fused)
    source = next(one.source for one in find_layers(Graph(opened).proto) if one.name == FFN)
    seen = observe(opened, iter(texts), [source], grams=[source])  # type: ignore[arg-type]
    tokens = sum(map(len, texts))
    assert seen.observers[source].counts.sum() == tokens * 2 * HIDDEN
    assert seen.grams[source].shape == (2 * HIDDEN, 2 * HIDDEN)


LITERT_FLOORS = {
    "dynamic_w8_channel": 0.99, "dynamic_w4_channel": 0.8, "dynamic_w4_block32": 0.9,
    "weight_w8_channel": 0.99, "weight_w4_channel": 0.8, "weight_f16": 0.99999,
    "static_w8a8_channel": 0.98, "static_w8a16_channel": 0.99,
}  # fmt: skip


@pytest.mark.parametrize("scheme", LITERT_FLOORS)
def test_litert_answers_in_every_scheme(
    scheme: str, litert: bytes, texts: tuple[Encoded, ...], answers: np.ndarray
) -> None:
    found = quantizer("litert", scheme)(litert, texts).model
    share = 0.55 if scheme == "weight_f16" else 0.22 if "w4" in scheme else 0.33
    assert len(found) < share * len(litert)
    assert cosine(litert_answers(found, texts, LENGTHS), answers) > LITERT_FLOORS[scheme]


def test_litert_layers_can_have_schemes_of_their_own(
    litert: bytes, texts: tuple[Encoded, ...], answers: np.ndarray
) -> None:
    whole = quantizer("litert", "dynamic_w4_channel")(litert, texts).model
    options = Options("dynamic_w4_channel", layers={"encoder.*": "dynamic_w8_channel"})
    mixed = quantizer("litert", options)(litert, texts).model
    assert len(mixed) > len(whole)
    errors = [
        float(np.linalg.norm(litert_answers(one, texts, LENGTHS) - answers))
        for one in (whole, mixed)
    ]
    assert errors[1] < errors[0]
    with pytest.raises(InputError, match="'decoder' matches no layer"):
        quantizer("litert", Options("dynamic_w8_channel", layers={"decoder": "float"}))(litert, ())


def damaged(fused: bytes, layer: str) -> bytes:
    """One weight of `layer` so large that its channels' grid has room for nothing else."""
    graph = Graph(fused)
    weight = next(one.weight for one in find_layers(graph.proto) if one.name == layer)
    array = graph.array(weight).copy()
    array[0, :] *= 200
    graph.constants[weight].CopyFrom(numpy_helper.from_array(array, weight))
    return bytes(graph.proto.SerializeToString())


def test_the_layer_that_was_made_bad_ranks_first(fused: bytes, texts: tuple[Encoded, ...]) -> None:
    told: list[tuple[int, int]] = []
    found = sensitivities(
        "onnxruntime", damaged(fused, FFN), texts, Options("dynamic_w8_channel"),
        step=lambda done, of: told.append((done, of)),
    )  # fmt: skip
    assert found[0].layer == FFN
    assert found[0].loss > 3 * found[1].loss
    assert told[-1] == (len(found), len(found))
    sizes = {one.layer: one.weights for one in found}
    assert sizes[FFN] == 2 * HIDDEN * HIDDEN


def test_litert_layers_are_ranked_too(litert: bytes, texts: tuple[Encoded, ...]) -> None:
    found = sensitivities("litert", litert, texts[:6], Options("dynamic_w4_channel"))
    assert {one.layer for one in found} == set(layer_sizes(litert))
    assert [one.loss for one in found] == sorted((one.loss for one in found), reverse=True)
    assert found[0].loss > 0


def test_the_error_grows_where_the_bad_layer_is(fused: bytes, texts: tuple[Encoded, ...]) -> None:
    bad = damaged(fused, FFN)
    errors = {
        one.layer: one
        for one in layer_errors("onnxruntime", bad, made(bad, texts, "dynamic_w8_channel"), texts)
    }
    sound = layer_errors("onnxruntime", fused, made(fused, texts, "dynamic_w8_channel"), texts)
    before = next(one for one in sound if one.layer == FFN)
    assert errors[FFN].sqnr_db < before.sqnr_db - 3
    assert errors["encoder.layer.0.attention.self.qkv"].sqnr_db > 30
    assert errors[FFN].relative == pytest.approx(10 ** (-errors[FFN].sqnr_db / 20))
    same = layer_errors("onnxruntime", fused, fused, texts)
    assert all(one.sqnr_db > 100 for one in same)


def test_litert_errors_are_by_layer(litert: bytes, texts: tuple[Encoded, ...]) -> None:
    quantized = quantizer("litert", "dynamic_w8_channel")(litert, ()).model
    found = layer_errors("litert", litert, quantized, texts[:4])
    assert {one.layer for one in found} == set(layer_sizes(litert))
    assert all(15 < one.sqnr_db < 80 for one in found)


CHOICES = (
    Choice("a", "float", 0.0, 10), Choice("a", "w8", 0.1, 4), Choice("a", "w4", 9.0, 3),
    Choice("b", "float", 0.0, 10), Choice("b", "w8", 5.0, 4),
    Choice("c", "float", 0.0, 1),
)  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "a", "b", "met"),
    [(21, "float", "float", True), (15, "w8", "float", True), (14, "w4", "float", True),
     (10, "w4", "w8", True), (9, "w8", "w8", True), (5, "w4", "w8", False)],
)  # fmt: skip
def test_greedy_gives_up_what_costs_least(budget: float, a: str, b: str, met: bool) -> None:
    plan = greedy(CHOICES, budget)
    assert plan.met is met
    if budget not in (14, 10, 9):  # there the order of steps decides
        assert (plan.schemes["a"], plan.schemes["b"], plan.schemes["c"]) == (a, b, "float")
    assert plan.cost <= budget or not met
    assert plan.cost == sum(one.cost for one in CHOICES if plan.schemes[one.layer] == one.scheme)


def test_greedy_ignores_the_order_of_its_choices() -> None:
    assert greedy(CHOICES, 9).schemes == greedy(CHOICES[::-1], 9).schemes
