"""A LiteRT file without what stands in it more than once.

The entry points of a file share their weights, but whoever writes such a file repeats all that
describes them: scales, zero points (eight bytes for each, all 0), names of tensors that nobody asks
for. Of MiniLM with three entry points that is a twelfth of the INT8 file. FlatBuffers let any
number of tables point to one vector, and buffers outside of the tables may overlap; engines read
the result as they read any other.

Source: https://flatbuffers.dev/internals, and `Buffer.offset` in LiteRT's schema.fbs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flatbuffers

IDENTIFIER = b"TFL3"
ALIGNMENT = 16
"""Of buffers outside of the tables, in bytes: what kernels load at a time."""
PLACEHOLDER = 1
"""In the place of an offset that is not known yet; 0 would be left out of the table."""


class _Sharing(flatbuffers.Builder):  # type: ignore[misc]  # the library has no types
    """Writes equal vectors and strings once."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: Any) -> int:
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]

    def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "strict") -> int:
        key = ("", s if isinstance(s, bytes) else s.encode(encoding, errors))
        if key not in self._written:
            self._written[key] = super().CreateString(s, encoding, errors)
        return self._written[key]


def slim(model: bytes, *, names: Collection[str]) -> bytes:
    """`model`, a .tflite file, with the same tensors; those not in `names` lose their names."""
    from ai_edge_litert import schema_py_generated as schema

    file: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model))
    for graph in file.subgraphs:
        for tensor in graph.tensors:
            if (tensor.name or b"").decode() not in names:
                tensor.name = b""
    outside = {
        place: model[buffer.offset : buffer.offset + buffer.size]
        for place, buffer in enumerate(file.buffers)
        if buffer.offset > PLACEHOLDER
    }
    for place in outside:
        file.buffers[place].offset = file.buffers[place].size = PLACEHOLDER
    begin = _aligned(len(_packed(file)))
    contents, places = _laid_out(outside)
    for place, content in outside.items():
        file.buffers[place].offset = begin + places[place]
        file.buffers[place].size = len(content)
    tables = _packed(file)  # as long as before: offsets have a fixed width
    return tables.ljust(begin if outside else len(tables), b"\0") + contents


def _packed(file: Any) -> bytes:
    builder = _Sharing()
    builder.Finish(file.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _laid_out(outside: Mapping[int, bytes]) -> tuple[bytes, Mapping[int, int]]:
    """The contents one after the other, and where each begins.

    One that is the beginning of another lies in it: position embeddings of a shorter entry point
    are the first rows of a longer one's.
    """
    written: list[tuple[int, bytes]] = []
    places: dict[int, int] = {}
    total = 0
    for place, content in sorted(outside.items(), key=lambda one: -len(one[1])):
        found = _within(content, written)
        if found is None:
            found = total
            written.append((total, content))
            total = _aligned(total + len(content))
        places[place] = found
    return b"".join(one.ljust(_aligned(len(one)), b"\0") for _, one in written), places


def _within(content: bytes, written: Sequence[tuple[int, bytes]]) -> int | None:
    return next((begin for begin, other in written if other.startswith(content)), None)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
