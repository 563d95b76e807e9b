"""Placement by rules: an operator stays on the accelerator unless a rule says why it cannot.

Rules are a table: operator → checks, each a function of the operator that gives the reason or "".
An operator that is not in the table is not known to the accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from converters.placement.tflite_graph import Graph, Operator
from edge_runtime.text import plain

Check = Callable[[Operator], str]
Rules = Mapping[str, tuple[Check, ...]]


def why_not(operator: Operator, rules: Rules, general: Sequence[Check], listed: Any = ()) -> str:
    """Why the accelerator does not run `operator`; "" where it does.

    `listed` are the operators that a device profile names; any where it names none.
    """
    if operator.name not in rules:
        return f"{operator.name} is no operator of the accelerator"
    if listed and operator.name not in listed:
        return f"{operator.name} is not among the operators of the device profile"
    for check in (*general, *rules[operator.name]):
        if reason := check(operator):
            return plain(reason)
    return ""


def node(graph: Graph, graphs: Sequence[Graph], operator: Operator, reason: str) -> dict[str, Any]:
    """A node of a tool's answer; with several entry points its name says of which."""
    entry = f"{graphs.index(graph)}:" if len(graphs) > 1 else ""
    return {
        "name": f"{operator.name} #{entry}{operator.index}",
        "operator": operator.name,
        "on": not reason,
        "reason": reason,
    }


def no_activation(operator: Operator) -> str:
    """It may not carry a fused activation."""
    return "" if operator.activation == "NONE" else f"fused {operator.activation}, allowed is none"


def same_dilation(operator: Operator) -> str:
    """Both directions dilate alike."""
    high, wide = operator.option("dilationHFactor", 1), operator.option("dilationWFactor", 1)
    return "" if high == wide else f"dilation {high} in y and {wide} in x, must be the same"


def axes_of(operator: Operator, place: int) -> tuple[int, ...] | None:
    """The axes that input number `place` gives, not negative; None where they are computed."""
    given = operator.inputs[place] if len(operator.inputs) > place else None
    values = given.values if given else None
    source = operator.inputs[0]
    if values is None or source is None:
        return None
    return tuple(sorted(int(one) % max(1, len(source.shape)) for one in values.reshape(-1)))


def fixed_shapes(operator: Operator) -> str:
    """Sizes are known beforehand."""
    for tensor in (*operator.inputs, *operator.outputs):
        if tensor is not None and any(size < 0 for size in tensor.shape):
            return f"a shape is not fixed: {list(tensor.shape)}"
    return ""
