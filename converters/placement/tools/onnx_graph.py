"""What the tools that read ONNX need to know of a graph: which nodes compute, and what became them.

A node computes where its answer depends on an input. QuantizeLinear and DequantizeLinear say how
numbers are stored, Identity and the like vanish, and what hangs on constants only is folded when
the file is loaded: none of these is listed. A branch or a body belongs to its If or Loop.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edge_runtime.errors import InputError

SILENT = frozenset(("Constant", "DequantizeLinear", "Dropout", "Identity", "QuantizeLinear"))
UNSIZED = frozenset(("Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Range", "Unique"))
DOMAINS = ("", "ai.onnx")
TENSORS = {int(value): name.lower() for name, value in onnx.TensorProto.DataType.items() if value}
"""ONNX's number of a type → its name, as float or uint8."""
_SUFFIX = re.compile(r"_token_\d+$")
"""ONNX Runtime's, of a node that it laid out anew."""

Told = dict[str, Any]
"""One node of an answer: name, operator, on, reason."""


@dataclass(frozen=True, slots=True)
class Fate:
    """Whether a node is on the accelerator, and why it is not."""

    on: bool
    reason: str = ""


def read(path: str) -> Any:
    """The model at `path`, every node with a name of its own, shapes inferred where they can be.

    Nodes stand behind those that they read from, as ONNX wants it: ONNX Runtime takes and writes
    any order, its quantizer's tools too, but its checker for mobile devices does not.

    Raises:
        InputError: it cannot be read as ONNX.
    """
    try:
        model = onnx.load(path)
    except Exception as reason:  # protobuf's, onnx's and the disk's have no common base
        raise InputError(f"{Path(path).name}: cannot be read as ONNX ({reason})") from None
    _sort(model.graph)
    taken: set[str] = set()
    for node in model.graph.node:
        wanted = node.name or next(filter(None, node.output), node.op_type)
        name, count = wanted, 1
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        node.name = name
        taken.add(name)
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # an operator of a vendor's domain, a wrong shape: not for us to judge
        return model


def _sort(graph: Any) -> None:
    """Put each node behind those that it reads from, and else leave the order as it is."""
    maker = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    sources = [
        sorted({maker[name] for name in _read_by(node) if name in maker}) for node in graph.node
    ]
    if all(source < place for place, some in enumerate(sources) for source in some):
        return
    order: dict[int, None] = {}
    for place in range(len(sources)):
        waiting, open_ = [place], set[int]()
        while waiting:
            one = waiting[-1]
            missing = [source for source in sources[one] if source not in order]
            if one in open_ or not missing:
                order.setdefault(waiting.pop())  # a circle stays one: no order would mend it
            else:
                open_.add(one)
                waiting += reversed(missing)
    nodes = [graph.node[place] for place in order]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _read_by(node: Any) -> set[str]:
    """What the node reads, and what its branches and bodies do."""
    found = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for one in graph.node:
                found |= _read_by(one)
    return found


def write(model: Any, path: Path) -> None:
    """Write the model over `path`."""
    onnx.save(model, str(path))


def constants(model: Any) -> set[str]:
    """Names of tensors that no input reaches: weights and what is computed of them alone.

    The shape of a tensor counts where all its sizes are fixed, or all sizes of the inputs are and
    no node's answer has a size that its values decide.
    """
    graph = model.graph
    fixed = {value.name for value in _values(model) if _is_fixed(value)}
    if not free_dims(model) and not any(node.op_type in UNSIZED for node in graph.node):
        fixed |= {name for node in graph.node for name in node.output}
    known = {one.name for one in (*graph.initializer, *graph.sparse_initializer)} | {""}
    for node in graph.node:
        shape_only = node.op_type in ("Shape", "Size") and node.input[0] in fixed
        nested = any(one.type in (one.GRAPH, one.GRAPHS) for one in node.attribute)
        random = node.op_type.startswith("Random") or node.op_type == "Bernoulli"
        computed = nested or random or not all(one in known for one in node.input)
        if shape_only or not computed:
            known |= set(node.output)
    return known


def operators(model: Any) -> list[Any]:
    """The nodes that compute, in the file's order."""
    known = constants(model)
    return [
        node
        for node in model.graph.node
        if node.op_type not in SILENT and not known.issuperset(node.output)
    ]


def types(model: Any) -> Mapping[str, str]:
    """Tensor → its type, as float or uint8, where the file tells."""
    found = {one.name: TENSORS.get(one.data_type, "") for one in model.graph.initializer}
    for value in _values(model):
        found[value.name] = TENSORS.get(value.type.tensor_type.elem_type, "")
    return found


def free_dims(model: Any) -> dict[str, list[str]]:
    """Input → its sizes that are not fixed, by name."""
    weights = {one.name for one in model.graph.initializer}
    found = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        free = [one.dim_param or "?" for one in dims if not one.HasField("dim_value")]
        if free and value.name not in weights:
            found[value.name] = free
    return found


def refuse_free(model: Any, tool: str) -> None:
    """Say what is free where the tool compiles for fixed shapes only.

    Raises:
        InputError: an input has a free size.
    """
    if free := free_dims(model):
        told = "; ".join(f"{name} ({', '.join(sizes)})" for name, sizes in free.items())
        raise InputError(
            f"{tool} compiles for fixed shapes only, and these inputs have free sizes: {told}; "
            "export the model with fixed ones"
        )


def opset(model: Any) -> int:
    """The version of ONNX's own operators."""
    return max((one.version for one in model.opset_import if one.domain in DOMAINS), default=0)


def told(nodes: Iterable[Any], fates: Mapping[str, Fate]) -> list[Told]:
    """The answer's list; every node has a fate."""
    return [
        {
            "name": node.name,
            "operator": node.op_type,
            "on": fates[node.name].on,
            "reason": fates[node.name].reason,
        }
        for node in nodes
    ]


def listed(
    nodes: Iterable[Any], fates: Mapping[str, Fate], demands: Mapping[str, Any]
) -> dict[str, Fate]:
    """`fates`, with those operators off that the device profile does not name, if it names any."""
    named = demands.get("operators")
    off = Fate(False, "not among the operators of the device profile")
    return {
        node.name: off
        if named and fates[node.name].on and node.op_type not in named
        else fates[node.name]
        for node in nodes
    }


def plain_name(name: str) -> str:
    """A node's name as the file has it, without what the engine appended."""
    return _SUFFIX.sub("", name)


def spread(model: Any, after: Any, fates: Mapping[str, Fate]) -> dict[str, Fate]:
    """What became of the nodes of `model`, when `fates` are those of the rewritten graph `after`.

    A node of `after` speaks for all that lies between its inputs and outputs in `model`. Those
    that are found nowhere (the engine fused them once more) share their consumer's fate, else
    their producer's.
    """
    maker = {name: node for node in model.graph.node for name in node.output if name}
    found: dict[str, Fate] = {}
    for node in after.graph.node:
        fate = fates.get(node.name)
        if fate is None or node.op_type in SILENT:
            continue
        outside = set(node.input)
        wanted = [name for name in node.output if name]
        while wanted:
            made = maker.get(wanted.pop())
            if made is not None and made.name not in found:
                found[made.name] = fate
                wanted += [name for name in made.input if name not in outside]
    for node in model.graph.node:  # an exact name tells more than a neighbourhood
        if node.name in fates:
            found[node.name] = fates[node.name]
    return _neighbours(model, found)


def _neighbours(model: Any, found: dict[str, Fate]) -> dict[str, Fate]:
    nodes: Sequence[Any] = list(model.graph.node)
    by_output: dict[str, Fate] = {}
    by_input: dict[str, Fate] = {}
    for node in reversed(nodes):
        fate = found.get(node.name) or next(
            (by_input[name] for name in node.output if name in by_input), None
        )
        if fate is not None:
            if node.op_type not in SILENT:
                found.setdefault(node.name, fate)
            by_input |= dict.fromkeys(node.input, fate)
    for node in nodes:
        fate = found.get(node.name) or next(
            (by_output[name] for name in node.input if name in by_output), None
        )
        if fate is not None:
            found.setdefault(node.name, fate)
            by_output |= dict.fromkeys(node.output, fate)
    return found


def _values(model: Any) -> list[Any]:
    graph = model.graph
    return [*graph.input, *graph.value_info, *graph.output]


def _is_fixed(value: Any) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(one.HasField("dim_value") for one in tensor.shape.dim)
