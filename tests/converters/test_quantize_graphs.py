"""Nets that are no text encoders keep their answers on both engines, and compute in integers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converters.operators import float_operators, operators_of
from converters.ort import load_engine, open_session
from converters.quantize import Quantized, quantizer
from converters.quantize.config import Options
from converters.quantize.convolutions import fold_norms
from converters.quantize.errors import layer_errors
from converters.quantize.graph import Graph, find_layers, plain_gemms
from converters.quantize.litert_file import answers_litert, is_transformer, layers_of
from converters.quantize.onnxruntime import prepare
from converters.quantize.sensitivity import sensitivities
from edge_runtime.errors import InputError
from tests.converters.nets import (
    NETS,
    FloatArray,
    Sample,
    accuracy,
    as_litert,
    as_onnx,
    calibration,
    held_out,
    litert_of,
    onnx_of,
    trained,
)

CONVOLUTIONAL = ("mobile", "residual")
STATIC, DYNAMIC, WEIGHT = "static_w8a8_channel", "dynamic_w8_channel", "weight_w8_channel"


def made(engine: str, net: str, scheme: str, **options: Any) -> Quantized:
    source = {"onnxruntime": onnx_of, "litert": litert_of}[engine](net)
    return quantizer(engine, Options(scheme, **options))(source, calibration())


def images() -> tuple[Sample, ...]:
    return tuple(Sample({"image": image[None]}) for image in held_out()[0])


def answers(engine: str, model: bytes) -> FloatArray:
    if engine == "litert":
        return answers_litert(model, images())
    found: FloatArray = open_session(model).run(None, {"image": held_out()[0]})[0]
    return found


def error(found: FloatArray, wanted: FloatArray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def loaded(model: bytes, folder: Path) -> Counter[str]:
    """Operators that the engine runs, after all of its fusions."""
    onnxruntime = load_engine()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "loaded.onnx").graph.node)


@pytest.mark.parametrize("scheme", [STATIC, DYNAMIC, WEIGHT])
@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
@pytest.mark.parametrize("net", NETS)
def test_eight_bits_cost_less_than_a_point(net: str, engine: str, scheme: str) -> None:
    source = {"onnxruntime": onnx_of, "litert": litert_of}[engine](net)
    found = made(engine, net, scheme).model
    reference = answers(engine, source)
    assert accuracy(answers(engine, found)) > accuracy(reference) - 0.01
    assert error(answers(engine, found), reference) < 0.08  # .050 and .064 after other processors
    assert len(found) < 0.65 * len(source)
    assert made(engine, net, scheme).model == found, "same bytes again"


@pytest.mark.parametrize("net", CONVOLUTIONAL)
def test_a_convolutional_net_runs_in_integers_from_end_to_end(net: str, tmp_path: Path) -> None:
    before = operators_of(onnx_of(net))
    found = loaded(made("onnxruntime", net, STATIC).model, tmp_path)
    assert found["QLinearConv"] == before["Conv"]
    assert found["QLinearAdd"] == before["Add"], "residuals too"
    assert found["QLinearConcat"] == before.get("Concat", 0)
    assert found["QLinearSigmoid"] == before.get("Sigmoid", 0)
    assert found["QGemm"] == before["Gemm"] == 1
    assert not {"Conv", "Add", "Clip", "Relu", "Gemm"} & set(found)


def test_a_dense_net_runs_in_integers(tmp_path: Path) -> None:
    assert loaded(made("onnxruntime", "dense", STATIC).model, tmp_path)["QGemm"] == 3
    assert "MatMulInteger" in operators_of(made("onnxruntime", "dense", DYNAMIC).model)


def test_of_a_transformer_norms_softmax_adds_and_head_stay_float(tmp_path: Path) -> None:
    found = loaded(made("onnxruntime", "transformer", STATIC).model, tmp_path)
    assert found["MatMulIntegerToFloat"] == 3 * 6
    assert found["QLinearConv"] == 1, "patches"
    assert {"Softmax", "Gemm"} <= set(found)
    assert not {"QLinearAdd", "QLinearSoftmax", "QGemm"} & set(found)
    source = litert_of("transformer")
    assert is_transformer(source)
    left = float_operators(made("litert", "transformer", STATIC).model)
    for name in ("SOFTMAX", "ADD", "MEAN", "BATCH_MATMUL"):
        assert left[name] == float_operators(source)[name]
    assert left["FULLY_CONNECTED"] == 1, "the head"


@pytest.mark.parametrize("net", [*CONVOLUTIONAL, "dense"])
def test_on_litert_only_the_border_of_other_nets_is_float(net: str) -> None:
    assert float_operators(made("litert", net, STATIC).model) == {"DEQUANTIZE": 1, "QUANTIZE": 1}


@pytest.mark.parametrize("calibration_", ["minmax", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_every_calibration_reaches_convolutions(engine: str, calibration_: str) -> None:
    found = made(engine, "residual", STATIC, calibration=calibration_, percentile=99.9)
    assert found.notes["calibration"] == calibration_
    source = {"onnxruntime": onnx_of, "litert": litert_of}[engine]("residual")
    assert accuracy(answers(engine, found.model)) > accuracy(answers(engine, source)) - 0.015
    if calibration_ != "minmax":
        assert found.model != made(engine, "residual", STATIC).model


@pytest.mark.parametrize(
    "scheme", ["static_w7a8_channel", "static_w8a16_channel", "weight_c8_channel"]
)
def test_other_schemes_answer_too(scheme: str) -> None:
    found = made("onnxruntime", "mobile", scheme).model
    assert error(answers("onnxruntime", found), answers("onnxruntime", onnx_of("mobile"))) < 0.08


def test_four_bits_halve_a_file_of_eight() -> None:
    for engine, scheme in (("onnxruntime", "weight_c4_channel"), ("litert", "dynamic_w4_channel")):
        four, eight = made(engine, "residual", scheme).model, made(engine, "residual", WEIGHT).model
        assert len(four) < 0.7 * len(eight)
        assert accuracy(answers(engine, four)) > 0.9


def test_seven_bits_are_seven_bits() -> None:
    """What processors without VNNI need: sums of two products must fit sixteen bits."""
    proto = onnx.load_from_string(made("onnxruntime", "residual", "static_w7a8_channel").model)
    weights = [
        onnx.numpy_helper.to_array(one)
        for one in proto.graph.initializer
        if one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 4
    ]
    assert len(weights) == 12
    assert max(int(np.abs(one.astype(int)).max()) for one in weights) <= 64


def test_batch_norms_that_an_exporter_left_are_folded() -> None:
    import io

    import torch

    out: Any = io.BytesIO()
    torch.onnx.export(
        trained("residual"), (torch.zeros(1, 3, 16, 16),), out, input_names=["image"],
        output_names=["answer"], opset_version=17, dynamo=False, do_constant_folding=False,
        dynamic_axes={"image": {0: "batch"}}, training=torch.onnx.TrainingMode.PRESERVE,
    )  # fmt: skip
    source = out.getvalue()
    trained("residual").eval()
    assert operators_of(source)["BatchNormalization"] == 3
    assert "BatchNormalization" not in operators_of(fold_norms(source))
    assert error(answers("onnxruntime", fold_norms(source)), answers("onnxruntime", source)) < 1e-5
    found = quantizer("onnxruntime", STATIC)(source, calibration()).model
    assert error(answers("onnxruntime", found), answers("onnxruntime", source)) < 0.05


@pytest.mark.parametrize("net", NETS)
def test_preparing_changes_no_answer(net: str) -> None:
    source = onnx_of(net)
    assert error(answers("onnxruntime", prepare(source)), answers("onnxruntime", source)) < 1e-5


def test_a_gemm_with_settings_is_made_plain() -> None:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(5, 7)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=3.0, transB=1)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g",
        [value("x", TensorProto.FLOAT, [2, 7])], [value("y", TensorProto.FLOAT, [2, 5])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    source = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    plain = plain_gemms(source)
    assert [len(one.attribute) for one in Graph(plain).proto.graph.node] == [0]
    x = rng.normal(size=(2, 7)).astype(np.float32)
    found = open_session(plain).run(None, {"x": x})[0]
    assert np.allclose(found, 0.5 * x @ weight.T + 3 * bias, atol=1e-5)


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_a_layer_can_stay_float(engine: str, tmp_path: Path) -> None:
    """One convolution alone, by its name."""
    source = {"onnxruntime": onnx_of, "litert": litert_of}[engine]("residual")
    names = (
        [one.name for one in find_layers(Graph(prepare(source)).proto)]
        if engine == "onnxruntime"
        else [one.name for one in layers_of(source)]
    )
    found = made(engine, "residual", STATIC, layers={names[5]: "float"}).model
    whole = made(engine, "residual", STATIC).model
    assert len(found) > len(whole)
    reference = answers(engine, source)
    assert error(answers(engine, found), reference) < 0.08
    if engine == "onnxruntime":
        assert loaded(found, tmp_path)["QLinearConv"] == loaded(whole, tmp_path)["QLinearConv"] - 1
    if engine == "litert":
        assert float_operators(found)["CONV_2D"] == 1
        assert "CONV_2D" not in float_operators(whole)


def test_convolutions_share_one_static_scheme() -> None:
    names = [one.name for one in find_layers(Graph(prepare(onnx_of("residual"))).proto)]
    with pytest.raises(InputError, match="share one static scheme, found static_w7a8_channel, sta"):
        made("onnxruntime", "residual", STATIC, layers={names[1]: "static_w7a8_channel"})


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_errors_and_sensitivities_are_told_by_layer(engine: str) -> None:
    source = {"onnxruntime": onnx_of, "litert": litert_of}[engine]("residual")
    errors = layer_errors(engine, source, made(engine, "residual", STATIC).model, images()[:4])
    assert len(errors) >= 6
    assert all(15 < one.sqnr_db < 90 for one in errors)
    if engine == "onnxruntime":
        ranked = sensitivities(engine, source, calibration()[:8], Options(STATIC))
        assert len(ranked) == 13
        assert ranked[0].loss > 10 * ranked[-1].loss >= 0


def test_nothing_to_smooth_is_no_fault() -> None:
    found = made("onnxruntime", "residual", STATIC, smooth="search")
    assert found.model == made("onnxruntime", "residual", STATIC).model
    assert "smoothing_alpha" not in found.notes
    assert made("onnxruntime", "transformer", STATIC, smooth=0.5).notes["smoothing"] == 0.5


@pytest.fixture(scope="module")
def sound() -> tuple[Any, FloatArray]:
    """One-dimensional convolutions, a gate, groups; and waves for it, (24, 1, 800)."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm = nn.Conv1d(1, 16, 16, 8), nn.BatchNorm1d(16)
            self.two, self.head = nn.Conv1d(16, 32, 5, 2, groups=4), nn.Linear(32, 4)

        def forward(self, x: Any) -> Any:
            x = nn.functional.hardswish(self.norm(self.one(x)))
            return self.head(torch.relu(self.two(x)).mean(-1))

    torch.manual_seed(0)
    return Net().eval(), _walks((24, 1, 800))


@pytest.fixture(scope="module")
def picture() -> tuple[Any, FloatArray]:
    """Down and up again, as segmentation nets go; and pictures, (24, 3, 16, 16)."""
    import torch
    from torch import nn

    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2, 2), nn.LeakyReLU(),
        nn.Conv2d(8, 1, 1),
    )  # fmt: skip
    torch.manual_seed(0)
    return net.eval(), _walks((24, 3, 16, 16))


def _walks(shape: tuple[int, ...]) -> FloatArray:
    steps = np.random.default_rng(0).normal(size=shape)
    walks = np.cumsum(steps, axis=-1)
    scaled: FloatArray = (walks / np.abs(walks).max()).astype(np.float32)
    return scaled


@pytest.mark.parametrize("kind", ["sound", "picture"])
def test_inputs_of_any_name_and_rank(kind: str, request: pytest.FixtureRequest) -> None:
    import torch

    net, values = request.getfixturevalue(kind)
    samples = tuple(Sample({"given": one[None]}) for one in values)
    reference = net(torch.from_numpy(values)).detach().numpy()
    plain = as_onnx(net, values[:1], name="given"), as_litert(net, values[:1], name="given")
    for scheme in (STATIC, DYNAMIC, WEIGHT):
        onnx_, litert = (
            quantizer(engine, scheme)(source, samples[:12]).model
            for engine, source in zip(("onnxruntime", "litert"), plain, strict=True)
        )
        found = open_session(onnx_).run(None, {"given": values})[0]
        assert error(found, reference) < 0.02
        assert error(answers_litert(litert, samples), reference.reshape(24, -1)) < 0.02
    with pytest.raises(InputError, match="a sample has the inputs image, the file wants given"):
        quantizer("litert", STATIC)(plain[1], calibration())


@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_static_needs_samples(engine: str) -> None:
    source = {"onnxruntime": onnx_of, "litert": litert_of}[engine]("dense")
    with pytest.raises(InputError, match="needs 4 or more calibration texts, found 2"):
        quantizer(engine, STATIC)(source, calibration()[:2])
