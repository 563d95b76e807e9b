"""Where an ONNX file keeps its weights, read from its bytes without the onnx package.

An ONNX tensor may name another file, or an address in memory, as the home of its values. A bundle
is verified file by file, so neither is accepted. This walks the protobuf records down to every
tensor (initializers, node attributes, subgraphs, functions, training) and skips everything else
unread.

Source: onnx.proto3 (field numbers), protobuf encoding (wire types).
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.errors import IncompatibleError

_TENSOR = "tensor"
# message -> field number -> message of that field; fields that lead to no tensor are left out.
_LEADS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
_GRAPH, _NODE, _INPUT, _OP_TYPE = 7, 1, 1, 4
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14
_MAX_DEPTH = 64
_TAG_BITS = 32
"""Protobuf drops the bits of a tag above these, so to it a larger one is another, known field."""


def external_tensors(model: bytes, where: str) -> list[str]:
    """Names of the tensors whose values are not in `model`.

    Raises:
        IncompatibleError: not an ONNX file: the records do not add up.
    """
    found: list[str] = []
    try:
        _walk(memoryview(model), "model", found, 0)
    except (IndexError, ValueError, RecursionError):
        raise IncompatibleError(f"{where} is not a whole ONNX model") from None
    return found


def operators(model: bytes) -> list[str]:
    """Kinds of the operators of the main graph, in the file's order.

    Raises:
        IncompatibleError: as above.
    """
    try:
        graphs = [body for number, body in _records(memoryview(model)) if number == _GRAPH]
        nodes = [body for g in graphs for number, body in _records(g) if number == _NODE]
        return [
            bytes(body[:200]).decode("utf-8", "replace")
            for node in nodes
            for number, body in _records(node)
            if number == _OP_TYPE
        ]
    except (IndexError, ValueError):
        raise IncompatibleError("not a whole ONNX model") from None


def nodes(model: bytes) -> list[tuple[str, int]]:
    """Kind of operator and number of inputs of each node, those of subgraphs and functions too.

    Raises:
        IncompatibleError: as above.
    """
    try:
        return list(_nodes(memoryview(model), "model", 0))
    except (IndexError, ValueError):
        raise IncompatibleError("not a whole ONNX model") from None


def _nodes(data: memoryview, message: str, depth: int) -> Iterator[tuple[str, int]]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    kind, inputs = "", 0
    for number, body in _records(data):
        lead = _LEADS[message].get(number, _TENSOR)
        if message == "node" and number == _OP_TYPE:
            kind = bytes(body[:200]).decode("utf-8", "replace")
        elif message == "node" and number == _INPUT:
            inputs += 1
        elif lead != _TENSOR:
            yield from _nodes(body, lead, depth + 1)
    if message == "node":
        yield kind, inputs


def _records(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field that has a length; the others are stepped over."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            _, at = _varint(data, at)
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError("a record is longer than its message")
            yield number, data[at : at + size]
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError("an unknown wire type")


def _walk(data: memoryview, message: str, found: list[str], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    leads = _LEADS[message]
    name, outside = "", False
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        if key >> _TAG_BITS:
            raise ValueError("a tag of more than 32 bits")
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            outside |= message == _TENSOR and number == _DATA_LOCATION and value != 0
        elif wire == 1:
            at += 8
        elif wire == 5:
            at += 4
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError("a record is longer than its message")
            body = data[at : at + size]
            at += size
            if message == _TENSOR:
                outside |= number == _EXTERNAL_DATA
                if number == _NAME:
                    name = bytes(body[:200]).decode("utf-8", "replace")
            elif number in leads:
                _walk(body, leads[number], found, depth + 1)
        else:
            raise ValueError("an unknown wire type")
    if at != end:
        raise ValueError("the last record is cut off")
    if outside:
        found.append(name or "a tensor without a name")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number at `at` and where the next field starts."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
