"""Where every node of a model file runs on this host: how many, by operator, and who runs them.

ONNX Runtime is asked: its profile of one run names operator and provider of every node, after the
rewrites that it makes when it loads. LiteRT lists its operators and, once it has handed some to
XNNPACK, a delegate node with the tensors that go in and come out: what lies between is XNNPACK's.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.ort import CPU, load_engine
from converters.placement.result import MEASURED
from converters.quiet import quiet

DELEGATE, XNNPACK, KERNELS = "DELEGATE", "XNNPACK", "LiteRT's own kernels"
TOKENS = 16
ORDINARY_ID = 7


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes of one kind; `runs_on` is a provider or a delegate."""

    operator: str
    runs_on: str
    count: int


@dataclass(frozen=True, slots=True)
class Placement:
    """All nodes that run, the most frequent first, and how that is known.

    `in_file` is how many nodes the file has, before the engine rewrote anything.
    """

    nodes: tuple[Group, ...]
    in_file: int
    evidence: str


def placement(backend: str, path: Path) -> Placement:
    """Where the nodes of the file at `path` run on this host.

    Raises:
        Exception: the engine's own, where it cannot load the file.
    """
    return _PLACERS[backend](path)


def _onnx(path: Path) -> Placement:
    onnxruntime = load_engine()
    import onnx

    with quiet(), tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=[CPU])
        session.run(None, _feeds(session))
        events = json.loads(Path(session.end_profiling()).read_text())
    in_file = len(onnx.load(str(path), load_external_data=False).graph.node)
    return Placement(_ranked(_ran(events)), in_file, MEASURED)


def _ran(events: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """Nodes by operator and provider; each has one event of its kernel, whatever it is called."""
    found = {}
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["name"]] = (arguments["op_name"], arguments["provider"])
    return Counter(found.values())


def _feeds(session: Any) -> Mapping[str, Any]:
    """A short text for inputs of (batch, tokens), whatever they are called."""
    ids = np.full((1, TOKENS), ORDINARY_ID, dtype=np.int64)
    return {
        one.name: np.ones_like(ids) if "mask" in one.name else ids for one in session.get_inputs()
    }


def _litert(path: Path) -> Placement:
    """Of the first entry point; the others are alike."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
    # There is no public way to ask.
    operators: list[dict[str, Any]] = interpreter._get_ops_details()
    own = [one for one in operators if one["op_name"] != DELEGATE]
    handed = _handed(own, [one for one in operators if one["op_name"] == DELEGATE])
    counts = Counter(
        (one["op_name"], XNNPACK if one["index"] in handed else KERNELS) for one in own
    )
    return Placement(_ranked(counts), len(own), MEASURED)


def _handed(own: Sequence[Mapping[str, Any]], delegates: Sequence[Mapping[str, Any]]) -> set[int]:
    """Indexes of the operators that make a delegate's outputs from what goes into it."""
    maker = {int(tensor): one for one in own for tensor in one["outputs"]}
    handed: set[int] = set()
    for delegate in delegates:
        outside = {int(tensor) for tensor in delegate["inputs"]}
        wanted = [int(tensor) for tensor in delegate["outputs"]]
        while wanted:
            tensor = wanted.pop()
            made_by = None if tensor in outside else maker.get(tensor)
            if made_by is not None and made_by["index"] not in handed:
                handed.add(made_by["index"])
                wanted += [int(one) for one in made_by["inputs"]]
    return handed


def _ranked(counts: Counter[tuple[str, str]]) -> tuple[Group, ...]:
    ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return tuple(Group(operator, runs_on, count) for (operator, runs_on), count in ranked)


_PLACERS: Mapping[str, Callable[[Path], Placement]] = {"onnxruntime": _onnx, "litert": _litert}
