"""Small ONNX nets for the tools of vendors, with random weights, and their integer twins."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
OPSET, IR = 17, 8
IMAGE = (1, 3, 16, 16)
SAMPLES = 8


def images(count: int = SAMPLES) -> list[Array]:
    draw = np.random.default_rng(1)
    return [draw.normal(size=IMAGE).astype(np.float32) for _ in range(count)]


def graph(
    nodes: Sequence[Any],
    weights: Mapping[str, Array],
    *,
    shape: Sequence[int | str] = IMAGE,
    out: Sequence[int | str] = (1, 5),
    opset: int = OPSET,
) -> Any:
    """A model from "image" to "answer"; both are float32."""
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR)
    onnx.checker.check_model(model)
    return model


def convolutional(
    middle: str = "Relu", *, shape: Sequence[int | str] = IMAGE, opset: int = OPSET
) -> Any:
    """Three convolutions, a pool and a matrix; `middle` is an operator after the second one."""
    draw = np.random.default_rng(0)

    def weight(*sizes: int) -> Array:
        return np.asarray(draw.normal(size=sizes) / np.sqrt(np.prod(sizes[1:])), np.float32)

    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w1"], ["a"], name="first", pads=[1] * 4),
        node("Relu", ["a"], ["b"], name="rectified"),
        node("Conv", ["b", "w2"], ["c"], name="deep", pads=[1] * 4, group=8),
        node(middle, ["c"], ["d"], name="middle"),
        node("Conv", ["d", "w3"], ["e"], name="third", strides=[2, 2], pads=[1] * 4),
        node("GlobalAveragePool", ["e"], ["f"], name="pool"),
        node("Flatten", ["f"], ["g"], name="flat"),
        node("Gemm", ["g", "w4", "b4"], ["answer"], name="head", transB=1),
    ]
    weights = {
        "w1": weight(8, 3, 3, 3),
        "w2": weight(8, 1, 3, 3),
        "w3": weight(8, 8, 3, 3),
        "w4": weight(5, 8),
        "b4": np.linspace(-1, 1, 5, dtype=np.float32),
    }
    return graph(nodes, weights, shape=shape, out=(shape[0], 5), opset=opset)


def normed() -> Any:
    """A linear layer with a norm and a GELU's Erf, as transformers have; (1, 4, 8)."""
    draw = np.random.default_rng(2)
    node = helper.make_node
    nodes = [
        node("MatMul", ["image", "w"], ["a"], name="up"),
        node("LayerNormalization", ["a", "scale"], ["b"], name="norm", axis=-1),
        node("Erf", ["b"], ["answer"], name="bell"),
    ]
    weights = {
        "w": draw.normal(size=(8, 8)).astype(np.float32),
        "scale": np.ones(8, np.float32),
    }
    return graph(nodes, weights, shape=(1, 4, 8), out=(1, 4, 8))


def quantized(model: Any, kind: str = "u8", *, channel: bool = False) -> bytes:
    """`model` with quantizers everywhere.

    u8 is unsigned with zero points, u16 the same with wide activations, s8 signed and symmetric.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rows = iter(images())

        def get_next(self) -> dict[str, Array] | None:
            row = next(self._rows, None)
            return None if row is None else {"image": row}

    symmetric = kind == "s8"
    extra = {"ActivationSymmetric": symmetric, "WeightSymmetric": True}
    if kind == "u16":
        extra["UseQDQContribOps"] = True
    activations = {"u8": QuantType.QUInt8, "u16": QuantType.QUInt16, "s8": QuantType.QInt8}[kind]
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        onnx.save(model, str(source))
        quantize_static(
            str(source), str(made), Reader(), quant_format=QuantFormat.QDQ, per_channel=channel,
            activation_type=activations, weight_type=QuantType.QInt8, extra_options=extra,
        )  # fmt: skip
        return made.read_bytes()


def answers(model: bytes, image: Array) -> Array:
    """What ONNX Runtime's CPU answers."""
    from converters.ort import open_session

    (found,) = open_session(model).run(None, {"image": image})
    return np.asarray(found)


def cosine(a: Array, b: Array) -> float:
    a, b = a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
