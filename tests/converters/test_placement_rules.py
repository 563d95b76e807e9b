"""The rules of accelerators that no compiler here knows: each holds what it says, and no more."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from converters.placement import rules
from converters.placement.place import place
from converters.placement.result import Placed
from converters.placement.tflite_graph import Operator, Tensor, read_graphs, weights_bytes
from converters.placement.tools import edgetpu, vx
from converters.quantize import quantizer
from converters.quantize.config import Options
from edge_runtime.profile import Engine, load_profile
from tests.converters.nets import calibration, litert_of

FEATURES = (1, 8, 8, 16)


def tensor(shape: tuple[int, ...] = FEATURES, dtype: str = "INT8", scales: int = 1) -> Tensor:
    return Tensor("t", dtype, shape, scales, None)


def constant(values: Any, dtype: str = "INT32") -> Tensor:
    array = np.asarray(values)
    kinds = {"INT32": np.int32, "INT8": np.int8}
    return Tensor("c", dtype, array.shape, 1, array.astype(kinds[dtype]).tobytes())


def operator(name: str, *inputs: Tensor, out: Tensor | None = None, activation: str = "NONE",
             **options: Any) -> Operator:  # fmt: skip
    ends = inputs or (tensor(),)
    return Operator(0, name, ends, (out or tensor(),), activation, SimpleNamespace(**options))


def on_edgetpu(one: Operator) -> str:
    general = (rules.fixed_shapes, edgetpu._bytes_only, edgetpu._three_dims)
    return rules.why_not(one, edgetpu.RULES, general)


def on_vx(one: Operator) -> str:
    return rules.why_not(one, vx.RULES, (rules.fixed_shapes, vx._tensors))


AXIS = constant([1, 2])
TAKEN_BY_EDGETPU = [
    operator("ADD", tensor(), tensor()),
    operator("MEAN", tensor(), AXIS, out=tensor((1, 16))),
    operator("MEAN", tensor(), constant([-1]), out=tensor((1, 8, 8))),
    operator("CONV_2D", tensor(), dilationHFactor=2, dilationWFactor=2),
    operator("FULLY_CONNECTED", tensor((1, 64)), out=tensor((1, 10)), weightsFormat=0),
    operator("SOFTMAX", tensor((1, 16_000)), out=tensor((1, 16_000))),
    operator("CONCATENATION", tensor(), tensor(), tensor()),
    operator("CONCATENATION", tensor(), constant(np.zeros((1, 8, 8, 16)), "INT8")),
    operator("PAD", tensor(), constant([[0, 0], [1, 1], [1, 1], [0, 0]])),
    operator("STRIDED_SLICE", tensor(), AXIS, AXIS, constant([1, 1]), ellipsisMask=0),
    operator("SQUEEZE", tensor((1, 1, 5, 10)), out=tensor((5, 10))),
    operator("SPLIT", constant(3), tensor()),
    operator("PACK", tensor((8, 8)), axis=2),
]
LEFT_BY_EDGETPU = [
    (operator("GELU"), "GELU is no operator"),
    (operator("ADD", tensor(dtype="FLOAT32")), "FLOAT32 numbers"),
    (operator("ADD", out=tensor(dtype="INT16")), "INT16 numbers"),
    (operator("RESHAPE", tensor((4,), "INT32"), out=tensor((4,), "INT32")), "INT32 input"),
    (operator("ADD", tensor((2, 8, 8, 16)), out=tensor((2, 8, 8, 16))), "innermost 3"),
    (operator("ADD", tensor((-1, 16))), "a shape is not fixed"),
    (operator("MAX_POOL_2D", activation="RELU"), "fused RELU"),
    (operator("CONV_2D", dilationHFactor=2, dilationWFactor=1), "dilation 2 in y and 1 in x"),
    (operator("FULLY_CONNECTED", out=tensor((1, 4, 10)), weightsFormat=0), "more than one dim"),
    (operator("FULLY_CONNECTED", out=tensor((1, 10)), weightsFormat=1), "another format"),
    (operator("MEAN", tensor((1, 8, 8, 6)), constant([3])), "depth of 6, which is no multiple of"),
    (operator("MEAN", tensor(), constant([0, 1])), "reduces over the batch"),
    (operator("SUM", tensor(), tensor((2,), "INT32")), "axes are computed"),
    (operator("SOFTMAX", tensor((1, 16_001))), "more than 16000 elements"),
    (operator("SOFTMAX", tensor((1, 4, 8))), "more than one dimension"),
    (operator("CONCATENATION", tensor(), constant(np.ones((1, 8)), "INT8")), "not zero"),
    (operator("PAD", tensor(), constant([[1, 0], [0, 0], [0, 0], [0, 0]])), "pads the batch"),
    (operator("STRIDED_SLICE", tensor(), AXIS, AXIS, constant([1, 2])), "stride is not 1"),
    (operator("SQUEEZE", tensor((1, 5, 1, 10))), "only leading ones may go"),
    (operator("SPLIT", constant(0), tensor()), "splits the batch"),
    (operator("PACK", tensor((8, 8)), axis=0), "along the batch"),
    (operator("PRELU", tensor(), tensor((8, 16))), "alpha has more than one dimension"),
]
LEFT_BY_VX = [
    (operator("CAST"), "CAST is no operator"),
    (operator("SQUARED_DIFFERENCE"), "no operator"),
    (operator("TOPK_V2"), "no operator"),
    (operator("ADD", tensor(dtype="INT64")), "INT64 input"),
    (operator("ADD", out=tensor(dtype="INT16")), "INT16 output"),
    (operator("ADD", tensor((1,) * 7)), "7 dims"),
    (operator("CONV_2D", tensor(dtype="FLOAT32"), tensor()), "hybrid: FLOAT32 with INT8 weights"),
    (operator("CONV_2D", tensor((2, 8, 8, 16)), tensor((4, 3, 3, 8))), "batch of 1 only"),
    (operator("BATCH_MATMUL", tensor(), tensor(), adjX=False, adjY=True), "INT8 inputs"),
    (operator("STRIDED_SLICE", newAxisMask=1), "newAxisMask is not 0"),
    (operator("RESIZE_BILINEAR", tensor(), tensor((2,), "INT32")), "size is computed"),
    (operator("DEQUANTIZE", tensor(scales=16), out=tensor(dtype="FLOAT32")), "each channel"),
    (operator("DEPTH_TO_SPACE", tensor(dtype="INT32")), "INT32 input"),
]
TAKEN_BY_VX = [
    operator("ADD", tensor(dtype="FLOAT32"), out=tensor(dtype="FLOAT32")),
    operator("CONV_2D", tensor(), tensor((4, 3, 3, 16), scales=4)),
    operator("SOFTMAX", tensor((1, 4, 8))),
    operator("RESIZE_BILINEAR", tensor(), constant([16, 16])),
    operator("BATCH_MATMUL", tensor(dtype="UINT8"), tensor(dtype="UINT8"), adjX=False, adjY=True),
]


def name(one: Any) -> str:
    return one.name if isinstance(one, Operator) else str(one)


@pytest.mark.parametrize(("one", "why"), LEFT_BY_EDGETPU, ids=name)
def test_the_edge_tpu_leaves(one: Operator, why: str) -> None:
    assert why in on_edgetpu(one)


@pytest.mark.parametrize("one", TAKEN_BY_EDGETPU, ids=name)
def test_the_edge_tpu_takes(one: Operator) -> None:
    assert on_edgetpu(one) == ""


@pytest.mark.parametrize(("one", "why"), LEFT_BY_VX, ids=name)
def test_the_vx_delegate_leaves(one: Operator, why: str) -> None:
    assert why in on_vx(one)


@pytest.mark.parametrize("one", TAKEN_BY_VX, ids=name)
def test_the_vx_delegate_takes(one: Operator) -> None:
    assert on_vx(one) == ""


def test_what_a_profile_does_not_list_is_left() -> None:
    one = operator("ADD")
    assert rules.why_not(one, vx.RULES, (), ["ADD"]) == ""
    assert "not among the operators of the device profile" in rules.why_not(
        one, vx.RULES, (), ["MUL"]
    )


def test_tables_and_profiles_agree_on_the_operators() -> None:
    listed = engine("coral-dev-board", "edgetpu").demands.operators
    assert set(listed) == set(edgetpu.RULES)
    assert set(vx.RULES) <= set(engine("imx8mp", "vx").demands.operators)


def engine(profile: str, accelerator: str) -> Engine:
    found = load_profile(profile).engine("litert", accelerator)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "residual.tflite"
    options = Options("static_w8a8_channel", integer=True)
    path.write_bytes(quantizer("litert", options)(litert_of("residual"), calibration()).model)
    return path


def on(model: Path, accelerator: str, profile: str) -> Placed:
    return place(model, engine(profile, accelerator))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.mark.usefixtures("no_compiler")
def test_all_behind_the_first_operator_that_falls_off_is_the_cpus(model: Path) -> None:
    """The net ends with a mean over a depth of 2, and a classifier that the TPU would take."""
    found = on(model, "edgetpu", "coral-dev-board")
    assert found.evidence == "rule-checked"
    assert found.partitions == 1
    mean, classifier = found.off
    assert mean.operator == "MEAN"
    assert classifier.reason.startswith(f"behind {mean.name}")
    assert found.nodes[-2:] == (mean, classifier)
    assert on(model, "vx", "imx8mp").share == 1.0


@pytest.mark.usefixtures("no_compiler")
def test_weights_that_do_not_fit_on_the_chip_are_noted(model: Path) -> None:
    from dataclasses import replace

    coral = engine("coral-dev-board", "edgetpu")
    held = weights_bytes(read_graphs(model))
    assert 10_000 < held < model.stat().st_size
    small = replace(coral, demands=replace(coral.demands, max_weights_bytes=1000))
    assert "streamed" not in place(model, coral).notes
    assert "1.0 kB fit on the chip" in str(place(model, small).notes["streamed"])


LOG = """\
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 300 ms.

Input model: {model}
On-chip memory used for caching model parameters: 3.33MiB
On-chip memory remaining for caching model parameters: 4.39MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: {count}

Operator                       Count      Status

CONV_2D                        12         Mapped to Edge TPU
MEAN                           1          Operation is otherwise supported, but not mapped due to \
some unspecified limitation
FULLY_CONNECTED                1          More than one subgraph is not supported
"""


def compiled(model: bytes, left: int) -> bytes:
    """What the vendor's compiler makes: one operator of its own, then the last `left` ones."""
    file = schema.ModelT.InitFromPackedBuf(model, 0)
    (graph,) = file.subgraphs
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"edgetpu-custom-op"
    file.operatorCodes.append(code)
    first = schema.OperatorT()
    first.opcodeIndex = len(file.operatorCodes) - 1
    first.inputs = graph.inputs
    first.outputs = graph.operators[-left - 1].outputs
    graph.operators = [first, *graph.operators[-left:]]
    builder = flatbuffers.Builder(1024)
    builder.Finish(file.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_the_vendors_compiler_is_believed_where_it_is_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler's side: its documented log, and a file with its operator."""
    (tmp_path / "made").write_bytes(compiled(model.read_bytes(), 2))
    (tmp_path / "log").write_text(LOG)
    script = tmp_path / "edgetpu_compiler"
    script.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then head -n 1 "${0%/*}/log"; exit 0; fi\n'
        'cp "${0%/*}/made" "$3/residual_edgetpu.tflite"; cat "${0%/*}/log"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = place(model, engine("coral-dev-board", "edgetpu"), folder=tmp_path / "kept")
    assert (found.evidence, found.partitions) == ("vendor-compiled", 1)
    assert found.tool == "Edge TPU Compiler version 16.0.384591198"
    assert [(node.operator, node.reason[:30]) for node in found.off] == [
        ("MEAN", "Operation is otherwise support"),
        ("FULLY_CONNECTED", "More than one subgraph is not "),
    ]
    assert found.notes["On-chip memory used for caching model parameters"] == "3.33MiB"
    assert found.compiled == tmp_path / "kept" / "residual_edgetpu.tflite"
    assert b"edgetpu-custom-op" in found.compiled.read_bytes()
