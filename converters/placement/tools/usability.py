"""ONNX Runtime's checker for mobile devices, asked node by node: NNAPI and Core ML.

The checker knows operators, ranks, and whether shapes are fixed; it cuts the graph into parts as
the providers do. What it cannot see (a convolution that is not two-dimensional, weights that are
not constant) it lists as caveats, which are handed on in the notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from converters.placement.tools import onnx_graph, ort_session
from converters.placement.tools.onnx_graph import Fate
from converters.placement.tools.ort_session import ENGINE

ANY_RANK = 1_000
TOLD_BY = "onnxruntime.tools.mobile_helpers.usability_checker"


def hello(title: str) -> dict[str, Any]:
    """Name and version."""
    return {"tool": f"usability checker of onnxruntime {ENGINE.__version__} for {title}"}


def place(
    request: dict[str, Any], title: str, check: Callable[[Any], Any], max_rank: int = ANY_RANK
) -> dict[str, Any]:
    """Where nodes run by the rules of `check`, one of the checker's own functions.

    Raises:
        InputError: the file cannot be read, or ONNX Runtime refuses it.
    """
    path = Path(request["model"])
    model = onnx_graph.read(str(path))
    prepared = Path(request["folder"]) / f"{path.stem}.prepared.onnx"
    after = ort_session.basic(model, prepared)
    for node in after.graph.node:
        while node.input and not node.input[-1]:
            node.input.pop()  # the checker takes an optional input left out for one without a shape
    info = check(after)
    taken = {node.name for group in info.supported_groups for node in group}
    rules = _Rules(after, title, info.supported_ops_checker, max_rank)
    fates = {
        node.name: rules.fate(node, node.name in taken) for node in onnx_graph.operators(after)
    }
    nodes = onnx_graph.operators(model)
    found = onnx_graph.spread(model, after, fates)
    lost = Fate(False, f"{title}'s rules were not asked: the engine rewrote the graph around it")
    found = {one.name: found.get(one.name, lost) for one in nodes}
    return {
        "nodes": onnx_graph.told(nodes, onnx_graph.listed(nodes, found, request["demands"])),
        "partitions": info.num_partitions,
        "estimated_ms": None,
        "estimate": "",
        "compiled": None,
        "notes": {
            "rules": TOLD_BY,
            "caveats": _plain(info.supported_ops_checker.get_caveats()),
            "suitable": info.suitability().name.lower(),
        },
    }


class _Rules:
    """Why a node is not taken, in words; and what the checker does not look at."""

    def __init__(self, model: Any, title: str, supported: Any, max_rank: int) -> None:
        self._title, self._max_rank = title, max_rank
        self._supported = supported
        weights = {one.name for one in model.graph.initializer}
        self._shapes = {
            one.name: one.type.tensor_type.shape
            for one in (*model.graph.input, *model.graph.value_info, *model.graph.output)
            if one.type.tensor_type.HasField("shape")
        }
        self._known = weights | {""}
        self._unpacked = {  # weights that the engine would have to unpack first
            node.output[0]
            for node in model.graph.node
            if node.op_type == "DequantizeLinear"
            and node.input[0] in weights
            and not supported.is_op_supported(node)
        }

    def fate(self, node: Any, taken: bool) -> Fate:
        """On, or off and why."""
        title = self._title
        if any(name in self._unpacked for name in node.input):
            return Fate(
                False, f"its weights are packed, and DequantizeLinear is no operator of {title}'s"
            )
        if taken:
            return Fate(True)
        if not self._supported.is_op_supported(node):
            return Fate(False, f"{node.op_type} is no operator of {title}'s")
        deep = [
            name for name in node.input
            if name in self._shapes and len(self._shapes[name].dim) > self._max_rank
        ]  # fmt: skip
        if deep:
            return Fate(False, f"{title} takes {self._max_rank} dimensions, its input has more")
        free = [name for name in node.input if not self._fixed(name)]
        if free:
            return Fate(False, f"an input's shape is not fixed, {title} wants fixed ones")
        return Fate(False, f"{title} does not take it in this place")

    def _fixed(self, name: str) -> bool:
        shape = self._shapes.get(name)
        if shape is None:
            return name in self._known
        return all(one.HasField("dim_value") and one.dim_value > 0 for one in shape.dim)


def _plain(caveats: Iterable[str]) -> list[str]:
    return [one.removeprefix("ai.onnx:").replace(":", ": ", 1) for one in caveats]
