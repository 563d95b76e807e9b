"""Where operators run, as LiteRT lists them: which of them a delegate has taken.

An interpreter lists the operators of the file, then one node for each part that a delegate took,
with the tensors that go in and come out: what lies between is the delegate's. All delegates look
the same there, XNNPACK too, which takes whatever the named one has left. So the named one is first
seen alone, in an interpreter without the others; then its parts are looked for in the interpreter
that serves.

Only the first entry point is listed; the others hold the same operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edge_runtime.errors import DeviceError
from edge_runtime.inference.backend import Account, one_line

UNCOUNTED = frozenset({"QUANTIZE", "DEQUANTIZE"})

Part = tuple[tuple[int, ...], tuple[int, ...]]
"""Tensors that go into a delegate's part of the graph, and that come out."""


def own_operators(interpreter: Any) -> int:
    """How many operators the file has; of an interpreter that has no delegate yet."""
    return len(_listed(interpreter))


def taken(interpreter: Any, own: int) -> frozenset[Part]:
    """The parts that delegates took; `own` operators are the file's."""
    return frozenset(_part(one) for one in _listed(interpreter)[own:])


def account(interpreter: Any, own: int, alone: frozenset[Part]) -> Account:
    """What the named delegate has in `interpreter`; `alone` are its parts without any other."""
    listed = _listed(interpreter)
    operators = listed[:own]
    parts = alone & {_part(one) for one in listed[own:]}
    handed = _handed(operators, parts)
    counted = [one for one in operators if one["op_name"] not in UNCOUNTED]
    off = Counter(str(one["op_name"]) for one in counted if one["index"] not in handed)
    return Account(len(counted), off, "operator list")


def _listed(interpreter: Any) -> list[Mapping[str, Any]]:
    try:
        listed: list[Mapping[str, Any]] = interpreter._get_ops_details()
    except Exception as reason:  # there is no public way to ask
        raise DeviceError(f"LiteRT does not tell its operators ({one_line(reason)})") from None
    return listed


def _part(one: Mapping[str, Any]) -> Part:
    return tuple(map(int, one["inputs"])), tuple(map(int, one["outputs"]))


def _handed(operators: Sequence[Mapping[str, Any]], parts: frozenset[Part]) -> set[int]:
    """Indexes of the operators that make a part's outputs out of what goes into it."""
    maker = {int(tensor): one for one in operators for tensor in one["outputs"]}
    handed: set[int] = set()
    for outside, outputs in parts:
        wanted = list(outputs)
        while wanted:
            tensor = wanted.pop()
            made_by = None if tensor in outside else maker.get(tensor)
            if made_by is not None and made_by["index"] not in handed:
                handed.add(made_by["index"])
                wanted += [int(one) for one in made_by["inputs"]]
    return handed
