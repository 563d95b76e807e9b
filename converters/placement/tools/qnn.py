"""Qualcomm's Hexagon: ONNX Runtime's QNN plug-in, which holds the compiler and an emulator.

First the whole file is compiled with the CPU forbidden; where that works every node is on, and the
context binary is what a board loads. Where it does not, the file is compiled again with the CPU
allowed: the engine's record says who got which node, and QNN's own log why not. The emulator
answers as the chip does, in its own time: no latency is learned from it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime_qnn

from converters.placement.tools import onnx_graph, ort_session
from converters.placement.tools.onnx_graph import Fate
from converters.placement.tools.ort_session import ENGINE
from converters.placement.tools.spoken import said
from edge_runtime.errors import InputError
from edge_runtime.text import plain

PROVIDER = onnxruntime_qnn.get_ep_name()
TARGET = ("htp_arch", "soc_model", "htp_graph_finalization_optimization_mode", "vtcm_mb")
ONLY = {"session.disable_cpu_ep_fallback": "1"}
FAILED = re.compile(r"Validation FAILED for \d+ nodes? in ")
NODE = re.compile(r"\tOperator type: (\S*) Node name: (.*) Node index: \d+$")
REASON = re.compile(r"\tREASON : (.*)$")
REFUSED = re.compile(r"failed for node `.*` of type `(\w+)` with error code (\d+)")
TENSOR = re.compile(r"^ name=.* dataType=QNN_DATATYPE_(\w+)")
NAMING = re.compile(r"\.\w+ node `.*` will not be assigned.*")
"""The node's name once more, at the end of a reason."""
EMPTY = re.compile(r"Failed to add (?:fused )?\w* ?node\.|CreateQnnNode failed\.?")
"""What the plug-in says where QNN itself refused; the lines before tell more."""
SILENT = "QNN left it to the CPU and gave no reason"


def hello() -> dict[str, Any]:
    """Name and versions."""
    return {
        "tool": f"onnxruntime-qnn {onnxruntime_qnn.__version__} "
        f"with onnxruntime {ENGINE.__version__}"
    }


def place(request: dict[str, Any]) -> dict[str, Any]:
    """Compile; see the module.

    Raises:
        InputError: a free size, no htp_arch in the target, or no ONNX.
    """
    path, folder = Path(request["model"]), Path(request["folder"])
    model = onnx_graph.read(str(path))
    onnx_graph.refuse_free(model, "QNN")
    asked = _target(request["target"])
    nodes = onnx_graph.operators(model)
    compiled = folder / f"{path.stem}.qnn.onnx"
    try:
        _compile(path, compiled, asked, ONLY)
    except _NotTaken as reason:
        placed = _by_node(path, folder, model, compiled, asked, str(reason))
    else:
        placed = {
            "nodes": onnx_graph.told(nodes, {node.name: Fate(True) for node in nodes}),
            "partitions": 1,
            "compiled": str(compiled),
        }
    return {
        **placed,
        "estimated_ms": None,
        "estimate": "QNN gives no time without the chip",
        "notes": {
            "target": asked,
            "context_bytes": compiled.stat().st_size if placed["compiled"] else 0,
        },
    }


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Answer in the emulator; what QNN does not take runs on the CPU, as on the board."""
    asked = _target(request["target"])
    session = _session(request["model"], asked, ort_session.options())
    return ort_session.run(session, request)


class _NotTaken(Exception):
    """QNN, or the engine around it, refused to make a session; the text is the engine's."""


def _target(target: dict[str, Any]) -> dict[str, str]:
    if "htp_arch" not in target:
        raise InputError("QNN needs htp_arch in the engine's target, as 68 or 73")
    return {name: str(target[name]) for name in TARGET if name in target}


def _session(model: str, asked: dict[str, str], options: Any) -> Any:
    """A session of the plug-in's.

    Raises:
        InputError: the plug-in does not start here.
    """
    devices = [one for one in _devices() if one.ep_name == PROVIDER]
    if not devices:
        raise InputError("onnxruntime-qnn offers no device on this machine")
    options.add_provider_for_devices(
        devices[:1], {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **asked}
    )
    return ENGINE.InferenceSession(model, options)


def _devices() -> Sequence[Any]:
    found: Sequence[Any] = ENGINE.get_ep_devices()
    if not any(one.ep_name == PROVIDER for one in found):
        ENGINE.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
        found = ENGINE.get_ep_devices()
    return found


def _compile(path: Path, out: Path, asked: dict[str, str], entries: dict[str, str]) -> Any:
    """The session that wrote the context binary to `out`, inside an ONNX file."""
    out.unlink(missing_ok=True)  # the engine refuses to write over one
    options = ort_session.options(
        severity=ort_session.ERRORS if entries else ort_session.VERBOSE,
        **{
            "ep.context_enable": "1",
            "ep.context_embed_mode": "1",
            "ep.context_file_path": str(out),
            **entries,
        },
    )
    try:
        session = _session(str(path), asked, options)
    except InputError:
        raise
    except Exception as reason:  # the engine's errors have no base of their own
        raise _NotTaken(plain(str(reason))) from None
    if not out.is_file():
        raise _NotTaken("QNN took no node")
    return session


def _by_node(
    path: Path, folder: Path, model: Any, compiled: Path, asked: dict[str, str], whole: str
) -> dict[str, Any]:
    """Which nodes are on with the CPU allowed; `whole` is why the file as a whole was refused."""
    prepared = folder / f"{path.stem}.prepared.onnx"
    after = ort_session.basic(model, prepared)
    failure, session = whole, None
    with said() as lines:
        try:
            session = _compile(prepared, compiled, asked, {})
        except _NotTaken as reason:
            failure = str(reason)
    reasons = _reasons(lines)
    parts = 0
    if session is None:
        default = f"the file has no session with QNN: {failure}"
        names = [node.name for node in onnx_graph.operators(after)]
        fates = {name: Fate(False, reasons.get(name, default)) for name in names}
    else:
        fates = ort_session.fates(session, PROVIDER, reasons, SILENT)
        parts = ort_session.assigned(session)[1].get(PROVIDER, 0)
    nodes = onnx_graph.operators(model)
    found = onnx_graph.spread(model, after, fates)
    lost = Fate(False, SILENT)
    return {
        "nodes": onnx_graph.told(nodes, {one.name: found.get(one.name, lost) for one in nodes}),
        "partitions": parts,
        "compiled": None if session is None else str(compiled),
    }


def _reasons(lines: Sequence[str]) -> dict[str, str]:
    """Node → why QNN did not take it, by its log: the last word on each counts.

    The plug-in names a unit (an operator with the quantizers around it), and a reason that is
    empty where QNN itself refused; its types stand in the lines before.
    """
    found: dict[str, str] = {}
    inside, refused = False, ""
    names: list[str] = []
    tensors: list[str] = []
    for line in lines:
        if FAILED.search(line):
            inside, names = True, []
        elif inside and (node := NODE.match(line)):
            if node[1] not in onnx_graph.SILENT:
                names.append(onnx_graph.plain_name(node[2]))
        elif inside and (reason := REASON.match(line)):
            told = NAMING.sub(".", reason[1].strip())
            found |= dict.fromkeys(
                names, refused if refused and EMPTY.fullmatch(told) else plain(told)
            )
            inside, refused = False, ""
        elif "Qnn_OpConfig node name" in line:
            tensors = []
        elif tensor := TENSOR.match(line):
            tensors.append(tensor[1].lower().removeprefix("qnn_"))
        elif code := REFUSED.search(line):
            refused = (
                f"QNN refuses {code[1]} of {' and '.join(sorted(set(tensors)))} on this chip "
                f"(error {code[2]})"
            )
        elif "Validation PASSED" in line:
            inside, refused = False, ""
    return found
