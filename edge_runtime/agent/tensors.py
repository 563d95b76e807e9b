"""Tensors of the Open Inference Protocol: JSON on one side, numpy on the other.

Whatever a client may write is either a tensor of the type and shape that it claims, or an
InputError that names it. Which tensors a model takes is for others to check.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields, Json
from edge_runtime.inference.backend import Tensor

DATATYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "BYTES": "bytes",
}
"""The protocol's names of types, and ours."""
_NAMES = {ours: theirs for theirs, ours in DATATYPES.items()}
MAX_RANK = 8
MAX_TENSORS = 64
MAX_TEXTS = 64


def read_strings(f: Fields) -> tuple[str, ...]:
    """A BYTES tensor of shape [n] or [n, 1], 1 <= n <= MAX_TEXTS.

    Raises:
        InputError: another type or shape, or an element that is no string.
    """
    datatype, shape = _declared(f)
    name = f.text("name")
    if datatype != "bytes":
        raise InputError(f"{f.where}: {name} must be of datatype BYTES, found {_NAMES[datatype]}")
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise InputError(f"{f.where}: {name} must have the shape [n] or [n, 1], found {shape}")
    if not 1 <= shape[0] <= MAX_TEXTS:
        raise InputError(f"{f.where}: {shape[0]} of {name}, expected 1..{MAX_TEXTS}")
    texts = _flat(f.items("data", max_items=MAX_TEXTS))
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            found = json.dumps(text)[:40]
            raise InputError(f"{f.where}: data[{index}] must be a string, found {found}")
    _check_count(f, shape, len(texts))
    return tuple(texts)


def read_tensor(f: Fields) -> Tensor:
    """A numeric tensor, its data flat or nested.

    Raises:
        InputError: type, shape and data do not agree.
    """
    datatype, shape = _declared(f)
    if datatype == "bytes":
        raise InputError(f"{f.where}: datatype BYTES is for the task's own inputs only")
    wanted = np.dtype(datatype)
    data = f.items("data", max_items=1 << 24)
    _check_numbers(f, data, _NAMES[datatype])
    try:
        values = np.asarray(data)
    except ValueError:
        raise InputError(f"{f.where}: data is nested unevenly") from None
    if values.size == 0:
        values = values.astype(wanted)
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[wanted.kind]
    if values.dtype.kind not in kinds:
        raise InputError(f"{f.where}: data must hold nothing but {_NAMES[datatype]} values")
    if values.ndim > 1 and list(values.shape) != shape:
        raise InputError(f"{f.where}: data is nested as {list(values.shape)}, shape says {shape}")
    _check_count(f, shape, values.size)
    with np.errstate(over="ignore"):
        cast = values.astype(wanted)
    fits = np.isfinite(cast).all() if wanted.kind == "f" else (cast == values).all()
    if not fits:
        raise InputError(f"{f.where}: data holds a value out of the range of {_NAMES[datatype]}")
    return cast.reshape(shape)


def _check_numbers(f: Fields, data: Sequence[Any], wanted: str, depth: int = 1) -> None:
    """Before numpy sees them: it gives every string of a list the room of the longest."""
    kinds = set(map(type, data))
    if kinds <= {bool, int, float}:
        return
    if kinds != {list}:
        if list in kinds:
            raise InputError(f"{f.where}: data is nested unevenly")
        raise InputError(f"{f.where}: data must hold nothing but {wanted} values")
    if depth == MAX_RANK:
        raise InputError(f"{f.where}: data is nested deeper than {MAX_RANK} levels")
    for row in data:
        _check_numbers(f, row, wanted, depth + 1)


def write_tensor(name: str, value: Tensor) -> dict[str, Json]:
    """The object of an output; its numbers are finite (see `serving`)."""
    return {
        "name": name,
        "datatype": _NAMES[value.dtype.name],
        "shape": list(value.shape),
        "data": value.ravel().tolist(),
    }


def write_texts(name: str, shape: Sequence[int], texts: Sequence[str]) -> dict[str, Json]:
    """The object of a BYTES output; `texts` are in row-major order."""
    return {"name": name, "datatype": "BYTES", "shape": list(shape), "data": list(texts)}


def describe(spec: TensorSpec) -> dict[str, Json]:
    """The metadata of an input or output; a free dimension is -1."""
    return {
        "name": spec.name,
        "datatype": _NAMES[spec.dtype],
        "shape": [dim if isinstance(dim, int) else -1 for dim in spec.shape],
    }


def _declared(f: Fields) -> tuple[str, list[int]]:
    """Our name of the datatype, and the shape."""
    datatype = DATATYPES[f.choice("datatype", list(DATATYPES))]
    shape = list(f.items("shape", max_items=MAX_RANK))
    if not all(type(size) is int and 0 <= size < 1 << 31 for size in shape):
        raise InputError(f"{f.where}: shape must hold sizes, found {str(shape)[:80]}")
    return datatype, shape


def _check_count(f: Fields, shape: list[int], count: int) -> None:
    expected = math.prod(shape)
    if expected != count:
        raise InputError(f"{f.where}: shape {shape} means {expected} values, data holds {count}")


def _flat(data: Sequence[Any]) -> list[Any]:
    """[["a"], ["b"]] as ["a", "b"]."""
    return [item[0] if isinstance(item, list) and len(item) == 1 else item for item in data]
