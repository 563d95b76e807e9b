"""A small convolutional net with quantizers around every operator, and what it should answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tests.fakes.onnx_files import onnx_file

Array = NDArray[Any]
IMAGE = (1, 3, 10, 10)
ANSWER = (1, 4)
OPERATORS = 7


@dataclass(frozen=True, slots=True)
class IntegerNet:
    """The file, an image "x" of shape IMAGE, and the float net's answer "y" of shape ANSWER."""

    model: bytes
    image: Array
    answer: Array


def integer_net(activations: Literal["uint8", "uint16"], middle: str = "Relu") -> IntegerNet:
    """Seven operators: two convolutions, with `middle` between; a pool and a matrix.

    Args:
        middle: an operator without attributes. "Celu" Hexagon has not.
    """
    draw = np.random.default_rng(5)
    weights = {
        "w1": draw.normal(size=(8, 3, 3, 3)) / 5,
        "w2": draw.normal(size=(8, 8, 3, 3)) / 8,
        "w3": draw.normal(size=(8, 4)),
    }
    coarse = {name: np.abs(value).max() / 127 for name, value in weights.items()}
    codes = {n: np.round(value / coarse[n]).astype(np.int8) for n, value in weights.items()}
    w1, w2, w3 = (codes[name] * coarse[name] for name in weights)
    x = draw.normal(size=IMAGE).astype(np.float32)
    values: dict[str, Array] = {"x": x}
    values["a"] = _convolved(x, w1)
    values["b"] = _activated(values["a"], middle)
    values["c"] = _convolved(values["b"], w2)
    values["d"] = np.maximum(values["c"], 0)
    values["e"] = values["d"].mean((2, 3), keepdims=True)
    values["f"] = values["e"].reshape(1, -1)
    values["y"] = values["f"] @ w3
    operators: tuple[tuple[str, tuple[str, ...], str], ...] = (
        ("Conv", ("x", "w1"), "a"),
        (middle, ("a",), "b"),
        ("Conv", ("b", "w2"), "c"),
        ("Relu", ("c",), "d"),
        ("GlobalAveragePool", ("d",), "e"),
        ("Flatten", ("e",), "f"),
        ("MatMul", ("f", "w3"), "y"),
    )
    high = np.iinfo(activations).max
    nodes: list[tuple[str, tuple[str, ...], str]] = []
    constants: dict[str, Array] = {}

    def quantizer(name: str, out: str) -> None:
        """Codes of float `name`, and floats again as `out`."""
        constants[f"{name}.s"] = np.array(np.abs(values[name]).max() * 2 / high, np.float32)
        constants[f"{name}.z"] = np.array(high // 2 + 1, activations)
        scale = (f"{name}.s", f"{name}.z")
        source = "x" if name == "x" else f"{name}.float"
        nodes.append(("QuantizeLinear", (source, *scale), f"{name}.codes"))
        nodes.append(("DequantizeLinear", (f"{name}.codes", *scale), out))

    for name, code in codes.items():
        constants |= {
            f"{name}.codes": code,
            f"{name}.s": np.array(coarse[name], np.float32),
            f"{name}.z": np.array(0, np.int8),
        }
        given = (f"{name}.codes", f"{name}.s", f"{name}.z")
        nodes.append(("DequantizeLinear", given, f"{name}.read"))
    quantizer("x", "x.read")
    for kind, takes, out in operators:
        nodes.append((kind, tuple(f"{name}.read" for name in takes), f"{out}.float"))
        quantizer(out, "y" if out == "y" else f"{out}.read")
    # Codes of 16 bits came with opset 21.
    model = onnx_file(("x", IMAGE), ("y", ANSWER), nodes, constants, opset=21)
    return IntegerNet(model, x, values["y"].astype(np.float32))


def _convolved(x: Array, w: Array) -> Array:
    windows = sliding_window_view(x, w.shape[2:], axis=(2, 3))
    return np.asarray(np.einsum("nchwij,ocij->nohw", windows, w))


def _activated(x: Array, kind: str) -> Array:
    if kind == "Relu":
        return np.maximum(x, 0)
    if kind == "Celu":
        return np.maximum(x, 0) + np.minimum(0, np.expm1(x))
    raise ValueError(kind)
