"""How much memory a model's activations take: tensors that live at the same time, and an arena.

A tensor lives from the node that makes it to the last that reads it. `peak_bytes` is the largest
sum of tensors alive at one node, what no planner can be below; `arena_bytes` what a planner needs
that gives every tensor a place of its own for its whole life. Weights are not counted, nor what
kernels take for themselves. A view (Reshape and its like) shares the memory of what it looks at.

Source of the planner: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
Inference", 2020, greedy by size for offset calculation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.ort import CPU, load_engine
from converters.quiet import quiet

ALIGNMENT = 64
ONNX_VIEWS = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"))
LITERT_VIEWS = frozenset(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"))
ORDINARY_ID = 7


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes for one text: `peak_bytes` at the fullest node, `arena_bytes` for all of them."""

    peak_bytes: int
    arena_bytes: int


@dataclass(frozen=True, slots=True)
class Node:
    """What planning needs of a node: names of activations that it reads and makes."""

    reads: tuple[str, ...]
    makes: tuple[str, ...]
    view: bool = False


@dataclass(frozen=True, slots=True)
class Life:
    """A tensor in time: alive from the node `first` to the node `last`, both included."""

    first: int
    last: int
    size_bytes: int


def activations(backend: str, model: bytes, tokens: int) -> Activations:
    """What the file's graph, as it stands, takes for a text of `tokens` tokens, batch 1.

    Of a LiteRT file the smallest entry point that holds so many.
    """
    return _activations(*_READERS[backend](model, tokens))


def onnx_activations(model: bytes, feeds: Mapping[str, Any]) -> Activations:
    """What an ONNX graph, as it stands, takes for these inputs."""
    return _activations(*_onnx_fed(model, feeds))


def _activations(
    nodes: Sequence[Node], sizes: Mapping[str, int], outputs: Sequence[str]
) -> Activations:
    lives = lifetimes(nodes, sizes, outputs)
    return Activations(peak(lives), arena(lives))


def lifetimes(
    nodes: Sequence[Node], sizes: Mapping[str, int], outputs: Sequence[str]
) -> list[Life]:
    """The life of each tensor in `sizes`; one that no node makes is there from the start.

    `nodes` are in the order in which they run. Outputs live to the end.
    """
    root: dict[str, str] = {}
    first = dict.fromkeys(sizes, 0)
    last = dict.fromkeys(sizes, 0)
    for place, node in enumerate(nodes):
        for name in node.makes:
            seen = [root.get(one, one) for one in node.reads[:1]]
            if node.view and seen and seen[0] in sizes:
                root[name] = seen[0]
            elif name in sizes:
                first[name] = last[name] = place
        for name in (root.get(one, one) for one in (*node.reads, *node.makes)):
            if name in sizes:
                last[name] = max(last[name], place)
    for name in outputs:
        last[root.get(name, name)] = len(nodes)
    return [Life(first[name], last[name], sizes[name]) for name in sizes if name not in root]


def peak(lives: Sequence[Life]) -> int:
    """The most bytes alive at one node."""
    ends = max((one.last for one in lives), default=-1)
    change = np.zeros(ends + 2, dtype=np.int64)
    for one in lives:
        change[one.first] += one.size_bytes
        change[one.last + 1] -= one.size_bytes
    return int(change.cumsum().max())


def arena(lives: Sequence[Life]) -> int:
    """Bytes of an arena in which the largest tensors are placed first, each in the best gap."""
    placed: list[tuple[int, int, Life]] = []  # start, end
    for one in sorted(lives, key=lambda life: (-life.size_bytes, life.first, life.last)):
        length = -(-one.size_bytes // ALIGNMENT) * ALIGNMENT
        start = _best_gap(one, length, placed)
        placed.append((start, start + length, one))
    return max((end for _, end, _ in placed), default=0)


def _best_gap(one: Life, length: int, placed: Sequence[tuple[int, int, Life]]) -> int:
    """Where the smallest gap between tensors alive at the same time begins that holds `length`."""
    beside = sorted(
        (start, end)
        for start, end, other in placed
        if other.first <= one.last and one.first <= other.last
    )
    best, smallest, free = -1, 0, 0
    for start, end in beside:
        gap = start - free
        if gap >= length and (best < 0 or gap < smallest):
            best, smallest = free, gap
        free = max(free, end)
    return best if best >= 0 else free


_Read = tuple[list[Node], dict[str, int], list[str]]


def _onnx(model: bytes, tokens: int) -> _Read:
    import onnx

    graph = onnx.load_from_string(model).graph
    constant = {one.name for one in graph.initializer}
    ids = np.full((1, tokens), ORDINARY_ID, dtype=np.int64)
    inputs = [one.name for one in graph.input if one.name not in constant]
    return _onnx_fed(model, {n: np.ones_like(ids) if "mask" in n else ids for n in inputs})


def _onnx_fed(model: bytes, feeds: Mapping[str, Any]) -> _Read:
    """The engine itself says how large each tensor is: it runs the graph once and shows all."""
    import onnx

    proto = onnx.load_from_string(model)
    constant = {one.name for one in proto.graph.initializer}
    constant |= {name for node in proto.graph.node if node.op_type == "Constant"
                 for name in node.output}  # fmt: skip
    nodes = [
        Node(_names(node.input, constant), _names(node.output, constant),
             node.op_type in ONNX_VIEWS)
        for node in proto.graph.node
        if node.op_type != "Constant"
    ]  # fmt: skip
    outputs = [one.name for one in proto.graph.output]
    made = [name for node in nodes for name in node.makes]
    proto.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in made if name not in outputs
    )
    values = _run(proto.SerializeToString(), made, feeds)
    return nodes, {name: one.nbytes for name, one in {**feeds, **values}.items()}, outputs


def _names(names: Sequence[str], constant: set[str]) -> tuple[str, ...]:
    """Those that are activations; an operand that is left out has an empty name."""
    return tuple(name for name in names if name and name not in constant)


def _run(model: bytes, outputs: Sequence[str], feeds: Mapping[str, Any]) -> dict[str, Any]:
    engine = load_engine()
    options = engine.SessionOptions()
    options.graph_optimization_level = engine.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = engine.InferenceSession(model, options, providers=[CPU])
    return dict(zip(outputs, session.run(list(outputs), dict(feeds)), strict=True))


def _litert(model: bytes, tokens: int) -> _Read:
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    with quiet():
        file: Any = tfl_flatbuffer_utils.read_model(model)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    kinds = [names.get(code.builtinCode, "") for code in file.operatorCodes]
    graph = _entry_point(file, tokens)
    sizes = {
        str(place): int(np.prod(tensor.shape)) * _width(tensor.type)
        for place, tensor in enumerate(graph.tensors)
        if file.buffers[tensor.buffer].data is None and file.buffers[tensor.buffer].offset == 0
    }
    nodes = [
        Node(
            tuple(str(one) for one in operator.inputs if str(one) in sizes),
            tuple(str(one) for one in operator.outputs if str(one) in sizes),
            kinds[operator.opcodeIndex] in LITERT_VIEWS,
        )
        for operator in graph.operators
    ]
    used = {name for node in nodes for name in (*node.reads, *node.makes)}
    outputs = [str(one) for one in graph.outputs]
    return nodes, {name: size for name, size in sizes.items() if name in used}, outputs


def _entry_point(file: Any, tokens: int) -> Any:
    """The subgraph of the smallest number of tokens that holds `tokens`, else the largest."""
    lengths = [(int(graph.tensors[graph.inputs[0]].shape[-1]), place)
               for place, graph in enumerate(file.subgraphs)]  # fmt: skip
    fitting = [one for one in lengths if one[0] >= tokens]
    return file.subgraphs[min(fitting)[1] if fitting else max(lengths)[1]]


def _width(kind: int) -> int:
    """Bytes of a number of a TensorType; half a byte counts as one."""
    from ai_edge_litert import schema_py_generated as schema

    types = schema.TensorType
    wide = {types.FLOAT32: 4, types.INT32: 4, types.UINT32: 4, types.FLOAT16: 2, types.INT16: 2,
            types.INT64: 8, types.FLOAT64: 8, types.UINT64: 8}  # fmt: skip
    return wide.get(kind, 1)


_READERS: Mapping[str, Callable[[bytes, int], _Read]] = {"onnxruntime": _onnx, "litert": _litert}
