"""The vendors' own tools on ONNX files: who runs what, and what their emulators answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converters.placement.environments import process
from converters.placement.place import Tools
from converters.placement.result import COMPILED, MEASURED, UNKNOWN
from converters.placement.tools import onnx_graph
from edge_runtime.errors import InputError
from edge_runtime.profile import Engine
from tests.converters.placed_nets import (
    IMAGE,
    answers,
    convolutional,
    cosine,
    images,
    normed,
    quantized,
)
from tests.converters.targets import needs_target

HEXAGON = {"htp_arch": "68", "soc_model": "35"}
ROCKCHIP = {"target_platform": "rk3588"}
NEAR = 0.999
Ask = Callable[..., dict[str, Any]]


def engine(compiler: str, target: Mapping[str, Any]) -> Engine:
    return Engine(
        backend="onnxruntime", quantization="float", providers=(), threads=1, options={},
        accelerator=compiler, compiler=compiler, target=dict(target),
    )  # fmt: skip


@pytest.fixture(scope="module")
def tools() -> Iterator[Tools]:
    with Tools() as opened:
        yield opened


def odd_one(operator: str, domain: str = "") -> bytes:
    """The net with an operator in the middle that is not checked."""
    net = convolutional()
    (middle,) = (node for node in net.graph.node if node.name == "middle")
    middle.op_type, middle.domain = operator, domain
    if domain:
        net.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    return bytes(net.SerializeToString())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The nets, float and quantized, by name."""
    folder = tmp_path_factory.mktemp("placed")
    net, odd = convolutional(), convolutional("Erf")
    made = {
        "float": net.SerializeToString(),
        "u8": quantized(net),
        "u16": quantized(net, "u16"),
        "s8": quantized(net, "s8", channel=True),
        "odd": quantized(odd),
        "free": convolutional(shape=("batch", *IMAGE[1:])).SerializeToString(),
        "newer": convolutional(opset=20).SerializeToString(),
        "normed": normed().SerializeToString(),
        "foreign": odd_one("Gelu", "com.microsoft"),
        "ranks": odd_one("Det"),
        "random": odd_one("RandomUniformLike"),
    }
    paths = {name: folder / f"{name}.onnx" for name in made}
    for name, path in paths.items():
        path.write_bytes(made[name])
    return paths


@pytest.fixture(scope="module")
def rockchip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """One process of the toolkit, which takes seconds to start."""
    folder = tmp_path_factory.mktemp("rockchip")
    with process("rknn") as toolkit:
        toolkit.start()

        def ask(job: str, model: Path, **more: Any) -> dict[str, Any]:
            request = {"target": ROCKCHIP, "demands": {}, "folder": str(folder), **more}
            return toolkit.call(job, model=str(model), **request)

        yield ask


@needs_target("qnn")
def test_qnn_takes_every_node_of_a_quantized_net_and_leaves_a_context_binary(
    tools: Tools, files: dict[str, Path], tmp_path: Path
) -> None:
    placed = tools.place(files["u8"], engine("qnn", HEXAGON), folder=tmp_path)
    assert placed.share == 1
    assert placed.evidence == COMPILED
    assert sorted({node.operator for node in placed.nodes}) == [
        "Conv", "Flatten", "Gemm", "GlobalAveragePool",
    ]  # fmt: skip
    assert placed.compiled is not None
    assert "EPContext" in {node.op_type for node in onnx.load(str(placed.compiled)).graph.node}


@needs_target("qnn")
def test_qnn_names_the_node_that_it_does_not_take_and_keeps_the_rest(
    tools: Tools, files: dict[str, Path]
) -> None:
    placed = tools.place(files["odd"], engine("qnn", HEXAGON))
    assert [node.name for node in placed.off] == ["middle"]
    assert placed.off[0].reason == "Operators of type `Erf` are not supported by QNN EP."
    assert placed.partitions == 2


@needs_target("qnn")
def test_qnn_on_a_chip_without_floats_names_the_types_that_it_refuses(
    tools: Tools, files: dict[str, Path]
) -> None:
    placed = tools.place(files["float"], engine("qnn", HEXAGON))
    assert placed.share == 0
    reasons = {node.name: node.reason for node in placed.nodes}
    assert "QNN refuses Conv2d of float_32 on this chip" in reasons["first"]
    newer = tools.place(files["float"], engine("qnn", {"htp_arch": 73, "soc_model": 43}))
    assert newer.share == 1


@needs_target("qnn")
@pytest.mark.parametrize("kind", ["u8", "u16"])
def test_qnns_emulator_answers_as_the_cpu_does(
    tools: Tools, files: dict[str, Path], kind: str
) -> None:
    for image in images(3):
        found = tools.run(files[kind], engine("qnn", HEXAGON), {"image": image})
        assert cosine(found["answer"], answers(files[kind].read_bytes(), image)) >= NEAR
        assert cosine(found["answer"], answers(files["float"].read_bytes(), image)) >= NEAR - 0.01


@needs_target("qnn")
def test_qnn_refuses_free_sizes_and_a_target_without_a_chip(
    tools: Tools, files: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match=r"fixed shapes only.*image \(batch\)"):
        tools.place(files["free"], engine("qnn", HEXAGON))
    with pytest.raises(InputError, match="htp_arch"):
        tools.place(files["u8"], engine("qnn", {}))


@needs_target("openvino")
@pytest.mark.parametrize("name", ["s8", "float", "free"])
def test_openvino_really_runs_the_file(tools: Tools, files: dict[str, Path], name: str) -> None:
    placed = tools.place(files[name], engine("openvino", {"device_type": "CPU"}))
    assert placed.evidence == MEASURED
    assert placed.share == 1
    assert placed.notes["parts_that_ran"] == placed.partitions == 1
    image = images(1)[0]
    found = tools.run(files[name], engine("openvino", {}), {"image": image})["answer"]
    assert cosine(found, answers(files[name].read_bytes(), image)) >= NEAR


@needs_target("openvino")
def test_openvino_on_a_device_that_is_not_here_is_unknown(
    tools: Tools, files: dict[str, Path]
) -> None:
    placed = tools.place(files["s8"], engine("openvino", {"device_type": "NPU"}))
    assert placed.evidence == UNKNOWN
    assert placed.share is None
    assert "no NPU" in placed.why
    with pytest.raises(InputError, match="lacks the device"):
        tools.run(files["s8"], engine("openvino", {"device_type": "NPU"}), {})


@needs_target("rknn")
def test_rknn_keeps_the_scales_of_a_quantized_file_and_its_simulator_answers_near_the_cpu(
    rockchip: Ask, files: dict[str, Path], tmp_path: Path
) -> None:
    placed = rockchip("place", files["s8"])
    assert all(node["on"] for node in placed["nodes"])
    assert list(placed["notes"]["types_on_the_npu"]) == ["INT8"]
    assert Path(placed["compiled"]).read_bytes()[:4] == b"RKNN"
    image = images(1)[0]
    paths = {name: str(tmp_path / f"{name}.npz") for name in ("feeds", "answers")}
    np.savez(paths["feeds"], image=image)
    assert rockchip("run", files["s8"], **paths) == {}
    with np.load(paths["answers"]) as found:
        assert cosine(found["answer"], answers(files["s8"].read_bytes(), image)) >= NEAR


@needs_target("rknn")
def test_rknn_runs_floats_in_half_precision_unless_it_is_given_samples(
    rockchip: Ask, files: dict[str, Path], tmp_path: Path
) -> None:
    placed = rockchip("place", files["float"])
    assert list(placed["notes"]["types_on_the_npu"]) == ["FLOAT16"]
    samples = tmp_path / "samples.npz"
    np.savez(samples, image=np.stack(images()))
    placed = rockchip("place", files["float"], calibration=str(samples))
    assert list(placed["notes"]["types_on_the_npu"]) == ["INT8"]
    with pytest.raises(InputError, match="the file is quantized"):
        rockchip("place", files["s8"], calibration=str(samples))


@needs_target("rknn")
def test_rknn_says_what_it_cannot_build(rockchip: Ask, files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="take this chip: config: Invalid target_platform 'rk1'"):
        rockchip("place", files["float"], target={"target_platform": "rk1"})
    with pytest.raises(InputError, match="fixed shapes only"):
        rockchip("place", files["free"])
    with pytest.raises(InputError, match="reads opset 19 and older, the file has 20"):
        rockchip("place", files["newer"])
    with pytest.raises(InputError, match=r"knows ONNX's own operators only, the file has "
                       r"com\.microsoft\.Gelu x1"):  # fmt: skip
        rockchip("place", files["foreign"])
    # It crashes inside; what is told is the end of its traceback.
    for file, told in {
        "ranks": r"\[ShapeInferenceError\] Attribute strides has incorrect size",
        "random": r"ValueError \(in rknn\.api\.graph_optimizer\.",
    }.items():
        with pytest.raises(InputError, match="cannot build it: .*" + told) as caught:
            rockchip("place", files[file])
        assert "Traceback" not in str(caught.value)


@needs_target("rknn")
def test_rknns_simulator_keeps_the_build_for_the_next_row_and_makes_another_for_another_file(
    rockchip: Ask, files: dict[str, Path], tmp_path: Path
) -> None:
    samples = tmp_path / "samples.npz"
    np.savez(samples, image=np.stack(images()))
    paths = {name: str(tmp_path / f"{name}.npz") for name in ("feeds", "answers")}

    def answer(image: np.ndarray[Any, Any], **more: str) -> np.ndarray[Any, Any]:
        np.savez(paths["feeds"], image=image)
        assert rockchip("run", files["float"], **paths, **more) == {}
        with np.load(paths["answers"]) as found:
            return np.array(found["answer"])

    first, second = images(2)
    one, two = answer(first), answer(second)
    np.testing.assert_array_equal(answer(first), one)
    integers = answer(first, calibration=str(samples))
    float_file = files["float"].read_bytes()
    assert cosine(one, answers(float_file, first)) > cosine(integers, answers(float_file, first))
    assert cosine(two, answers(float_file, second)) > NEAR
    np.testing.assert_array_equal(answer(first), one)


def test_nnapi_lacks_layer_norm_and_erf_and_takes_convolutions(
    tools: Tools, files: dict[str, Path]
) -> None:
    placed = tools.place(files["normed"], engine("nnapi", {}))
    assert {node.name: node.reason for node in placed.off} == {
        "norm": "LayerNormalization is no operator of NNAPI's",
        "bell": "Erf is no operator of NNAPI's",
    }
    assert tools.place(files["u8"], engine("nnapi", {})).share == 1


def test_nodes_in_any_order_are_read_in_the_one_that_they_run_in(
    tools: Tools, files: dict[str, Path], tmp_path: Path
) -> None:
    """ONNX Runtime takes any order, and its quantizer writes some; its checker wants this one."""
    model = onnx.load(str(files["s8"]))
    names = sorted(node.name for node in model.graph.node)
    turned = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(turned)
    path = tmp_path / "turned.onnx"
    path.write_bytes(model.SerializeToString())
    found = onnx_graph.read(str(path))
    assert sorted(node.name for node in found.graph.node) == names
    onnx.checker.check_model(found)
    assert tools.place(path, engine("nnapi", {})).share == 1


def test_nnapi_wants_fixed_shapes(tools: Tools, files: dict[str, Path]) -> None:
    placed = tools.place(files["free"], engine("nnapi", {}))
    assert placed.share == 0
    assert "not fixed" in placed.off[0].reason


def test_core_ml_takes_floats_and_no_packed_weights(tools: Tools, files: dict[str, Path]) -> None:
    placed = tools.place(files["float"], engine("coreml", {}))
    assert [node.reason for node in placed.off] == ["Flatten is no operator of Core ML's"]
    placed = tools.place(files["u8"], engine("coreml", {}))
    assert {node.operator for node in placed.off} == {"Conv", "Flatten", "Gemm"}
    assert "weights are packed" in placed.off[0].reason
    with pytest.raises(InputError, match="MLProgram and NeuralNetwork"):
        tools.place(files["u8"], engine("coreml", {"ModelFormat": "Lisp"}))


def test_hailo_is_unknown_and_says_why(tools: Tools, files: dict[str, Path]) -> None:
    placed = tools.place(files["u8"], engine("hailo", {}))
    assert placed.evidence == UNKNOWN
    assert placed.share is None
    assert "account" in placed.why
