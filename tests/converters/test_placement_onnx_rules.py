"""Rules for ONNX files where no tool can be asked: TensorRT, the DPU; and which nodes compute."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from converters.ort import load_engine
from converters.placement import tensorrt_build
from converters.placement.tools import dpu, onnx_graph, tensorrt
from converters.quantize.power_of_two import power_of_two
from edge_runtime.errors import DeviceError, InputError
from tests.converters.placed_nets import (
    IMAGE,
    answers,
    convolutional,
    cosine,
    graph,
    images,
    normed,
    quantized,
)

node = helper.make_node


@pytest.fixture
def place(tmp_path: Path) -> Any:
    """`place` of a module on a model: name → reason, "" where it is on."""

    def ask(module: Any, model: Any, **target: Any) -> dict[str, str]:
        path = tmp_path / "model.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        request = {"model": str(path), "target": target, "demands": {}, "folder": str(tmp_path)}
        answer = module.place(request)
        for one in answer["nodes"]:
            assert one["on"] is not bool(one["reason"])
        return {one["name"]: one["reason"] for one in answer["nodes"]}

    return ask


@pytest.fixture(scope="module")
def symmetric() -> bytes:
    return quantized(convolutional(), "s8")


def names(nodes: Sequence[Any]) -> list[str]:
    return [one.name for one in nodes]


def saved(model: Any, folder: Path) -> Any:
    """The model as `onnx_graph` reads it."""
    path = folder / "read.onnx"
    path.write_bytes(model.SerializeToString())
    return onnx_graph.read(str(path))


def test_quantizers_and_what_hangs_on_constants_do_not_compute(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["image"], ["sizes"], name="sizes"),
        node("Mul", ["two", "two"], ["four"], name="folded"),
        node("Add", ["image", "four"], ["a"], name="added"),
        node("Reshape", ["a", "sizes"], ["b"], name="shaped"),
        node("Identity", ["b"], ["answer"], name="nothing"),
    ]
    model = graph(nodes, {"two": np.full((), 2, np.float32)}, out=IMAGE)
    assert names(onnx_graph.operators(saved(model, tmp_path))) == ["added", "shaped"]


def test_a_shape_that_is_not_fixed_is_computed(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["image"], ["sizes"], name="sizes"),
        node("Reshape", ["image", "sizes"], ["answer"], name="shaped"),
    ]
    shape = ("batch", *IMAGE[1:])
    model = saved(graph(nodes, {}, shape=shape, out=shape), tmp_path)
    assert names(onnx_graph.operators(model)) == ["sizes", "shaped"]
    assert onnx_graph.free_dims(model) == {"image": ["batch"]}


def test_nodes_without_a_name_or_with_the_same_one_get_their_own(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["image"], ["a"], name="twice"),
        node("Relu", ["a"], ["b"], name="twice"),
        node("Relu", ["b"], ["answer"]),
    ]
    model = saved(graph(nodes, {}, out=IMAGE), tmp_path)
    assert names(model.graph.node) == ["twice", "twice_2", "answer"]


def test_a_fused_node_speaks_for_all_that_it_was_made_of(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["image"], ["a"], name="before"),
        node("Sigmoid", ["a"], ["b"], name="half"),
        node("Mul", ["a", "b"], ["c"], name="other-half"),
        node("Relu", ["c"], ["answer"], name="after"),
    ]
    model = saved(graph(nodes, {}, out=IMAGE), tmp_path)
    fused = saved(
        graph([nodes[0], node("HardSwish", ["a"], ["c"], name="swish"), nodes[3]], {}, out=IMAGE),
        tmp_path,
    )
    off = onnx_graph.Fate(False, "swish")
    on = onnx_graph.Fate(True)
    fates = onnx_graph.spread(model, fused, {"before": on, "swish": off, "after": on})
    assert {name: fate.on for name, fate in fates.items()} == {
        "before": True, "half": False, "other-half": False, "after": True,
    }  # fmt: skip


def test_what_is_no_onnx_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x00not a model")
    with pytest.raises(InputError, match=r"model\.onnx: cannot be read as ONNX"):
        onnx_graph.read(str(path))


def test_tensorrt_takes_symmetric_int8_whole(place: Any, symmetric: bytes) -> None:
    assert set(place(tensorrt, symmetric).values()) == {""}


def test_tensorrt_refuses_unsigned_numbers_behind_a_quantizer(place: Any) -> None:
    found = place(tensorrt, quantized(convolutional()))
    assert "not symmetric: uint8" in found["first"]


def test_tensorrt_refuses_a_zero_point(place: Any, symmetric: bytes) -> None:
    model = onnx.load_from_string(symmetric)
    pooled = next(one for one in model.graph.node if one.op_type == "GlobalAveragePool")
    maker = next(one for one in model.graph.node if one.output[0] == pooled.input[0])
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.int8), "three"))
    maker.input[2] = "three"
    found = place(tensorrt, model)
    assert {name: why for name, why in found.items() if why} == {
        "pool": "its quantizers have a zero point that is not 0"
    }


def test_tensorrt_knows_its_operators_opsets_and_limits(place: Any) -> None:
    assert place(tensorrt, normed()) == {"up": "", "norm": "", "bell": ""}
    newer = place(tensorrt, convolutional(opset=21))
    assert "opset 21, TensorRT 10.3 reads 9 to 20" in newer["first"]
    pool = node("MaxPool", ["image"], ["a"], name="pool", kernel_shape=[2, 2], dilations=[2, 2])
    sized = node("Det", ["a"], ["answer"], name="det")
    model = graph([pool, sized], {}, out=(1, 3))
    assert place(tensorrt, model) == {
        "pool": "its dilations must be 1",
        "det": "Det is no operator of TensorRT's",
    }


def test_tensorrt_tells_which_inputs_need_shape_profiles(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(convolutional(shape=("batch", *IMAGE[1:])).SerializeToString())
    answer = tensorrt.place({"model": str(path), "target": {}, "demands": {}})
    assert answer["notes"]["shape_profiles_needed"] == {"image": ["batch"]}


def test_an_engine_is_kept_by_device_driver_release_file_and_precision() -> None:
    same = ("Orin", "r36", "onnxruntime 1.23", "abc", "fp16")
    keys = {tensorrt_build.cache_key(*same)}
    for place_, other in enumerate(("Xavier", "r35", "onnxruntime 1.24", "abd", "int8")):
        changed = list(same)
        changed[place_] = other
        keys.add(tensorrt_build.cache_key(*changed))
    assert len(keys) == 6
    assert tensorrt_build.cache_key(*same) in keys


def test_the_build_measures_a_provider_against_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(convolutional().SerializeToString())
    engine = load_engine()
    session = tensorrt_build._session(engine, path, ["CPUExecutionProvider"])
    feeds = tensorrt_build.invented(session)
    truth = session.run(None, feeds)
    found = tensorrt_build.measure("CPUExecutionProvider", session, feeds, truth, 5)
    assert found.cosine == 1
    assert found.max_difference == 0
    assert 0 < found.p50_ms <= found.p95_ms
    assert found.nodes
    other = tensorrt_build.measure("CPUExecutionProvider", session, feeds, [-truth[0]], 5)
    assert other.cosine == -1


@pytest.mark.skipif(
    "TensorrtExecutionProvider" in load_engine().get_available_providers(),
    reason="TensorRT is here",
)
def test_the_build_says_in_one_sentence_that_there_is_no_tensorrt(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(convolutional().SerializeToString())
    with pytest.raises(DeviceError, match="has no TensorrtExecutionProvider"):
        tensorrt_build.build(path, precision="fp16", cache=tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "converters.placement.tensorrt_build", str(path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert not [one for one in tmp_path.iterdir() if one != path]


def test_the_dpu_takes_a_net_with_power_of_two_scales(place: Any, symmetric: bytes) -> None:
    assert set(place(dpu, power_of_two(symmetric)).values()) == {""}


def test_the_dpu_refuses_other_scales_floats_and_unsigned_numbers(
    place: Any, symmetric: bytes
) -> None:
    assert place(dpu, symmetric)["first"] == "a scale is no power of two"
    assert "floats" in place(dpu, convolutional())["first"]
    assert "uint8" in place(dpu, quantized(convolutional()))["first"]
    channels = place(dpu, quantized(convolutional(), "s8", channel=True))
    assert "scale" in channels["first"]


def test_the_dpu_runs_no_operator_that_the_profile_does_not_name(
    tmp_path: Path, symmetric: bytes
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(power_of_two(symmetric))
    demands = {"operators": ["Conv", "Relu", "Gemm", "GlobalAveragePool"]}
    answer = dpu.place({"model": str(path), "target": {}, "demands": demands})
    assert [(one["name"], one["reason"]) for one in answer["nodes"] if not one["on"]] == [
        ("flat", "not among the operators of the device profile")
    ]


def test_the_dpu_has_no_transformer(place: Any) -> None:
    found = place(dpu, normed())
    assert found["norm"] == "LayerNormalization is no operator of the DPU's"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"kernel_shape": [17, 1]}, "its kernel is 17 by 1, the DPU takes 16"),
        ({"strides": [9, 1]}, "its stride is 9, the DPU takes 8"),
        ({"group": 3}, "it has 3 groups"),
        ({"dilations": [1000, 1]}, "channels, dilation counted"),
        ({"pads": [3, 0, 0, 0]}, "padded by more than its kernel reaches"),
    ],
)
def test_the_dpu_has_limits_for_convolutions(place: Any, options: dict[str, Any], why: str) -> None:
    group = options.get("group", 1)
    kernel = options.get("kernel_shape", [3, 3])
    weights = np.zeros((6, 6 // group, *kernel), np.float32)
    convolution = node("Conv", ["image", "w"], ["answer"], name="wide", **options)
    model = graph([convolution], {"w": weights}, shape=(1, 6, 2048, 64), out=(1, 6, "h", "w"))
    assert why in place(dpu, model)["wide"]


def test_the_dpu_simulates_only_files_that_obey_it(tmp_path: Path, symmetric: bytes) -> None:
    path, feeds, made = (tmp_path / name for name in ("m.onnx", "feeds.npz", "answers.npz"))
    image = images(1)[0]
    np.savez(feeds, image=image)
    request = {"model": str(path), "feeds": str(feeds), "answers": str(made), "target": {}}
    path.write_bytes(symmetric)
    with pytest.raises(InputError, match="power-of-two"):
        dpu.run(request)
    path.write_bytes(power_of_two(symmetric))
    dpu.run(request)
    truth = answers(convolutional().SerializeToString(), image)
    with np.load(made) as found:
        assert cosine(found["answer"], truth) > 0.99
