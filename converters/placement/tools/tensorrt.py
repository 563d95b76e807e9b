"""NVIDIA's TensorRT by its documented rules: operators, opset, explicit quantizers, fixed shapes.

TensorRT compiles on the device that it runs on, so nothing can be compiled here:
`python -m converters.placement.tensorrt_build` does it there, and measures. A quantizer that breaks
a rule takes the operators behind it off the accelerator, because the parser refuses it and the
engine hands that part of the graph to another provider.
"""

from __future__ import annotations

from typing import Any

import onnx

from converters.placement.tools import onnx_graph
from converters.placement.tools.onnx_graph import Fate
from converters.placement.tools.tensorrt_operators import (
    CONSTANT_AXES,
    LATER,
    OPSETS,
    POOLS,
    SOURCE,
    SUPPORTED,
)

GUIDE = "TensorRT developer guide, Working with Quantized Types"
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
FIRST_ONLY = ("LayerNormalization", "MaxPool")
QUANTIZED = ("int8", "int4", "float8e4m3fn")
FOLDED = "int32"
"""Biases behind a DequantizeLinear: ONNX Runtime 1.21 and later unpacks them for TensorRT."""


def hello() -> dict[str, Any]:
    """What is asked."""
    return {"tool": f"rules for TensorRT 10 ({SOURCE}; {GUIDE})"}


def place(request: dict[str, Any]) -> dict[str, Any]:
    """Where nodes run by the rules.

    Raises:
        InputError: the file cannot be read.
    """
    model = onnx_graph.read(request["model"])
    rules = _Rules(model)
    nodes = onnx_graph.operators(model)
    fates = {node.name: rules.fate(node) for node in nodes}
    free = onnx_graph.free_dims(model)
    return {
        "nodes": onnx_graph.told(nodes, onnx_graph.listed(nodes, fates, request["demands"])),
        "partitions": None,
        "estimated_ms": None,
        "estimate": "",
        "compiled": None,
        "notes": {
            "opset": onnx_graph.opset(model),
            "quantizers": rules.quantizers,
            "quantizers_that_break_a_rule": sorted(rules.faults),
            "int32_biases": rules.biases,
            "shape_profiles_needed": free,
            "source": SOURCE,
        },
    }


class _Rules:
    """The rules, for one graph. `faults` is quantizer → which rule it breaks."""

    def __init__(self, model: Any) -> None:
        self._opset = onnx_graph.opset(model)
        self._constants = onnx_graph.constants(model)
        self._types = onnx_graph.types(model)
        self._zeros = _small_integers(model)
        pairs = [one for one in model.graph.node if one.op_type in QUANTIZERS]
        self.quantizers = len(pairs)
        self.biases = sum(self._is_bias(one) for one in pairs)
        self.faults = {one.name: fault for one in pairs if (fault := self._fault(one))}
        self._broken: dict[str, str] = {}
        for node in model.graph.node:
            fault = self.faults.get(node.name) or (
                self._broken.get(_at(node, 0), "") if node.op_type in onnx_graph.SILENT else ""
            )
            if fault:
                self._broken |= dict.fromkeys(node.output, fault)

    def fate(self, node: Any) -> Fate:
        """On, or off and why."""
        reason = self._operator(node)
        if not reason:
            reason = next((self._broken[one] for one in node.input if one in self._broken), "")
        return Fate(not reason, reason)

    def _operator(self, node: Any) -> str:
        kind = node.op_type
        if node.domain not in onnx_graph.DOMAINS:
            return f"{kind} of {node.domain} is no operator of TensorRT's"
        if kind in LATER:
            return f"{kind} is newer than TensorRT 10.3, JetPack 6's"
        if kind not in SUPPORTED:
            return f"{kind} is no operator of TensorRT's"
        if self._opset not in OPSETS:
            return (
                f"the file has opset {self._opset}, TensorRT 10.3 reads "
                f"{OPSETS.start} to {OPSETS.stop - 1}"
            )
        if kind in CONSTANT_AXES and _at(node, 1) not in (self._constants | {""}):
            return "its second input must be known when the engine is built"
        dilations = next((one.ints for one in node.attribute if one.name == "dilations"), ())
        if kind in POOLS and any(size != 1 for size in dilations):
            return "its dilations must be 1"
        if kind in FIRST_ONLY and any(node.output[1:]):
            return "TensorRT gives out its first output only"
        return ""

    def _fault(self, node: Any) -> str:
        """Which rule the quantizer breaks; "" where none."""
        if self._is_bias(node):
            return ""
        kind = self._integers(node)
        if kind not in QUANTIZED:
            return f"its quantizers are not symmetric: {kind}, TensorRT takes int8 or FP8"
        zero = node.input[2] if len(node.input) > 2 else ""
        if zero and zero not in self._zeros:
            return "its quantizers have a zero point that is no constant"
        if zero and any(self._zeros[zero]):
            return "its quantizers have a zero point that is not 0"
        return ""

    def _integers(self, node: Any) -> str:
        """Type of the quantized numbers; uint8 where a quantizer does not say, as ONNX has it."""
        if node.op_type == "DequantizeLinear":
            found = self._types.get(node.input[0]) or self._types.get(_at(node, 2))
            return found or "unknown"
        given = next((one.i for one in node.attribute if one.name == "output_dtype"), 0)
        return self._types.get(_at(node, 2)) or onnx_graph.TENSORS.get(given, "uint8")

    def _is_bias(self, node: Any) -> bool:
        return (
            node.op_type == "DequantizeLinear"
            and node.input[0] in self._constants
            and self._types.get(node.input[0]) == FOLDED
        )


def _at(node: Any, place: int) -> str:
    return str(node.input[place]) if len(node.input) > place else ""


def _small_integers(model: Any) -> dict[str, list[int]]:
    """Values of constant zero points, by name."""
    found = {}
    wanted = {_at(one, 2) for one in model.graph.node if one.op_type in QUANTIZERS} - {""}
    for one in model.graph.initializer:
        if one.name in wanted:
            found[one.name] = onnx.numpy_helper.to_array(one)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in wanted and node.attribute:
            found[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return {name: [int(value) for value in array.reshape(-1)] for name, array in found.items()}
