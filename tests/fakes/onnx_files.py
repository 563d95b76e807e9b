"""ONNX files of a few nodes, written by hand: a device's environments have no onnx package.

Source: onnx.proto3 (field numbers), protobuf encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT = 1
KINDS = {"float32": FLOAT, "uint8": 2, "int8": 3, "uint16": 4}
"""TensorProto.DataType by dtype."""
Shape = Sequence[int | str]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def record(field: int, data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def _value(name: str, shape: Shape) -> bytes:
    dims = b"".join(
        record(1, number(1, dim) if isinstance(dim, int) else record(2, dim)) for dim in shape
    )
    return record(1, name) + record(2, record(1, number(1, FLOAT) + record(2, dims)))


def _tensor(name: str, value: NDArray[Any]) -> bytes:
    dims = b"".join(number(1, size) for size in value.shape)
    raw = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
    return dims + number(2, KINDS[value.dtype.name]) + record(8, name) + record(9, raw)


def onnx_file(
    takes: tuple[str, Shape],
    gives: tuple[str, Shape],
    nodes: Sequence[tuple[str, Sequence[str], str]],
    weights: Mapping[str, NDArray[Any]],
    *,
    opset: int = 13,
) -> bytes:
    """A model that takes and gives float32; a node is (operator, its inputs, its output)."""
    graph = b"".join(
        record(1, b"".join(record(1, name) for name in given) + record(2, out) + record(4, kind))
        for kind, given, out in nodes
    )
    graph += record(2, "small")
    graph += b"".join(record(5, _tensor(name, value)) for name, value in weights.items())
    graph += record(11, _value(*takes)) + record(12, _value(*gives))
    return number(1, 8) + record(7, graph) + record(8, number(2, opset))
