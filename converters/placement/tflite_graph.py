"""A .tflite file as rules want to see it: operators with their tensors, options and constants.

Names of operators are TFLite's own (CONV_2D); custom ones are CUSTOM:<name>. Shapes are the file's,
with -1 for a dim that is free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.model_files import read_tflite
from edge_runtime.errors import InputError
from edge_runtime.inference.backend import Tensor as Array

FLOATS = ("FLOAT32", "FLOAT16", "FLOAT64", "BFLOAT16")
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
DTYPES = {"INT8": "<i1", "UINT8": "<u1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
          "FLOAT32": "<f4"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """`data` are the bytes of a constant, None of what is computed; `scales` how many it has."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scales: int
    data: bytes | None

    @property
    def constant(self) -> bool:
        """Whether its values stand in the file."""
        return self.data is not None

    @property
    def values(self) -> Array | None:
        """The constant; None of what is computed, or of a type that has no numpy type."""
        if self.data is None or self.dtype not in DTYPES:
            return None
        return np.frombuffer(self.data, dtype=DTYPES[self.dtype]).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator. `inputs` has None where an optional one is left out.

    `activation` is the fused one, "NONE" without; `options` the table of its kind, read by name.
    """

    index: int
    name: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    activation: str
    options: Any

    @property
    def title(self) -> str:
        """Unique in its graph."""
        return f"{self.name} #{self.index}"

    def option(self, name: str, missing: Any = 0) -> Any:
        """The option called `name`, or `missing` where this kind of operator has none."""
        return getattr(self.options, name, missing)

    @property
    def converts_float(self) -> bool:
        """Whether it only brings numbers from or to float: no node of its own."""
        used = (*self.inputs, *self.outputs)
        return self.name in CONVERSIONS and any(one and one.dtype in FLOATS for one in used)


@dataclass(frozen=True, slots=True)
class Graph:
    """One entry point, its operators in the order in which they run."""

    operators: tuple[Operator, ...]
    inputs: tuple[Tensor, ...]


def read_graphs(path: Path) -> tuple[Graph, ...]:
    """Every entry point of the file at `path`.

    Raises:
        InputError: it is not a whole .tflite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    file: Any = schema.ModelT.InitFromPackedBuf(read_tflite(path), 0)
    kinds = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    types = {code: name for name, code in vars(schema.TensorType).items()}
    activations = {code: name for name, code in vars(schema.ActivationFunctionType).items()}
    codes = [_code(code, kinds) for code in file.operatorCodes]
    graphs = []
    for one in file.subgraphs:
        tensors = [_tensor(tensor, file.buffers, types) for tensor in one.tensors]
        operators = tuple(
            Operator(
                index,
                codes[operator.opcodeIndex],
                tuple(None if n < 0 else tensors[n] for n in _numbers(operator.inputs)),
                tuple(tensors[n] for n in _numbers(operator.outputs)),
                activations[getattr(operator.builtinOptions, "fusedActivationFunction", 0) or 0],
                operator.builtinOptions,
            )
            for index, operator in enumerate(one.operators or ())
        )
        graphs.append(Graph(operators, tuple(tensors[n] for n in _numbers(one.inputs))))
    return tuple(graphs)


def custom_operators(path: Path) -> frozenset[str]:
    """Names of the custom operators that the file at `path` may call.

    Raises:
        InputError: it is not a whole .tflite file, or has no operators.
    """
    from ai_edge_litert import schema_py_generated as schema

    file: Any = schema.Model.GetRootAs(read_tflite(path), 0)
    if not any(file.Subgraphs(n).OperatorsLength() for n in range(file.SubgraphsLength())):
        raise InputError(f"model {path.name}: it has no operators")
    codes = (file.OperatorCodes(n).CustomCode() for n in range(file.OperatorCodesLength()))
    return frozenset(code.decode(errors="replace") for code in codes if code)


def weights_bytes(graphs: Sequence[Graph]) -> int:
    """Of all constants; what entry points share counts once."""
    seen = {
        id(tensor.data): len(tensor.data)
        for graph in graphs
        for operator in graph.operators
        for tensor in operator.inputs
        if tensor is not None and tensor.data is not None
    }
    return sum(seen.values())


def _numbers(found: Any) -> list[int]:
    return [] if found is None else [int(one) for one in found]


def _code(code: Any, kinds: Mapping[int, str]) -> str:
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    name = kinds.get(number, f"OPERATOR_{number}")
    if name == "CUSTOM":
        name = f"CUSTOM:{(code.customCode or b'').decode(errors='replace')}"
    return name


def _tensor(tensor: Any, buffers: Sequence[Any], types: Mapping[int, str]) -> Tensor:
    held = buffers[tensor.buffer].data if tensor.buffer else None
    signature = _numbers(tensor.shapeSignature)
    scales = getattr(tensor.quantization, "scale", None)
    return Tensor(
        (tensor.name or b"").decode(errors="replace"),
        types.get(tensor.type, str(tensor.type)),
        tuple(signature or _numbers(tensor.shape)),
        0 if scales is None else len(scales),
        None if held is None or not len(held) else _bytes(buffers[tensor.buffer]),
    )


def _bytes(buffer: Any) -> bytes:
    """The buffer's bytes, the same object for every tensor that shares it."""
    if not isinstance(buffer.data, bytes):
        buffer.data = bytes(buffer.data)
    found: bytes = buffer.data
    return found
