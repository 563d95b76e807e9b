"""Operators of model files: how many of each, which an engine does not know, which are in float.

Files come from `model_files`, which has looked at them before anything here reads them. Names are
those of the format; operators outside of ONNX's own domain have it in front, as in
`com.microsoft:Attention`, and custom ones of LiteRT are `CUSTOM:<name>`, or the name alone where
TensorFlow's own kernels are asked for (`FlexErf`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.model_files import IDENTIFIER, check_tflite, read_onnx, read_tflite
from converters.ort import load_engine
from converters.tflite_versions import TFLITE_RUNTIME_2_14
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import onnx

__all__ = [
    "RUNTIMES",
    "check_onnx",
    "check_runtime",
    "float_operators",
    "operators_of",
    "read_onnx",
    "read_tflite",
    "tflite_operators",
    "unknown_onnx",
    "unknown_tflite",
]

OWN = ("", "ai.onnx")
"""ONNX's own domain has two spellings."""
FLEX = "Flex"
FOR_EVER = 2**31 - 1
FOLDED = ("Constant",)
"""Without a kernel: the engine makes constants of them when it loads the graph."""
RUNTIMES: Mapping[str, Mapping[str, tuple[int, int]]] = {"tflite-runtime": TFLITE_RUNTIME_2_14}
"""Runtime whose operators are counted → operator → first and last version that it has."""


def operators_of(model: onnx.ModelProto | bytes | Path) -> Mapping[str, int]:
    """Operator → how many, most frequent first; those in subgraphs and functions included.

    Raises:
        InputError: not a whole model file.
    """
    if isinstance(model, Path):
        model = read_tflite(model) if _is_tflite(model) else read_onnx(model)
    if isinstance(model, bytes):
        if model[4:8] == IDENTIFIER:
            check_tflite(model, "model")
            return _counted(one.name for one in tflite_operators(model))
        import onnx
        from google.protobuf.message import DecodeError

        try:
            model = onnx.load_from_string(model)
        except (DecodeError, ValueError):
            raise InputError("model: is neither a .tflite nor an ONNX file") from None
    return _counted(_full(node.domain, node.op_type) for node in onnx_nodes(model))


def _is_tflite(path: Path) -> bool:
    try:
        with path.open("rb") as opened:
            return opened.read(8)[4:] == IDENTIFIER
    except OSError as reason:
        raise InputError(f"model {path.name}: cannot be read ({reason.strerror})") from None


def _counted(names: Iterator[str]) -> Mapping[str, int]:
    counts = Counter(names)
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))


def _full(domain: str, name: str) -> str:
    return name if domain in OWN else f"{domain}:{name}"


def onnx_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph, its subgraphs and the model's own functions."""
    yield from _nodes(proto.graph.node)
    for function in proto.functions:
        yield from _nodes(function.node)


def _nodes(nodes: Any) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g.node)
            for graph in attribute.graphs:
                yield from _nodes(graph.node)


def check_onnx(proto: onnx.ModelProto, where: str) -> None:
    """ONNX Runtime knows every operator of the model at its opset.

    Raises:
        InputError: it does not; each is named, with the nearest opset that has it.
    """
    unknown = unknown_onnx(proto)
    if not unknown:
        return
    engine = load_engine().__version__
    opset = _opsets(proto).get("", 1)
    raise InputError(
        f"{where}: ONNX Runtime {engine} does not know {_listed(unknown)} at the model's opset "
        f"{opset}"
    )


def unknown_onnx(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Operators that ONNX Runtime's CPU does not have at the model's opset, each with a hint."""
    opsets = _opsets(proto)
    own = {(one.domain, one.name) for one in proto.functions}
    found: dict[str, None] = {}
    for node in onnx_nodes(proto):
        domain = "" if node.domain in OWN else node.domain
        if (node.domain, node.op_type) in own:
            continue
        hint = _missing(domain, node.op_type, opsets.get(domain, 1))
        if hint is not None:
            found[f"{_full(domain, node.op_type)} ({hint})"] = None
    return tuple(found)


def _opsets(proto: onnx.ModelProto) -> Mapping[str, int]:
    return {"" if one.domain in OWN else one.domain: one.version for one in proto.opset_import}


def _missing(domain: str, name: str, opset: int) -> str | None:
    """None where the engine computes the operator at `opset`, else the nearest opset that does."""
    usable = _usable(domain, name)
    if any(low <= opset <= high for low, high in usable):
        return None
    if not usable:
        known = any(key[0] == domain for key in _schemas())
        if not known and domain:
            return f"the domain {domain} is unknown"
        return "in the standard, but the engine has no CPU kernel" if _known(domain, name) else (
            "in no opset"
        )  # fmt: skip
    nearest = min((edge for span in usable for edge in span), key=lambda edge: abs(edge - opset))
    return f"from opset {nearest}" if nearest > opset else f"until opset {nearest}"


def _known(domain: str, name: str) -> bool:
    return (domain, name) in _schemas()


@cache
def _schemas() -> Mapping[tuple[str, str], Mapping[int, Any]]:
    """(domain, operator) → since which opset → the schema, of the standard and of the engine."""
    import onnx
    from onnxruntime.capi import onnxruntime_pybind11_state as engine

    found: dict[tuple[str, str], dict[int, Any]] = {}
    # The standard's last: it says what is deprecated and what is made of other operators.
    for one in (*engine.get_all_operator_schema(), *onnx.defs.get_all_schemas_with_history()):
        found.setdefault((one.domain, one.name), {})[one.since_version] = one
    return found


@cache
def _kernels() -> Mapping[tuple[str, str], Sequence[tuple[int, int]]]:
    """(domain, operator) → the opsets of each CPU kernel, first and last."""
    load_engine()
    from onnxruntime.capi import onnxruntime_pybind11_state as engine

    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for one in engine.get_all_opkernel_def():
        if one.provider == "CPUExecutionProvider":
            found.setdefault((one.domain, one.op_name), []).append(tuple(one.version_range))
    return found


@cache
def _usable(domain: str, name: str) -> tuple[tuple[int, int], ...]:
    """Spans of opsets at which the operator is defined and computed."""
    load_engine()
    history = sorted(_schemas().get((domain, name), {}).items())
    kernels = _kernels().get((domain, name), ())
    spans = []
    for place, (since, schema) in enumerate(history):
        last = history[place + 1][0] - 1 if place + 1 < len(history) else _newest(domain)
        made_of_others = bool(
            getattr(schema, "has_function", False)
            or getattr(schema, "has_context_dependent_function", False)
        )
        # A kernel without an end is of the version it begins with, whatever came later.
        computed = (
            made_of_others
            or name in FOLDED
            or any(low == since or low < since <= high < FOR_EVER for low, high in kernels)
        )
        if computed and not schema.deprecated:
            spans.append((since, last))
    if not history:  # the engine's own, without a public schema
        spans += kernels
    return tuple(spans)


@cache
def _newest(domain: str) -> int:
    """The newest opset of the domain that both the standard and the engine know."""
    import onnx
    from onnxruntime.capi import onnxruntime_pybind11_state as engine

    if domain:
        return FOR_EVER
    ours = max(one.since_version for one in engine.get_all_operator_schema() if not one.domain)
    return int(min(ours, onnx.defs.onnx_opset_version()))


@dataclass(frozen=True, slots=True)
class TfliteOperator:
    """One operator of a LiteRT file; `is_float` where it reads or writes float numbers."""

    name: str
    version: int
    builtin: bool
    is_float: bool


def tflite_operators(model: bytes) -> tuple[TfliteOperator, ...]:
    """Every operator of every subgraph of a checked file, in the file's order."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    kinds = schema.TensorType
    floats = (kinds.FLOAT32, kinds.FLOAT16, kinds.FLOAT64, kinds.BFLOAT16)
    file = schema.Model.GetRootAs(model)
    codes = [_code(file.OperatorCodes(n), names) for n in range(file.OperatorCodesLength())]
    found = []
    for place in range(file.SubgraphsLength()):
        graph = file.Subgraphs(place)
        types = [graph.Tensors(n).Type() for n in range(graph.TensorsLength())]
        for number in range(graph.OperatorsLength()):
            one = graph.Operators(number)
            used = [one.Inputs(n) for n in range(one.InputsLength())]
            used += [one.Outputs(n) for n in range(one.OutputsLength())]
            name, version, builtin = codes[one.OpcodeIndex()]
            is_float = any(types[tensor] in floats for tensor in used if tensor >= 0)
            found.append(TfliteOperator(name, version, builtin, is_float))
    return tuple(found)


def _code(code: Any, names: Mapping[int, str]) -> tuple[str, int, bool]:
    """Name, version, and whether it is built in."""
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    name = names.get(number, f"OPERATOR_{number}")
    if name != "CUSTOM":
        return name, code.Version(), True
    custom = (code.CustomCode() or b"").decode(errors="replace")
    return custom if custom.startswith(FLEX) else f"CUSTOM:{custom}", code.Version(), False


def float_operators(model: bytes) -> Mapping[str, int]:
    """Operators of a LiteRT file that read or write float numbers → how many; {} where none do."""
    return _counted(one.name for one in tflite_operators(model) if one.is_float)


def unknown_tflite(model: bytes, runtime: str) -> tuple[str, ...]:
    """Operators that `runtime`, a key of RUNTIMES, has not; of others it is not said.

    Custom operators count as unknown: a plain wheel brings none.
    """
    has = RUNTIMES[runtime]
    found: dict[str, None] = {}
    for one in tflite_operators(model):
        low, high = has.get(one.name, (0, 0))
        if not one.builtin or not high:
            found[one.name] = None
        elif not low <= one.version <= high:
            found[f"{one.name} version {one.version} (it has up to {high})"] = None
    return tuple(found)


def check_runtime(model: bytes, runtime: str, where: str) -> None:
    """`runtime` has every operator of the LiteRT file; a runtime without a table has.

    Raises:
        InputError: it has not; each is named.
    """
    unknown = unknown_tflite(model, runtime) if runtime in RUNTIMES else ()
    if unknown:
        raise InputError(
            f"{where}: {runtime} 2.14 does not know {_listed(unknown)}; use ai-edge-litert, or "
            "another quantization"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more
