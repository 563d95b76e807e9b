"""AMD's DPU for Zynq UltraScale+ (DPUCZDX8G) by its documented rules: operators, sizes, scales.

The compiler of Vitis AI comes in the vendor's container only. What it puts on the DPU is computed
in 8-bit integers with one power-of-two scale a tensor and no zero point; everything else is the
CPU's. `run` answers with the file's own arithmetic on this machine's CPU, which is the simulation
of such scales (see converters.quantize.power_of_two), not of the chip's rounding.

Source: Vitis AI User Guide (UG1414) 3.0, "Currently Supported Operators", the column of
DPUCZDX8G_ISA1_B4096; for pooling, where that table grew with each release, its widest figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import onnx

from converters.placement.tools import onnx_graph, ort_session
from converters.placement.tools.onnx_graph import Fate
from converters.placement.tools.ort_session import ENGINE
from edge_runtime.errors import InputError

ARCHITECTURE = "DPUCZDX8G_ISA1_B4096"
CHANNEL_PARALLEL, BANK_DEPTH = 16, 2048
MAX_CHANNELS = 256 * CHANNEL_PARALLEL
MAX_KERNEL, MAX_STRIDE, MAX_POOL = 16, 8, 256
LEAKY = 26 / 256
"""The one slope of a leaky ReLU that the DPU has."""
SOURCE = "UG1414 3.0, Currently Supported Operators, " + ARCHITECTURE
FUSED = ("BatchNormalization", "Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu")
"""They go with the operator before them, without a quantizer between."""
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
BIAS = "int32"


def hello() -> dict[str, Any]:
    """What is asked."""
    return {"tool": f"rules for {ARCHITECTURE} (UG1414 3.0)"}


def place(request: dict[str, Any]) -> dict[str, Any]:
    """Where nodes run by the rules.

    Raises:
        InputError: a free size, another architecture, or the file cannot be read.
    """
    chosen = request["target"].get("arch", ARCHITECTURE)
    if chosen != ARCHITECTURE:
        raise InputError(f"arch {chosen!r}: rules are known for {ARCHITECTURE} only")
    model = onnx_graph.read(request["model"])
    onnx_graph.refuse_free(model, "the DPU's compiler")
    rules = _Rules(model)
    nodes = onnx_graph.operators(model)
    fates: dict[str, Fate] = {}
    for node in nodes:
        fates[node.name] = rules.fate(node, fates)
    return {
        "nodes": onnx_graph.told(nodes, onnx_graph.listed(nodes, fates, request["demands"])),
        "partitions": None,
        "estimated_ms": None,
        "estimate": "",
        "compiled": None,
        "notes": {"source": SOURCE, "simulated": "scales, on this machine's CPU"},
    }


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Answer with the file's scales.

    Raises:
        InputError: a scale is no power of two, so this would be no simulation.
    """
    model = onnx_graph.read(request["model"])
    rules = _Rules(model)
    wrong = sum(bool(rules.quantizer(node)) for node in rules.quantizers)
    if wrong or not rules.quantizers:
        raise InputError(
            f"the DPU wants power-of-two scales, {wrong} of {len(rules.quantizers)} quantizers "
            "break its rules"
        )
    session = ENGINE.InferenceSession(
        request["model"], ort_session.options(), providers=[ort_session.CPU]
    )
    return ort_session.run(session, request)


class _Rules:
    """The rules, for one graph."""

    def __init__(self, model: Any) -> None:
        graph = model.graph
        self._maker = {name: node for node in graph.node for name in node.output}
        self._users: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self._constants = onnx_graph.constants(model)
        self._types = onnx_graph.types(model)
        self._shapes = {
            one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim]
            for one in (*graph.input, *graph.value_info, *graph.output)
        }
        self._shapes |= {one.name: list(one.dims) for one in graph.initializer}
        self.quantizers = [one for one in graph.node if one.op_type in QUANTIZERS]
        wanted = {
            name
            for one in graph.node
            if one.op_type in ("Clip", *QUANTIZERS)
            for name in one.input[1:]
        }
        self._values = {
            one.name: onnx.numpy_helper.to_array(one)
            for one in graph.initializer
            if one.name in wanted
        }

    def fate(self, node: Any, before: Mapping[str, Fate]) -> Fate:
        """On, or off and why; `before` are the fates of the nodes before it."""
        kind = node.op_type
        check = OPERATORS.get(kind) if node.domain in onnx_graph.DOMAINS else None
        if check is None:
            return Fate(False, f"{kind} is no operator of the DPU's")
        reason = check(self, node)
        if not reason:
            for name in self._computing(node):
                reason = reason or self._reads(node, name, before)
        if not reason and not self._ends_quantized(node):
            reason = "its answer is not quantized"
        return Fate(not reason, reason)

    def shape(self, name: str) -> list[int]:
        """Sizes of a tensor, [] where unknown; through a dequantizer, whose are the same."""
        return self._shapes.get(name) or []

    def constant(self, name: str) -> bool:
        """Whether no input reaches the tensor."""
        return name in self._constants

    def value(self, node: Any, place: int) -> float | None:
        """A constant input that is one number; None where it is not."""
        name = node.input[place] if len(node.input) > place else ""
        found = self._values.get(name)
        return float(found.reshape(-1)[0]) if found is not None and found.size == 1 else None

    def quantizer(self, node: Any) -> str:
        """Which rule the quantizer breaks; "" where none."""
        scale = self._values.get(node.input[1])
        if scale is None:
            return "a scale is no constant"
        kind = self._types.get(node.input[0] if node.op_type[0] == "D" else node.output[0])
        bias = kind == BIAS and node.input[0] in self._constants
        if kind != "int8" and not bias:
            return f"its numbers are {kind or 'of an unknown type'}, the DPU has int8"
        if scale.size != 1:
            return "it has a scale for each channel, the DPU one for a tensor"
        if math.frexp(float(scale.reshape(-1)[0]))[0] != 0.5:
            return "a scale is no power of two"
        zero = node.input[2] if len(node.input) > 2 else ""
        if zero and (zero not in self._values or self._values[zero].any()):
            return "a zero point is not 0"
        return ""

    def _computing(self, node: Any) -> list[str]:
        """The inputs that are numbers to compute with: no shapes, no axes."""
        if node.op_type in (*LAYERS, "Add", "Concat", "Mul"):
            return [name for name in node.input if name]
        return [node.input[0]]

    def _reads(self, node: Any, name: str, before: Mapping[str, Fate]) -> str:
        maker = self._maker.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            return self.quantizer(maker)
        if node.op_type in FUSED and maker is not None and maker.name in before:
            fate = before[maker.name]
            return "" if fate.on else f"{maker.op_type} before it is the CPU's"
        return "it computes in floats: no quantizer stands before it"

    def _ends_quantized(self, node: Any) -> bool:
        users = self._users.get(node.output[0], [])
        return bool(users) and all(
            one.op_type == "QuantizeLinear" or (one.op_type in FUSED and self._ends_quantized(one))
            for one in users
        )


def _numbers(node: Any, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return next((tuple(one.ints) for one in node.attribute if one.name == name), default)


def _number(node: Any, name: str, default: float) -> float:
    for one in node.attribute:
        if one.name == name:
            return float(one.f if one.type == onnx.AttributeProto.FLOAT else one.i)
    return default


def _convolution(rules: _Rules, node: Any) -> str:
    weights = rules.shape(node.input[1])
    if len(weights) != 4:
        return "the DPU convolves in two dimensions" if weights else "its weights are no constant"
    source = rules.shape(node.input[0])
    group = int(_number(node, "group", 1))
    transposed = node.op_type == "ConvTranspose"
    inputs = weights[0] if transposed else weights[1] * group
    outputs = weights[1] * group if transposed else weights[0]
    if source and source[1:2] != [inputs] and source[1]:
        return f"it reads {source[1]} channels with weights for {inputs}"
    deep = group > 1 and group == inputs
    if group > 1 and not deep:
        return f"it has {group} groups, the DPU takes 1 or one for each channel"
    high, wide = weights[2:]
    strides = _numbers(node, "strides", (1, 1))
    dilations = _numbers(node, "dilations", (1, 1))
    limit = MAX_POOL if deep else MAX_KERNEL
    sizes = [
        math.ceil(size / step) if transposed else size
        for size, step in zip((high, wide), strides, strict=True)
    ]
    if max(sizes) > limit:
        return f"its kernel is {high} by {wide}, the DPU takes {limit}"
    if not transposed and max(strides) > (MAX_POOL if deep else MAX_STRIDE):
        return f"its stride is {max(strides)}, the DPU takes {MAX_STRIDE}"
    if max(dilations) * inputs > MAX_CHANNELS or max(inputs, outputs) > MAX_CHANNELS:
        return f"it has more than {MAX_CHANNELS} channels, dilation counted"
    if high * wide * math.ceil((1 if deep else inputs) / CHANNEL_PARALLEL) > BANK_DEPTH:
        return "its weights are too large for a bank of the DPU"
    pads = _numbers(node, "pads", (0, 0, 0, 0))
    reach = [(size - 1) * step for size, step in zip((high, wide), dilations, strict=True)]
    if any(pad > most for pad, most in zip(pads, (*reach, *reach), strict=True)):
        return "it is padded by more than its kernel reaches"
    return ""


def _matrix(rules: _Rules, node: Any) -> str:
    if node.op_type == "MatMul" and len(rules.shape(node.input[1])) != 2:
        return "the DPU multiplies by constant matrices only"
    constant = rules.constant(node.input[1])
    return "" if constant else "the DPU multiplies by constant matrices only"


def _pool(rules: _Rules, node: Any) -> str:
    shape = rules.shape(node.input[0])
    kernel = _numbers(node, "kernel_shape", tuple(shape[2:]) if len(shape) == 4 else ())
    if len(kernel) != 2:
        return "the DPU pools in two dimensions"
    if max(kernel) > MAX_POOL:
        return f"it pools over {max(kernel)}, the DPU takes {MAX_POOL}"
    if any(size != 1 for size in _numbers(node, "dilations", (1, 1))):
        return "its dilations must be 1"
    return ""


def _leaky(_rules: _Rules, node: Any) -> str:
    slope = _number(node, "alpha", 0.01)
    return "" if abs(slope - LEAKY) < 1e-6 else f"its slope is {slope:g}, the DPU has {LEAKY:g}"


def _clip(rules: _Rules, node: Any) -> str:
    limits = [rules.value(node, place) for place in (1, 2)]
    return "" if limits == [0.0, 6.0] else "the DPU clips to 0..6 only"


def _resize(_rules: _Rules, node: Any) -> str:
    mode = next((one.s.decode() for one in node.attribute if one.name == "mode"), "nearest")
    return "" if mode in ("nearest", "linear") else f"it resizes by {mode}"


def _fine(_rules: _Rules, _node: Any) -> str:
    return ""


OPERATORS: Mapping[str, Callable[[_Rules, Any], str]] = {
    "Add": _fine,
    "AveragePool": _pool,
    "BatchNormalization": _fine,
    "Clip": _clip,
    "Concat": _fine,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Flatten": _fine,
    "Gemm": _matrix,
    "GlobalAveragePool": _pool,
    "HardSigmoid": _fine,
    "HardSwish": _fine,
    "LeakyRelu": _leaky,
    "MatMul": _matrix,
    "MaxPool": _pool,
    "Mul": _fine,
    "Pad": _fine,
    "Relu": _fine,
    "Reshape": _fine,
    "Resize": _resize,
    "Squeeze": _fine,
    "Unsqueeze": _fine,
}
"""Operator → what the DPU wants of it besides its integers."""
