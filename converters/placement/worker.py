"""The process of a vendor's tool: `hello`, `place` and `run` on one module of `tools`.

`place` takes {"model": path, "target": the engine's, "demands": the engine's, "folder": where
files may be left, "calibration": .npz with samples of each input, for tools that quantize} and
answers {"nodes": [{"name", "operator", "on", "reason"}], "partitions",
"estimated_ms", "estimate", "compiled": path or null, "notes": {}}, and "evidence" where it differs
from the table's, with "why" where it is "unknown". `run` takes "feeds" and "answers" besides, .npz
files with an array for each input and output by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from converters.toolchain import answer_all, shortened
from edge_runtime.errors import EdgeError, InputError

TOOLS = "converters.placement.tools"


def load(tool: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What answers requests for the module `tool` of `tools`."""
    module = importlib.import_module(f"{TOOLS}.{tool}")

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        job = request["job"]
        if job == "hello":
            return dict(module.hello())
        if job not in ("place", "run") or not hasattr(module, job):
            raise InputError(f"{tool} cannot {job}")
        return dict(getattr(module, job)(request))

    return answer


def reduced(reason: Exception) -> str:
    """One sentence of what a tool raised; a vendor's own errors carry their kind."""
    said = shortened(str(reason))
    return said if isinstance(reason, EdgeError) and said else f"{type(reason).__name__}: {said}"


def main(tool: str) -> int:
    """Answer until the input ends. Returns the exit code."""
    # Loaded with the first request: a tool that cannot be imported is an answer, not a crash.
    loaded: list[Callable[[dict[str, Any]], dict[str, Any]]] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if not loaded:
            loaded.append(load(tool))
        return loaded[0](request)

    return answer_all(answer, reduced)
