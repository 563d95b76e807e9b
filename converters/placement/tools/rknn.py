"""Rockchip's NPUs: rknn-toolkit2 builds the file, tells layer by layer who runs it, and simulates.

A file with quantizers keeps its own scales. A file of floats is quantized by the toolkit where the
request carries calibration samples ("calibration": .npz, for each input an array (samples, …) of
what it gets, its batch of 1 included), and runs in half floats otherwise. Which layer goes to the
NPU stands in the table that the toolkit prints. Its cycles are no time: that takes a board. The
simulator answers for what was built, never for a compiled file; the last build is kept for the
next rows.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from converters.placement.tools import arrays, onnx_graph
from converters.placement.tools.onnx_graph import Fate
from converters.placement.tools.spoken import said
from edge_runtime.errors import InputError
from edge_runtime.text import plain

MAX_OPSET = 19
MAX_SAMPLES = 512
EPSILON = 1e-5
"""ONNX's own for LayerNormalization; the toolkit wants it written down."""
ROW = re.compile(
    r"\] \d+ +(?P<operator>\S+) +(?P<type>\S+) +(?P<target>[A-Z]PU) "
    r".* \d+/\d+/\d+ +\S+ *(?P<name>.*)$"
)
MADE = re.compile(r"(#\d+|_2[a-z]\w*)+$")
"""What the toolkit appends where it makes other layers of a node."""
ENDS = ("InputOperator", "OutputOperator")
COLOUR = re.compile(r"\x1b\[[\d;]*m")
FAULT = re.compile(r"^E (?!rknn-toolkit2 version|\w+:$|.*Unkown op target)(?:RKNN: )?(.+)$")
TRACE = "Traceback (most recent call last):"
LOG = "rknn_log."
"""The toolkit's module that raises what was logged as an error."""
FRAME = re.compile(r'^ +File ".*", line \d+, in (.+)$')


def hello() -> dict[str, Any]:
    """Name and version."""
    return {"tool": f"rknn-toolkit2 {version('rknn-toolkit2')}"}


def place(request: dict[str, Any]) -> dict[str, Any]:
    """Build, and read the table.

    Raises:
        InputError: a free size, a newer opset, an operator of a vendor's, an unknown chip, or the
            toolkit refuses the file.
    """
    compiled = Path(request["folder"]) / f"{Path(request['model']).stem}.rknn"
    with contextlib.closing(_Build(request)) as build:
        build.step("write the file", lambda toolkit: toolkit.export_rknn(str(compiled.absolute())))
    layers = _layers(build.lines)
    if not layers:
        raise InputError("rknn-toolkit2 printed no table of layers: nobody knows what runs where")
    nodes = onnx_graph.operators(build.model)
    names = {node.name for node in nodes}
    on_cpu = {_node(one, names): one for one in layers if not one.on}
    fates = {
        node.name: Fate(False, _why(on_cpu[node.name])) if node.name in on_cpu else Fate(True)
        for node in nodes
    }
    kinds = [one.type for one in layers if one.on]
    return {
        "nodes": onnx_graph.told(nodes, fates),
        "partitions": sum(
            one.on and not before.on for before, one in zip((_START, *layers), layers, strict=False)
        ),
        "estimated_ms": None,
        "estimate": "rknn-toolkit2 counts cycles only, no time without a board",
        "compiled": str(compiled),
        "notes": {
            "layers": len(layers),
            "layers_made_by_the_toolkit_on_the_cpu": [
                one.name for one in layers if not one.on and _node(one, names) is None
            ],
            "types_on_the_npu": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        },
    }


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Answer in the toolkit's simulator, which rounds as the chip does.

    Raises:
        InputError: as `place`, or an input is missing.
    """
    feeds = arrays.load(request["feeds"])
    build = _simulator(request)
    wanted = _inputs(build.model)
    if missing := [name for name in wanted if name not in feeds]:
        raise InputError(f"input {missing[0]} is missing from the feeds")
    answers: list[Any] = []

    def infer(toolkit: Any) -> bool:
        # "nchw" is the toolkit's word for "as the file has it".
        found = toolkit.inference(
            inputs=[feeds[name] for name in wanted], data_format=["nchw"] * len(wanted)
        )
        answers.extend(found or ())
        return found is None

    build.step("simulate it", infer)
    named = zip([one.name for one in build.model.graph.output], answers, strict=True)
    arrays.save(request["answers"], dict(named))
    return {}


_kept: dict[str, _Build] = {}
"""The build that the simulator answers for, by what it was made of; one at a time."""


def _simulator(request: dict[str, Any]) -> _Build:
    """The build of what is asked about, ready to simulate."""
    files = [Path(request[name]) for name in ("model", "calibration") if name in request]
    key = json.dumps(
        [request["target"], [(str(one), one.stat().st_mtime_ns) for one in files]], sort_keys=True
    )
    if key not in _kept:
        _forget()
        build = _Build(request)
        try:
            build.step("start its simulator", lambda toolkit: toolkit.init_runtime())
        except BaseException:
            build.close()
            raise
        _kept[key] = build
    return _kept[key]


@atexit.register
def _forget() -> None:
    while _kept:
        _kept.popitem()[1].close()


@dataclass(frozen=True, slots=True)
class _Layer:
    """A row of the table; `name` is that of a node, of a tensor, or made of one."""

    operator: str
    type: str
    on: bool
    name: str


_START = _Layer("", "", False, "")


class _Build:
    """The toolkit with a file that it has built; `lines` is what it printed so far."""

    def __init__(self, request: dict[str, Any]) -> None:
        from rknn.api import RKNN

        self.model = onnx_graph.read(request["model"])
        _refuse(self.model)
        platform = str(request["target"].get("target_platform", ""))
        if not platform:
            raise InputError(
                "rknn-toolkit2 needs target_platform in the engine's target, as rk3588"
            )
        self.lines: list[str] = []
        self._toolkit: Any = None
        # Not the request's folder, which goes with the request.
        self._scratch = tempfile.TemporaryDirectory(prefix="rknn-")
        self._folder = Path(self._scratch.name)
        try:
            prepared = self._folder / "prepared.onnx"
            onnx_graph.write(_with_epsilons(self.model), prepared)
            samples = _samples(request, self.model, self._folder)
            with said() as lines:
                self._toolkit = RKNN(verbose=True)
            self.lines += lines
            self.step("take this chip", lambda kit: kit.config(target_platform=platform))
            self.step("read the file", lambda kit: kit.load_onnx(model=str(prepared)))
            self.step("build it", lambda kit: kit.build(samples is not None, samples))
        except BaseException:
            self.close()
            raise

    def step(self, what: str, do: Callable[[Any], Any]) -> None:
        """`do` something with the toolkit, which tells a failure by what is not zero.

        Raises:
            InputError: it failed; says at what, and the first thing that the toolkit says of it.
        """
        failed, fault = False, ""
        with said() as lines, _inside(self._folder):
            try:
                failed = bool(do(self._toolkit))
            except (Exception, SystemExit) as reason:  # it exits where it dislikes an argument
                failed, fault = True, str(reason)
        self.lines += lines
        if failed:
            raise InputError(f"rknn-toolkit2 cannot {what}: {plain(_first_error(lines, fault))}")

    def close(self) -> None:
        """Free what the toolkit holds."""
        with said(), contextlib.suppress(Exception):
            self._toolkit.release()
        self._scratch.cleanup()


def _refuse(model: Any) -> None:
    """Say what is known to fail, and fails in there with a traceback.

    Raises:
        InputError: a free size, a newer opset, an operator of a vendor's.
    """
    onnx_graph.refuse_free(model, "rknn-toolkit2")
    if onnx_graph.opset(model) > MAX_OPSET:
        raise InputError(
            f"rknn-toolkit2 reads opset {MAX_OPSET} and older, the file has "
            f"{onnx_graph.opset(model)}"
        )
    foreign = Counter(
        f"{node.domain}.{node.op_type}"
        for node in model.graph.node
        if node.domain not in onnx_graph.DOMAINS
    )
    if foreign:
        told = ", ".join(f"{name} x{count}" for name, count in foreign.most_common())
        raise InputError(f"rknn-toolkit2 knows ONNX's own operators only, the file has {told}")


def _first_error(lines: Sequence[str], fault: str) -> str:
    """The first error among what was printed, else what was raised; of a traceback its end."""
    told = [COLOUR.sub("", line).rstrip() for line in (*lines, *fault.splitlines())]
    for place, line in enumerate(told):
        if TRACE in line:
            return _end_of_trace(told[place + 1 :])
        if found := FAULT.match(line):
            return found[1]
    return fault or "it gave no reason"


def _end_of_trace(told: Sequence[str]) -> str:
    """What was raised, and in which of the toolkit's functions."""
    where = ""
    for line in told:
        if frame := FRAME.match(line):
            where = where if LOG in frame[1] else f" (in {frame[1]})"
        elif line and not line.startswith(" "):
            return line.rstrip(":") + where
    return "it gave no reason" + where


def _layers(lines: Sequence[str]) -> list[_Layer]:
    """The table's rows, without the ends of the graph."""
    found = []
    for line in lines:
        row = ROW.search(COLOUR.sub("", line).rstrip())
        if row and row["operator"] not in ENDS:
            name = row["name"].strip().partition(":")[2]
            found.append(_Layer(row["operator"], row["type"], row["target"] == "NPU", name))
    return found


def _node(layer: _Layer, names: set[str]) -> str | None:
    """The node of the file that the layer is; None where the toolkit added it."""
    if layer.name in names:
        return layer.name
    bare = MADE.sub("", layer.name)
    return bare if bare in names else None


def _why(layer: _Layer) -> str:
    return f"the toolkit runs {layer.operator} on the CPU only, and gives no reason"


def _inputs(model: Any) -> list[str]:
    weights = {one.name for one in model.graph.initializer}
    return [one.name for one in model.graph.input if one.name not in weights]


def _with_epsilons(model: Any) -> Any:
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" and not any(
            one.name == "epsilon" for one in node.attribute
        ):
            node.attribute.append(onnx.helper.make_attribute("epsilon", EPSILON))
    return model


def _samples(request: dict[str, Any], model: Any, folder: Path) -> str | None:
    """The toolkit's list of calibration samples; None where the file shall not be quantized.

    Raises:
        InputError: there are samples, and the file has quantizers; or an input has none.
    """
    if "calibration" not in request:
        return None
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise InputError("the file is quantized: rknn-toolkit2 calibrates files of floats only")
    stacked = arrays.load(request["calibration"])
    names = _inputs(model)
    if missing := [name for name in names if name not in stacked]:
        raise InputError(f"input {missing[0]} has no calibration samples")
    count = min(MAX_SAMPLES, *(len(stacked[name]) for name in names))
    rows = []
    for index in range(count):
        paths = [folder / f"sample-{index}-{place}.npy" for place in range(len(names))]
        for path, name in zip(paths, names, strict=True):
            np.save(path, stacked[name][index])
        rows.append(" ".join(map(str, paths)))
    listed = folder / "samples.txt"
    listed.write_text("\n".join(rows) + "\n")
    return str(listed)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """With `folder` as the current one: the toolkit leaves files where it stands."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
