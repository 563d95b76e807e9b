"""ONNX Runtime in the environment of a tool: sessions, and who got which node.

Which node went to whom is the engine's own record of how it cut the graph, not the request: an
execution provider that cannot start is left out by the engine without an error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters.placement.tools import arrays, onnx_graph
from converters.placement.tools.onnx_graph import Fate
from edge_runtime.errors import InputError
from edge_runtime.text import plain

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # newer engines report to their vendor from the import on
import onnxruntime

ENGINE: Any = onnxruntime
CPU = "CPUExecutionProvider"
RECORD = "session.record_ep_graph_assignment_info"
VERBOSE, ERRORS = 0, 3
TOKENS = 16
"""For a free size of an input, where a run needs one; a free batch is 1."""


def options(*, severity: int = ERRORS, **entries: str) -> Any:
    """Options of a session that records who gets which node, with `entries` besides."""
    made = onnxruntime.SessionOptions()
    made.log_severity_level = severity
    made.intra_op_num_threads = len(os.sched_getaffinity(0))
    made.add_session_config_entry(RECORD, "1")
    for name, value in entries.items():
        made.add_session_config_entry(name, value)
    return made


def basic(model: Any, out: Path) -> Any:
    """`model` after the rewrites that every provider gets; written to `out`, and read.

    Raises:
        InputError: the engine refuses the file.
    """
    named = out.with_suffix(".named.onnx")
    onnx_graph.write(model, named)  # so that a node that survives keeps the name that it has here
    wanted = onnxruntime.SessionOptions()
    wanted.log_severity_level = ERRORS
    wanted.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    wanted.optimized_model_filepath = str(out)
    try:
        onnxruntime.InferenceSession(
            str(named), wanted, providers=[CPU], disabled_optimizers=["TransposeOptimizer"]
        )
    except Exception as reason:  # the engine's errors have no base of their own
        raise InputError(f"ONNX Runtime refuses the file: {plain(str(reason))}") from None
    after = onnx_graph.read(str(out))
    onnx_graph.write(after, out)
    return after


def assigned(session: Any) -> tuple[dict[str, str], dict[str, int]]:
    """Node → provider, and provider → parts of the graph that it got."""
    holders: dict[str, str] = {}
    parts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        parts[part.ep_name] = parts.get(part.ep_name, 0) + 1
        for node in part.get_nodes():
            holders[onnx_graph.plain_name(node.name)] = part.ep_name
    return holders, parts


def fates(session: Any, provider: str, reasons: Mapping[str, str], default: str) -> dict[str, Fate]:
    """What became of each node; `default` is why, where `reasons` do not tell."""
    holders, _ = assigned(session)
    return {
        name: Fate(True) if holder == provider else Fate(False, reasons.get(name, default))
        for name, holder in holders.items()
    }


def run(session: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run `session` on the request's feeds; its answers are written.

    Raises:
        InputError: an input is missing, or the engine refuses the feeds.
    """
    feeds = arrays.load(request["feeds"])
    wanted = [one.name for one in session.get_inputs()]
    if missing := [name for name in wanted if name not in feeds]:
        raise InputError(f"input {missing[0]} is missing from the feeds")
    names = [one.name for one in session.get_outputs()]
    try:
        answers = session.run(names, {name: feeds[name] for name in wanted})
    except Exception as reason:
        raise InputError(f"ONNX Runtime cannot run it: {plain(str(reason))}") from None
    arrays.save(request["answers"], dict(zip(names, answers, strict=True)))
    return {}


def invented(session: Any) -> dict[str, Any]:
    """Feeds of the right shapes: ones for integers (a token, a mask), noise for floats."""
    draw = np.random.default_rng(0)
    feeds = {}
    for one in session.get_inputs():
        free = iter((1, *[TOKENS] * len(one.shape)))
        shape = [size if isinstance(size, int) else next(free) for size in one.shape]
        kind = one.type.removeprefix("tensor(").removesuffix(")")
        dtype = np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))
        floating = dtype.kind == "f"
        feeds[one.name] = (
            draw.normal(size=shape).astype(dtype) if floating else np.ones(shape, dtype)
        )
    return feeds
