"""OpenVINO through ONNX Runtime's provider: it really runs on this machine's CPU.

What is measured is the engine's own profile of one run. A GPU or an NPU of Intel's that this
machine lacks cannot be asked: the provider would fall back to the CPU without an error, so the
answer there is that nobody knows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from converters.placement.tools import onnx_graph, ort_session
from converters.placement.tools.onnx_graph import Fate
from converters.placement.tools.ort_session import ENGINE
from edge_runtime.errors import InputError
from edge_runtime.text import plain

PROVIDER = "OpenVINOExecutionProvider"
OPTIONS = ("device_type", "precision", "num_streams", "model_priority")
LEFT = "OpenVINO's provider left it to the CPU's own kernels and gave no reason"


def hello() -> dict[str, Any]:
    """Name and version."""
    return {"tool": f"onnxruntime-openvino {ENGINE.__version__}"}


def place(request: dict[str, Any]) -> dict[str, Any]:
    """Load, run once, and see who ran what.

    Raises:
        InputError: the engine refuses the file.
    """
    path, folder = Path(request["model"]), Path(request["folder"])
    device = str(request["target"].get("device_type", "CPU"))
    model = onnx_graph.read(str(path))
    prepared = folder / f"{path.stem}.prepared.onnx"
    after = ort_session.basic(model, prepared)
    options = ort_session.options()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = _session(str(prepared), request["target"], options)
    if session is None:
        return _unknown(f"this machine has no {device} that OpenVINO can use, so nothing ran on it")
    try:
        session.run(None, ort_session.invented(session))
    except Exception as reason:  # the engine's errors have no base of their own
        raise InputError(f"OpenVINO cannot run the file: {plain(str(reason))}") from None
    ran = _ran(Path(session.end_profiling()))
    fates = ort_session.fates(session, PROVIDER, {}, LEFT)
    parts = ort_session.assigned(session)[1].get(PROVIDER, 0)
    if ran < parts:
        raise InputError(f"OpenVINO got {parts} parts of the graph and ran {ran} of them")
    nodes = onnx_graph.operators(model)
    found = onnx_graph.spread(model, after, fates)
    lost = Fate(False, LEFT)
    return {
        "nodes": onnx_graph.told(nodes, {one.name: found.get(one.name, lost) for one in nodes}),
        "partitions": parts,
        "estimated_ms": None,
        "estimate": "",
        "compiled": None,
        "notes": {"device": device, "parts_that_ran": ran},
        "evidence": "measured",
    }


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Answer with OpenVINO.

    Raises:
        InputError: this machine lacks the device.
    """
    session = _session(request["model"], request["target"], ort_session.options())
    if session is None:
        raise InputError("this machine lacks the device that OpenVINO is asked to use")
    return ort_session.run(session, request)


def _session(model: str, target: dict[str, Any], options: Any) -> Any:
    """A session; None where the provider could not start."""
    asked = {"device_type": "CPU"} | {name: str(target[name]) for name in OPTIONS if name in target}
    try:
        session = ENGINE.InferenceSession(
            model, options, providers=[(PROVIDER, asked), ort_session.CPU]
        )
    except Exception as reason:  # the engine's errors have no base of their own
        raise InputError(f"OpenVINO cannot load the file: {plain(str(reason))}") from None
    return session if PROVIDER in session.get_providers() else None


def _ran(profile: Path) -> int:
    """How many parts of the graph OpenVINO ran."""
    events = json.loads(profile.read_text())
    return len(
        {
            one["name"]
            for one in events
            if one.get("cat") == "Node"
            and one["name"].endswith("_kernel_time")
            and one.get("args", {}).get("provider") == PROVIDER
        }
    )


def _unknown(why: str) -> dict[str, Any]:
    return {
        "nodes": [],
        "partitions": None,
        "estimated_ms": None,
        "estimate": "",
        "compiled": None,
        "notes": {},
        "evidence": "unknown",
        "why": why,
    }
