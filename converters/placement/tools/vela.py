"""Arm's Vela compiler for Ethos-U NPUs: what it compiles, what it leaves to the CPU and why.

`target` may give `accelerator_config` (ethos-u65-256), `system_config` and `memory_mode` (sections
of Vela's vela.ini), and `config`, the path of another such file; what is not given is Vela's own
choice. Of several entry points all are placed.

Vela's debug database says for each operator of the source file, by its number, what became of it;
"Passthrough" is the CPU's. Reasons are its warnings. Its time is its own estimate of the NPU's
part: what the CPU does between is not in it.

Source: `vela --help`, and what Vela 5.2.0 writes with --enable-debug-db.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import importlib.metadata
import math
import os
import re
import sys
import tempfile
import xml.etree.ElementTree as Xml
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edge_runtime.errors import InputError
from edge_runtime.text import plain

OPTIONS = {
    "accelerator_config": "--accelerator-config",
    "system_config": "--system-config",
    "memory_mode": "--memory-mode",
    "config": "--config",
}
DEFAULT_CONFIG = "Arm/vela.ini"
CPU = "Passthrough"
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
ACTIVATIONS = ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "TANH")
NPU = b"ethos-u"
FLOATS = (0, 1, 10)
"""TensorType's FLOAT32, FLOAT16 and FLOAT64."""
WARNING = re.compile(
    r"^Warning \(supported operators\) operator: (\S+), ofm: '([^']*)'\n"
    r"Reason: (.*)\n((?:\S.*\n)*)",
    re.MULTILINE,
)
OUR_NAME = re.compile(r"(DataType \w+) \(.*\)$")
"""Vela names the tensor in brackets; names are not part of why."""
UNSAID = "Vela leaves it to the CPU and does not say why"
KIB = 1024


class _Operator(NamedTuple):
    """`counts` is whether it is a node: conversions from and to float at the edges are not."""

    kind: str
    output: str
    counts: bool


def hello() -> dict[str, Any]:
    """The compiler and its version; fails where it cannot be imported."""
    from ethosu.vela import vela

    assert vela.main
    return {"tool": f"ethos-u-vela {importlib.metadata.version('ethos-u-vela')}"}


def place(request: dict[str, Any]) -> dict[str, Any]:
    """See `converters.placement.worker`.

    Raises:
        InputError: a dim other than the batch is free, an option is not Vela's, or Vela fails.
    """
    model, folder = Path(request["model"]), Path(request["folder"])
    graphs = _operators(model)
    said = _compile([*_options(request["target"]), "--output-dir", str(folder)], model)
    tables = _tables(folder / f"{model.stem}_debug.xml")
    nodes = _nodes(graphs, tables, _reasons(said))
    compiled = folder / f"{model.stem}_vela.tflite"
    summary = _summary(folder)
    seconds = float(summary["inference_time"])
    return {
        "nodes": nodes,
        "partitions": _partitions(compiled),
        "estimated_ms": seconds * 1000 if math.isfinite(seconds) and seconds > 0 else None,
        "estimate": "Vela's estimate of the NPU's part, from its model of the chip; what runs on "
        "the CPU is not in it",
        "compiled": str(compiled),
        "notes": {
            "accelerator_config": summary["accelerator_configuration"],
            "system_config": summary["system_config"],
            "memory_mode": summary["memory_mode"],
            "sram_bytes": round(float(summary["sram_memory_used"]) * KIB),
            "dram_bytes": round(float(summary["dram_memory_used"]) * KIB),
            "flash_bytes": round(float(summary["off_chip_flash_memory_used"]) * KIB),
            "weights_bytes": int(summary["total_npu_encoded_weights"]),
            "macs": int(summary["nn_macs"]),
        },
    }


def _nodes(
    graphs: Sequence[Sequence[_Operator]],
    tables: dict[str, list[dict[str, str]]],
    reasons: dict[tuple[str, str], list[str]],
) -> list[dict[str, Any]]:
    """What became of each operator; one of which Vela made nothing computes nothing."""
    fates: defaultdict[str, set[str]] = defaultdict(set)
    for row in tables["optimised"]:
        fates[row["source_id"]].add(row["operator"])
    nodes = []
    graph, last = 0, -1
    for row in tables["source"]:
        number = int(row["ext_key"])
        graph, last = graph + (number <= last), number
        operator = graphs[graph][number]
        off = CPU in fates[row["id"]]
        reason = _reason(operator, reasons) if off else ""
        if fates[row["id"]] and operator.counts:
            where = f"{graph}:{number}" if len(graphs) > 1 else str(number)
            nodes.append({"name": f"{operator.kind} #{where}", "operator": operator.kind,
                          "on": not off, "reason": reason})  # fmt: skip
    return nodes


def _reason(operator: _Operator, reasons: dict[tuple[str, str], list[str]]) -> str:
    """Vela's reason for `operator`, or for the activation that the file has fused into it."""
    for kind in (operator.kind, *ACTIVATIONS):
        if waiting := reasons.get((kind, operator.output)):
            # It walks from the outputs to the inputs: what it said last is of the first operator.
            return waiting.pop()
    return UNSAID


def _options(target: dict[str, Any]) -> list[str]:
    unknown = sorted(set(target) - set(OPTIONS))
    if unknown:
        raise InputError(f"vela: {unknown[0]} is no option of it; it has {', '.join(OPTIONS)}")
    given = {"config": DEFAULT_CONFIG, **target}
    return [word for key, value in given.items() for word in (OPTIONS[key], str(value))]


def _compile(options: list[str], model: Path) -> str:
    """Run Vela in this process; returns what it said, in C++ too."""
    from ethosu.vela import vela

    arguments = [*options, "--enable-debug-db", str(model)]
    try:
        with _heard() as ear:
            try:
                code = vela.main(arguments)
            except SystemExit as ended:  # argparse's, and Vela's own way to refuse
                code = ended.code
            said = ear()
    except Exception as reason:  # Vela's own kinds, and plain errors of its passes
        raise InputError(f"vela fails on {model.name}: {reason}") from None
    if code not in (0, None):
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        telling = [line for line in lines if "rror" in line] or lines or [f"exit code {code}"]
        raise InputError(f"vela refuses {model.name}: {telling[-1]}")
    return said


@contextlib.contextmanager
def _heard() -> Iterator[Callable[[], str]]:
    """Catch both outputs, of C++ too; the value is a function that gives them."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)

        def ear() -> str:
            sys.stdout.flush()
            sys.stderr.flush()
            ctypes.CDLL(None).fflush(None)
            sink.seek(0)
            return sink.read().decode(errors="replace")

        try:
            yield ear
        finally:
            for place_, source in zip((1, 2), kept, strict=True):
                os.dup2(source, place_)
                os.close(source)


def _reasons(said: str) -> defaultdict[tuple[str, str], list[str]]:
    """Vela's reasons by operator and first output, in its order."""
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, output, first, rest in WARNING.findall(said):
        words = [OUR_NAME.sub(r"\1", first), *rest.splitlines()]
        found[kind, output].append(plain("; ".join(" ".join(one.split()) for one in words if one)))
    return found


def _tables(path: Path) -> dict[str, list[dict[str, str]]]:
    """The debug database: tables of named columns, CSV inside of XML."""
    root = Xml.parse(path).getroot()
    found = {
        table.get("name", ""): list(csv.DictReader((table.text or "").strip().splitlines()))
        for table in root.iter("table")
    }
    return {name: found.get(name, []) for name in ("source", "optimised")}


def _summary(folder: Path) -> dict[str, str]:
    (path,) = folder.glob("*_summary_*.csv")
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    return row


def _operators(model: Path) -> list[list[_Operator]]:
    """Of each entry point of the file, its operators in their order."""
    names = _operator_names()
    file = _opened(model)
    return [
        [
            _operator(file, graph, graph.Operators(number), names)
            for number in range(graph.OperatorsLength())
        ]
        for graph in _graphs(file, model)
    ]


def _graphs(file: Any, model: Path) -> Iterator[Any]:
    for place_ in range(file.SubgraphsLength()):
        graph = file.Subgraphs(place_)
        _check_fixed(graph, model)
        yield graph


def _operator(file: Any, graph: Any, one: Any, names: dict[int, str]) -> _Operator:
    code = file.OperatorCodes(one.OpcodeIndex())
    kind = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    output = graph.Tensors(one.Outputs(0))
    source = graph.Tensors(one.Inputs(0)) if one.InputsLength() else output
    edge = kind in CONVERSIONS and bool({source.Type(), output.Type()} & set(FLOATS))
    return _Operator(kind, (output.Name() or b"").decode(errors="replace"), not edge)


def _check_fixed(graph: Any, model: Path) -> None:
    for number in range(graph.InputsLength()):
        tensor = graph.Tensors(graph.Inputs(number))
        shape = [tensor.ShapeSignature(n) for n in range(tensor.ShapeSignatureLength())]
        if any(size < 0 for size in shape[1:]):
            name = plain((tensor.Name() or b"").decode(errors="replace"))
            raise InputError(
                f"{model.name}: input {name} has the shape {shape}; only the first dim may be free"
            )


def _partitions(compiled: Path) -> int:
    """How many parts of the compiled file are the NPU's."""
    file = _opened(compiled)
    codes = [file.OperatorCodes(n).CustomCode() for n in range(file.OperatorCodesLength())]
    return sum(
        codes[file.Subgraphs(place_).Operators(n).OpcodeIndex()] == NPU
        for place_ in range(file.SubgraphsLength())
        for n in range(file.Subgraphs(place_).OperatorsLength())
    )


def _opened(path: Path) -> Any:
    from ethosu.vela.tflite.Model import Model

    return Model.GetRootAsModel(path.read_bytes(), 0)


def _operator_names() -> dict[int, str]:
    from ethosu.vela.tflite.BuiltinOperator import BuiltinOperator

    return {code: name for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}
