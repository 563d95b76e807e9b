"""VeriSilicon's NPU through the VX delegate, as on the i.MX 8M Plus: the delegate's own rules.

Nothing compiles for it on the host: the delegate asks each operator whether it takes it, and the
driver builds the graph on the board. The table below is that question. What it leaves to the CPU
cuts the graph, and the delegate goes on behind it.

Source: github.com/VeriSilicon/tflite-vx-delegate, op_map.cc at 00a7fc9: `reg`, the base class's
`IsSupported`, and `IsOpSupported` of each mapper.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters.placement import rules
from converters.placement.rules import Rules
from converters.placement.tflite_graph import Operator, read_graphs

MAX_RANK = 6
MAX_SIDE = 65535
BYTES = ("INT8", "UINT8")
RULES_TITLE = "operators of the VX delegate, op_map.cc 00a7fc9"


def _same_types(operator: Operator) -> str:
    source, weights = operator.inputs[0], operator.inputs[1]
    if source and weights and source.dtype != weights.dtype:
        return f"hybrid: {source.dtype} with {weights.dtype} weights"
    return ""


def _fully_connected(operator: Operator) -> str:
    if operator.option("weightsFormat"):
        return "shuffled weights"
    return "INT16 input" if any(one and one.dtype == "INT16" for one in operator.inputs) else ""


def _grouped(operator: Operator) -> str:
    source, weights = operator.inputs[0], operator.inputs[1]
    if source and weights and source.shape[3] != weights.shape[3] and source.shape[0] != 1:
        return "a grouped convolution takes a batch of 1 only"
    return ""


def _softmax(operator: Operator) -> str:
    source = operator.inputs[0]
    sides = source.shape[1:3] if source else ()
    return f"a side of more than {MAX_SIDE}" if any(size > MAX_SIDE for size in sides) else ""


def _strided_slice(operator: Operator) -> str:
    for mask in ("newAxisMask", "ellipsisMask"):
        if operator.option(mask):
            return f"{mask} is not 0"
    return ""


def _pow(operator: Operator) -> str:
    types = {one.dtype for one in operator.inputs if one}
    return "INT32 numbers" if types == {"INT32"} else ""


def _quantize(operator: Operator) -> str:
    source, target = operator.inputs[0], operator.outputs[0]
    if source and source.dtype in ("INT16", "INT32") and target.dtype in (*BYTES, "INT32"):
        return f"from {source.dtype} to {target.dtype}"
    if source and source.dtype == "FLOAT32" and target.scales > 1:
        return "to a scale for each channel"
    return ""


def _dequantize(operator: Operator) -> str:
    source = operator.inputs[0]
    if source and source.dtype in ("INT16", "FLOAT16") and source.scales:
        return f"from {source.dtype}"
    if source and source.dtype in BYTES and source.scales > 1:
        return "from a scale for each channel"
    return ""


def _from_int16(operator: Operator) -> str:
    source, target = operator.inputs[0], operator.outputs[0]
    if source and source.dtype == "INT16" and target.dtype in BYTES:
        return f"from INT16 to {target.dtype}"
    return ""


def _constant_size(operator: Operator) -> str:
    size = operator.inputs[1]
    return "" if size is not None and size.constant else "the size is computed"


def _quantized(operator: Operator) -> str:
    for one in operator.inputs:
        if one and one.dtype in BYTES and not one.scales and not one.constant:
            return f"{one.dtype} without a scale"
    return ""


def _no_int32(operator: Operator) -> str:
    return "INT32 input" if any(one and one.dtype == "INT32" for one in operator.inputs) else ""


def _batch_matmul(operator: Operator) -> str:
    if operator.outputs[0].dtype == "INT32":
        return "INT32 output"
    if any(one and one.dtype == "INT8" for one in operator.inputs[:2]):
        return "INT8 inputs"
    return "both inputs transposed" if operator.option("adjX") and operator.option("adjY") else ""


def _lstm(operator: Operator) -> str:
    source, cell = operator.inputs[0], operator.inputs[19] if len(operator.inputs) > 19 else None
    if source and source.dtype not in BYTES:
        return f"{source.dtype} input, allowed are INT8 and UINT8"
    if cell and cell.dtype not in ("INT16", "FLOAT16"):
        return f"{cell.dtype} cell state, allowed are INT16 and FLOAT16"
    return ""


def _tensors(operator: Operator) -> str:
    """The delegate's checks of every operator."""
    for one in operator.inputs:
        if one and one.dtype == "INT64":
            return "INT64 input"
        if one and len(one.shape) > MAX_RANK:
            return f"{len(one.shape)} dims, allowed are {MAX_RANK}"
    for one in operator.outputs:
        if one.dtype in ("INT16", "INT64"):
            return f"{one.dtype} output"
    return ""


RULES: Rules = {
    **dict.fromkeys(
        (
            "ABS", "ADD_N", "ARG_MAX", "ARG_MIN", "AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND",
            "CONCATENATION", "CONV_3D", "ELU", "EQUAL", "EXP", "EXPAND_DIMS", "FLOOR", "FLOOR_DIV",
            "GATHER", "GATHER_ND", "GREATER", "GREATER_EQUAL", "HARD_SWISH", "L2_NORMALIZATION",
            "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOCAL_RESPONSE_NORMALIZATION", "LOG",
            "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D",
            "MEAN", "MINIMUM", "NEG", "NOT_EQUAL", "ONE_HOT", "PACK", "PAD", "PRELU", "REDUCE_ANY",
            "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE",
            "REVERSE_V2", "RNN", "RSQRT", "SELECT", "SELECT_V2", "SIN", "SLICE",
            "SPACE_TO_BATCH_ND", "SPLIT_V", "SQRT", "SQUARE", "SQUEEZE", "SUM", "TANH",
            "TRANSPOSE", "TRANSPOSE_CONV", "UNPACK",
        ),
        (),
    ),
    **dict.fromkeys(("ADD", "SUB", "DIV", "MUL"), (_from_int16,)),
    **dict.fromkeys(("RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"), (_quantized, _constant_size)),
    **dict.fromkeys(("SPACE_TO_DEPTH", "DEPTH_TO_SPACE"), (_no_int32, _quantized)),
    "BATCH_MATMUL": (_batch_matmul,),
    "CONV_2D": (_same_types, _grouped),
    "DEPTHWISE_CONV_2D": (_same_types,),
    "DEQUANTIZE": (_dequantize,),
    "FULLY_CONNECTED": (_same_types, _fully_connected),
    "POW": (_pow,),
    "QUANTIZE": (_quantize,),
    "SOFTMAX": (_softmax,),
    "SPLIT": (_quantized,),
    "STRIDED_SLICE": (_strided_slice,),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (_lstm,),
}  # fmt: skip


def hello() -> dict[str, Any]:
    """The source of the rules."""
    return {"tool": RULES_TITLE}


def place(request: dict[str, Any]) -> dict[str, Any]:
    """See `converters.placement.worker`."""
    graphs = read_graphs(Path(request["model"]))
    listed = request["demands"]["operators"]
    nodes: list[dict[str, Any]] = []
    partitions = 0
    for graph in graphs:
        inside = False
        for operator in graph.operators:
            reason = rules.why_not(operator, RULES, (rules.fixed_shapes, _tensors), listed)
            partitions += not reason and not inside
            inside = not reason
            if not operator.converts_float:
                nodes.append(rules.node(graph, graphs, operator, reason))
    per_channel = sum(
        any(one and one.scales > 1 for one in operator.inputs)
        for graph in graphs
        for operator in graph.operators
    )
    return {
        "nodes": nodes,
        "partitions": partitions,
        "estimated_ms": None,
        "estimate": "",
        "compiled": None,
        "notes": {"scales_per_channel": per_channel},
    }
