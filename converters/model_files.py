"""Model files of unknown origin, read and checked before any native code is given them.

A .tflite file is a FlatBuffer whose engine follows offsets without looking; an ONNX file may name
other files as its data. So: size first, then every table, vector, index and reference that an
engine would follow. Errors are one sentence. What is in the file is `operators`'.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import onnx

MAX_BYTES = 2_000_000_000
"""Of a file, and of an ONNX model with its data: more fits into neither format."""
IDENTIFIER = b"TFL3"
MAX_ITEMS = 2_000_000
"""Tables, or elements of index vectors, in one file: a large model has some ten thousand."""
SUB_BYTE_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model with its external data inside.

    Raises:
        InputError: missing, too large, not a whole ONNX file, or data that is not where it may be.
    """
    import onnx
    from google.protobuf.message import DecodeError

    where = f"model {path.name}"
    data = _read(path, where)
    try:
        proto = onnx.load_from_string(data)
    except (DecodeError, ValueError, RecursionError):
        raise InputError(f"{where}: is not a whole ONNX file") from None
    if not proto.graph.node and not proto.graph.output:
        raise InputError(f"{where}: is not a whole ONNX file (it holds no graph)")
    if not proto.opset_import:
        raise InputError(f"{where}: names no opset")
    total = len(data)
    for tensor in tensors_of(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            total += _load_external(tensor, path.parent, where, MAX_BYTES - total)
        _check_size(tensor, where)
    return proto


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant, those in subgraphs and functions included."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Any) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _graph_tensors(attribute.g)
            for graph in attribute.graphs:
                yield from _graph_tensors(graph)


def _load_external(tensor: onnx.TensorProto, folder: Path, where: str, left: int) -> int:
    """Put the tensor's data into it; how many bytes that were."""
    import onnx

    said = {entry.key: entry.value for entry in tensor.external_data}
    location = said.get("location", "")
    name = f"{where}: data of {tensor.name[:80]!r}"
    parts = location.replace("\\", "/").split("/")
    file, root = folder / location, folder.resolve()
    outside = not location or location.startswith(("/", "\\")) or ".." in parts or "\0" in location
    if outside or root not in file.resolve().parents:
        raise InputError(f"{name} lies outside of the model's folder ({location[:80]!r})")
    if not file.is_file():
        raise InputError(f"{name}: the file {location[:80]!r} is missing beside the model")
    size = file.stat().st_size
    try:
        offset = int(said.get("offset", "0"))
        length = int(said.get("length", size - offset))
    except ValueError:
        raise InputError(f"{name}: offset or length is no number") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise InputError(
            f"{name}: bytes {offset}..{offset + length} of {location[:80]!r}, which has {size}"
        )
    if length > left:
        raise InputError(f"{where}: with its data it is larger than {MAX_BYTES} bytes")
    with file.open("rb") as opened:
        opened.seek(offset)
        tensor.raw_data = opened.read(length)
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT
    return length


def _check_size(tensor: onnx.TensorProto, where: str) -> None:
    """Raw bytes are as many as shape and type say."""
    import onnx

    if not tensor.HasField("raw_data"):
        return
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    try:
        bits = SUB_BYTE_BITS.get(kind)
        bits = bits or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        raise InputError(f"{where}: {tensor.name[:80]!r} has the unusable type {kind}") from None
    if any(size < 0 for size in tensor.dims):
        raise InputError(f"{where}: {tensor.name[:80]!r} has a negative dimension")
    wanted = -(-math.prod(tensor.dims) * bits // 8)
    if len(tensor.raw_data) != wanted:
        raise InputError(
            f"{where}: {tensor.name[:80]!r} has {len(tensor.raw_data)} bytes, its shape says "
            f"{wanted}"
        )


def read_tflite(path: Path) -> bytes:
    """The bytes of a .tflite file that is whole.

    Raises:
        InputError: missing, too large, or not a whole .tflite file.
    """
    where = f"model {path.name}"
    data = _read(path, where)
    check_tflite(data, where)
    return data


def _read(path: Path, where: str) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{where}: {size} bytes, more than {MAX_BYTES}")
        data = path.read_bytes()
    except OSError as reason:
        raise InputError(f"{where}: cannot be read ({reason.strerror})") from None
    if not data:
        raise InputError(f"{where}: is empty")
    return data


def check_tflite(data: bytes, where: str) -> None:
    """Every reference that an engine would follow stays in the file.

    Raises:
        InputError: one does not; the file is cut off, foreign or hostile.
    """
    if data[4:8] != IDENTIFIER:
        raise InputError(f"{where}: is not a .tflite file (the identifier TFL3 is missing)")
    try:
        _Checked(data).model()
    except (_Broken, struct.error, IndexError, ValueError, TypeError, OverflowError) as reason:
        raise InputError(f"{where}: is not a whole .tflite file ({reason})") from None


class _Broken(Exception):
    """What is wrong with the file."""


class _Checked:
    """A walk over a .tflite file, through nothing but offsets that were looked at first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._items = 0

    def model(self) -> None:
        model = self._follow(0)
        codes = self._vector(model, 1)
        buffers = self._vector(model, 4)
        for code in self._tables(codes):
            self._text(code, 1)
        for buffer in self._tables(buffers):
            self._buffer(buffer)
        for graph in self._tables(self._vector(model, 2)):
            self._graph(graph, len(codes), len(buffers))

    def _graph(self, graph: int, codes: int, buffers: int) -> None:
        tensors = self._vector(graph, 0)
        for tensor in self._tables(tensors):
            self._numbers(tensor, 0, 4)
            self._text(tensor, 3)
            self._within(self._scalar(tensor, 2, "<I"), buffers, "a tensor's buffer")
            found = self._slot(tensor, 4)
            if found:
                scales = self._follow(found)
                for field, width in ((0, 4), (1, 4), (2, 4), (3, 8)):
                    self._numbers(scales, field, width)
        for field in (1, 2):
            self._indices(graph, field, len(tensors))
        for operator in self._tables(self._vector(graph, 3)):
            self._within(self._scalar(operator, 0, "<I"), codes, "an operator's code")
            for field in (1, 2):
                self._indices(operator, field, len(tensors))
            for field in (4, 11):  # both unions of options
                found = self._slot(operator, field)
                if found:
                    self._follow(found)
            self._numbers(operator, 5, 1)
            self._numbers(operator, 8, 4)

    def _buffer(self, buffer: int) -> None:
        self._numbers(buffer, 0, 1)
        offset, size = self._scalar(buffer, 1, "<Q"), self._scalar(buffer, 2, "<Q")
        if offset > 1 and offset + size > len(self._data):
            raise _Broken("weights reach beyond its end")

    def _indices(self, table: int, field: int, count: int) -> None:
        start, length = self._numbers(table, field, 4)
        for place in struct.unpack_from(f"<{length}i", self._data, start) if length else ():
            if not -1 <= place < count:
                raise _Broken(f"tensor {place} of {count}")

    def _within(self, place: int, count: int, what: str) -> None:
        if place >= count:
            raise _Broken(f"{what} is {place} of {count}")

    def _follow(self, at: int) -> int:
        """Where the table lies to which the offset at `at` points; its header is sound."""
        table = at + int(self._unpack("<I", at))
        vtable = table - int(self._unpack("<i", table))
        size, whole = self._unpack("<H", vtable), self._unpack("<H", vtable + 2)
        if size < 4 or size % 2 or vtable + size > len(self._data):
            raise _Broken("a table's header is broken")
        if table + whole > len(self._data):
            raise _Broken("a table reaches beyond its end")
        self._count(1)
        return table

    def _slot(self, table: int, field: int) -> int:
        """Where the field's value lies, 0 where it has none."""
        vtable = table - int(self._unpack("<i", table))
        at = 4 + 2 * field
        offset = self._unpack("<H", vtable + at) if at < self._unpack("<H", vtable) else 0
        return table + int(offset) if offset else 0

    def _scalar(self, table: int, field: int, form: str) -> int:
        found = self._slot(table, field)
        return int(self._unpack(form, found)) if found else 0

    def _numbers(self, table: int, field: int, width: int) -> tuple[int, int]:
        """Start and length of a vector of `width` bytes each, all of it in the file."""
        found = self._slot(table, field)
        if not found:
            return 0, 0
        start = found + int(self._unpack("<I", found)) + 4
        length = int(self._unpack("<I", start - 4))
        if start + length * width > len(self._data):
            raise _Broken("a vector reaches beyond its end")
        if width > 1:
            self._count(length // 64)
        return start, length

    def _text(self, table: int, field: int) -> None:
        self._numbers(table, field, 1)

    def _vector(self, table: int, field: int) -> range:
        """Where the offsets of a vector of tables lie."""
        start, length = self._numbers(table, field, 4)
        self._count(length)
        return range(start, start + 4 * length, 4)

    def _tables(self, offsets: range) -> Iterator[int]:
        return map(self._follow, offsets)

    def _unpack(self, form: str, at: int) -> int:
        if at < 0:
            raise _Broken("an offset points before its beginning")
        try:
            found: int = struct.unpack_from(form, self._data, at)[0]
        except struct.error:
            raise _Broken("an offset points beyond its end") from None
        return found

    def _count(self, more: int) -> None:
        self._items += more
        if self._items > MAX_ITEMS:
            raise _Broken(f"more than {MAX_ITEMS} tables")
