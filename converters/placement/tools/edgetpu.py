"""Google's Edge TPU: by the vendor's compiler where `edgetpu_compiler` is on PATH, else by rules.

The TPU runs one part of the graph, from the start to the first operator that it does not take;
everything behind that is the CPU's, whatever it is. So is an operator of floats, and QUANTIZE and
DEQUANTIZE of floats at the edges, which are no nodes and break nothing. Weights beyond what fits
on the chip are fetched again for every inference: slower, but it runs.

Sources: coral.ai/docs/edgetpu/models-intro, "Model requirements" and table "Supported operations";
coral.ai/docs/edgetpu/compiler, "Parameter data caching" and "Compiler log".
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from converters.placement import rules
from converters.placement.rules import Rules
from converters.placement.tflite_graph import Graph, Operator, read_graphs, weights_bytes
from edge_runtime.errors import InputError
from edge_runtime.text import plain, size

COMPILER = "edgetpu_compiler"
COMPILER_S = 600
RULES_TITLE = "rules of coral.ai/docs/edgetpu/models-intro"
CUSTOM = "CUSTOM:edgetpu-custom-op"
CHIP_BYTES = 8_000_000
SOFTMAX_SIZE = 16_000
BYTES = ("INT8", "UINT8")
FREE = ("INT8", "UINT8", "INT32", "BOOL")
"""What tensors may be: bytes, with 32 bits for biases, shapes and axes."""
STATUS = re.compile(r"^([A-Z][A-Z0-9_]+) +(\d+) +(\S.*?) *$", re.MULTILINE)
MAPPED = "Mapped to Edge TPU"
MEMORY = re.compile(r"^(O\w+-chip memory \w+[\w ]*): *(\S+)$", re.MULTILINE)
BEHIND = "behind {}, the first operator that is not for the TPU"


def _concatenation(operator: Operator) -> str:
    constants = [one for one in operator.inputs if one and one.constant]
    if not constants:
        return ""
    if len(operator.inputs) != 2:
        return "a constant among more than 2 inputs"
    values = constants[0].values
    return "" if values is not None and not np.any(values) else "a constant input that is not zero"


def _fully_connected(operator: Operator) -> str:
    if operator.option("weightsFormat"):
        return "weights of another format than the default"
    shape = operator.outputs[0].shape
    if any(one != 1 for one in shape[:-1]):
        return f"output {list(shape)} has more than one dimension"
    return ""


def _reduction(operator: Operator) -> str:
    axes, source = rules.axes_of(operator, 1), operator.inputs[0]
    if axes is None or source is None:
        return "the axes are computed"
    if 0 in axes and len(source.shape) > 1:
        return "reduces over the batch"
    return ""


def _mean(operator: Operator) -> str:
    axes, source = rules.axes_of(operator, 1), operator.inputs[0]
    if axes and source and len(source.shape) - 1 in axes and source.shape[-1] % 4:
        return f"reduces over a depth of {source.shape[-1]}, which is no multiple of 4"
    return _reduction(operator)


def _pack(operator: Operator) -> str:
    return "packs along the batch" if operator.option("axis") == 0 else ""


def _pad(operator: Operator) -> str:
    values = operator.inputs[1].values if operator.inputs[1] else None
    if values is None:
        return "the padding is computed"
    return "pads the batch" if np.any(values[0]) and len(values) > 3 else ""


def _prelu(operator: Operator) -> str:
    alpha = operator.inputs[1]
    return "alpha has more than one dimension" if alpha and _ranks(alpha.shape) > 1 else ""


def _resize(operator: Operator) -> str:
    source = operator.inputs[0]
    return "input of more than 3 dimensions" if source and source.shape[0] != 1 else ""


def _softmax(operator: Operator) -> str:
    source = operator.inputs[0]
    shape = source.shape if source else ()
    if _ranks(shape) > 1:
        return f"input {list(shape)} has more than one dimension"
    return f"more than {SOFTMAX_SIZE} elements" if shape and shape[-1] > SOFTMAX_SIZE else ""


def _split(operator: Operator) -> str:
    axis = operator.inputs[0].values if operator.inputs[0] else None
    if axis is None:
        return "the axis is computed"
    source = operator.inputs[1]
    rank = len(source.shape) if source else 1
    return "splits the batch" if int(axis.reshape(-1)[0]) % rank == 0 and rank > 3 else ""


def _squeeze(operator: Operator) -> str:
    source = operator.inputs[0]
    shape = source.shape if source else ()
    kept = [place for place, one in enumerate(shape) if one != 1]
    if kept and any(one == 1 for one in shape[kept[0] :]):
        return f"input {list(shape)} would be laid out anew: only leading ones may go"
    return ""


def _strided_slice(operator: Operator) -> str:
    strides = operator.inputs[3].values if operator.inputs[3] else None
    if strides is None or np.any(strides != 1):
        return "a stride is not 1"
    for mask in ("ellipsisMask", "newAxisMask"):
        if operator.option(mask):
            return f"{mask} is not 0"
    return ""


def _ranks(shape: tuple[int, ...]) -> int:
    """Dimensions of more than one element."""
    return sum(one != 1 for one in shape)


def _bytes_only(operator: Operator) -> str:
    """Fully integer, of 8 bits."""
    for one in (*operator.outputs, *operator.inputs):
        if one and one.dtype not in FREE:
            return f"{one.dtype} numbers, allowed are 8-bit integers"
    source = next((one for one in operator.inputs if one and not one.constant), None)
    if source and source.dtype not in BYTES:
        return f"{source.dtype} input, allowed are 8-bit integers"
    if operator.outputs[0].dtype not in BYTES:
        return f"{operator.outputs[0].dtype} output, allowed are 8-bit integers"
    return ""


def _three_dims(operator: Operator) -> str:
    """Of more than three dimensions only the innermost three may exceed 1."""
    for one in (*operator.inputs, *operator.outputs):
        if one and not one.constant and any(side != 1 for side in one.shape[:-3]):
            return f"shape {list(one.shape)}: only the innermost 3 dimensions may exceed 1"
    return ""


RULES: Rules = {
    **dict.fromkeys(
        (
            "ADD", "EXPAND_DIMS", "L2_NORMALIZATION", "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL",
            "QUANTIZE", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE", "RSQRT", "SLICE",
            "SPACE_TO_DEPTH", "SQUARED_DIFFERENCE", "SUB", "TANH", "TRANSPOSE", "TRANSPOSE_CONV",
            "UNIDIRECTIONAL_SEQUENCE_LSTM",
        ),
        (),
    ),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), (rules.no_activation,)),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), (rules.same_dilation,)),
    **dict.fromkeys(("REDUCE_MAX", "REDUCE_MIN", "SUM"), (_reduction,)),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), (_resize,)),
    "CONCATENATION": (rules.no_activation, _concatenation),
    "FULLY_CONNECTED": (_fully_connected,),
    "MEAN": (_mean,),
    "PACK": (_pack,),
    "PAD": (_pad,),
    "PRELU": (_prelu,),
    "SOFTMAX": (_softmax,),
    "SPLIT": (_split,),
    "SQUEEZE": (_squeeze,),
    "STRIDED_SLICE": (_strided_slice,),
}  # fmt: skip


def hello() -> dict[str, Any]:
    """The compiler's version where it is here, else the source of the rules."""
    found = shutil.which(COMPILER)
    if found is None:
        return {"tool": RULES_TITLE}
    return {"tool": " ".join(_run([found, "--version"]).split()[:6])}


def place(request: dict[str, Any]) -> dict[str, Any]:
    """See `converters.placement.worker`.

    Raises:
        InputError: the compiler refuses the file.
    """
    model = Path(request["model"])
    graphs = read_graphs(model)
    held = weights_bytes(graphs)
    room = request["demands"]["max_weights_bytes"] or CHIP_BYTES
    notes: dict[str, Any] = {"weights_bytes": held}
    if held > room:
        notes["streamed"] = f"{size(held)} of weights, {size(room)} fit on the chip: the rest is " \
            "fetched for every inference"  # fmt: skip
    answer: dict[str, Any] = {"estimated_ms": None, "estimate": "", "compiled": None}
    if (found := shutil.which(COMPILER)) is not None:
        return answer | _compiled(found, model, graphs, Path(request["folder"]), notes)
    listed = request["demands"]["operators"]
    nodes = [node for graph in graphs for node in _by_rules(graph, graphs, listed)]
    return answer | {"nodes": nodes, "partitions": int(any(n["on"] for n in nodes)), "notes": notes}


def _by_rules(graph: Graph, graphs: tuple[Graph, ...], listed: Any) -> list[dict[str, Any]]:
    general = (rules.fixed_shapes, _bytes_only, _three_dims)
    nodes = []
    first: Operator | None = None
    for operator in graph.operators:
        if operator.converts_float:
            continue
        reason = rules.why_not(operator, RULES, general, listed)
        if first is not None and not reason:
            reason = BEHIND.format(first.title)
        first = first or (operator if reason else None)
        nodes.append(rules.node(graph, graphs, operator, reason))
    return nodes


def _compiled(
    compiler: str, model: Path, graphs: tuple[Graph, ...], folder: Path, notes: dict[str, Any]
) -> dict[str, Any]:
    """By the compiler: what is left in its file beside the TPU's part is the CPU's.

    Its log tells reasons by kind of operator only, so each kind's are shared out in their order.
    """
    said = _run([compiler, "-s", "-o", str(folder), str(model)])
    made = folder / f"{model.stem}_edgetpu.tflite"
    if not made.is_file():
        raise InputError(f"{COMPILER} made nothing of {model.name}: {plain(said[-300:])}")
    left: defaultdict[str, int] = defaultdict(int)
    partitions = 0
    for graph in read_graphs(made):
        for operator in graph.operators:
            partitions += operator.name == CUSTOM
            if operator.name != CUSTOM and not operator.converts_float:
                left[operator.name] += 1
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for name, count, status in STATUS.findall(said):
        if status != MAPPED:
            reasons[name] += [status] * int(count)
    nodes = []
    for graph in graphs:
        for operator in reversed(graph.operators):  # the CPU's part is behind the TPU's
            if operator.converts_float:
                continue
            off = left[operator.name] > 0
            left[operator.name] -= off
            waiting = reasons[operator.name]
            reason = (waiting.pop() if waiting else "the compiler left it out") if off else ""
            nodes.append(rules.node(graph, graphs, operator, reason))
    return {
        "nodes": nodes[::-1],
        "partitions": partitions,
        "compiled": str(made),
        "evidence": "vendor-compiled",
        "notes": notes | {key: plain(value) for key, value in MEMORY.findall(said)},
    }


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILER_S)
    except (OSError, subprocess.SubprocessError) as reason:
        raise InputError(f"{COMPILER} cannot be run ({reason})") from None
    if done.returncode != 0:
        raise InputError(f"{COMPILER} fails: {plain((done.stderr or done.stdout)[-300:])}")
    return done.stdout
