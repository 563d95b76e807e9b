"""A bundle and its files as the product reads them, and what must hold of what it accepted."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from edge_runtime.bundle.files import MAX_CHUNK_BYTES, sha256_hex
from edge_runtime.errors import UntrustedError
from tests.hostile.promises import demand, scratch


def manifest(data: bytes) -> object:
    """A manifest, the steps it declares, and whether it fits a board."""
    from edge_runtime.bundle.manifest import Manifest
    from edge_runtime.inference.tasks.table import declared_steps

    read = Manifest.from_bytes(data)
    demand(Manifest.from_bytes(read.to_bytes()) == read, "a manifest is what it was written from")
    board().fits(read)
    declared_steps(read)
    return read


@functools.cache
def board() -> Any:
    """The profile that the tests' bundles are for."""
    from edge_runtime.profile import load_profile

    return load_profile("generic-x86_64")


def container(data: bytes) -> object:
    """The members of an archive, without their bytes."""
    from edge_runtime.bundle.container import read_members
    from edge_runtime.bundle.files import safe_path

    members = read_members(io.BytesIO(data), len(data), "bundle")
    end = 0
    for member in members:
        demand(safe_path(member.path), "a member has a safe path")
        demand(member.data_offset > end, "no member overlaps another")
        end = member.data_offset + member.size_bytes
        demand(end <= len(data), "a member ends before the archive does")
    return members


def archive(data: bytes) -> object:
    """A whole `.edge` file: verified, packed again, verified again."""
    from edge_runtime.bundle.archive import ArchiveReader, pack
    from edge_runtime.bundle.verify import verify

    path, again = scratch() / "bundle.edge", scratch() / "again.edge"
    path.write_bytes(data)
    bundle = verify(ArchiveReader(path))
    pack(ArchiveReader(path), again)
    verify(ArchiveReader(again), manifest_sha256=bundle.manifest_sha256)
    return bundle.manifest


def chunk_list(data: bytes) -> object:
    """A file's entry with its chunks."""
    from edge_runtime.bundle.files import FileEntry, safe_path
    from edge_runtime.fields import Fields, decode_json

    value = decode_json(data, max_bytes=1 << 20, where="file", error=UntrustedError)
    entry = FileEntry.parse(Fields(value, "file", UntrustedError))
    demand(safe_path(entry.path), "a file has a safe path")
    demand(sum(c.size_bytes for c in entry.chunks) == entry.size_bytes, "the chunks add up")
    return entry


def delta_index(data: bytes) -> object:
    """Which pieces lead from one bundle to another."""
    from edge_runtime.bundle.delta import DeltaIndex

    index = DeltaIndex.from_bytes(data)
    demand(DeltaIndex.from_bytes(index.to_bytes()) == index, "an index is what it was written from")
    return index


def delta_piece(data: bytes) -> object:
    """A piece of two differences, applied to an old chunk of 1,000 bytes."""
    from edge_runtime.bundle.delta import restore, split

    old = bytes(range(256)) * 4
    made = []
    for difference in split(data, 2):
        at = difference.offset
        made.append(restore(difference.coded, old[at : at + 1000], 1000))
        demand(len(made[-1]) == 1000, "a chunk has the size that was asked for")
    return made


def onnx_model(data: bytes) -> object:
    """Tensors of an ONNX model that are not in it; protobuf must not find one that we did not."""
    from edge_runtime.inference.onnx_wire import external_tensors

    found = external_tensors(data, "model.onnx")
    if not found and importlib.util.find_spec("onnx") is not None:
        demand(not _external_to_protobuf(data), "an external tensor was overlooked")
    return found


def _external_to_protobuf(data: bytes) -> bool:
    """Whether protobuf, which engines use, finds a tensor of this model outside of it."""
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return False  # No engine reads it.
    return any(
        tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data
        for tensor in _tensors(model)
    )


def _tensors(inside: Any) -> Iterator[Any]:
    for field, value in inside.ListFields():
        if field.message_type is None:
            continue
        values = [value] if hasattr(value, "ListFields") else value
        for one in values:
            if field.message_type.name == "TensorProto":
                yield one
            yield from _tensors(one)


class _Memory:
    """A bundle in memory, as a reader."""

    where = "bundle in memory"

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._contents = contents

    def names(self) -> tuple[str, ...]:
        return tuple(self._contents)

    def read(self, path: str, max_bytes: int) -> bytes:
        demand(len(self._contents[path]) <= max_bytes, "nothing larger is read")
        return self._contents[path]

    def pieces(self, entry: Any) -> Iterator[bytes]:
        return (bytes(piece) for _, piece in entry.cut(self._contents[entry.path]))


def _entry(path: str, data: bytes) -> Mapping[str, object]:
    """A file's entry in a manifest, cut anywhere: finding the right places takes a while."""
    pieces = [data[at : at + MAX_CHUNK_BYTES] for at in range(0, len(data), MAX_CHUNK_BYTES)]
    chunks = [[sha256_hex(piece), len(piece)] for piece in pieces]
    return {"path": path, "size_bytes": len(data), "sha256": sha256_hex(data), "chunks": chunks}


@functools.cache
def _one_case() -> dict[str, object]:
    """A manifest of one golden case, without its files."""
    from tests.fakes.bundles import manifest_json
    from tests.fakes.tiny import tensor_json, variant_json

    return manifest_json(
        {},
        inputs=[tensor_json("ids", "int64", ["batch", "sequence"])],
        outputs=[tensor_json("logits", "float32", ["batch", 3])],
        variants=[variant_json("v", "m.onnx")],
        golden={"file": "golden.safetensors", "cases": 1, "raw": []},
    )


def golden(data: bytes) -> object:
    """The golden vectors of a bundle with one case."""
    from edge_runtime.bundle.manifest import MANIFEST_NAME
    from edge_runtime.bundle.verify import verify
    from edge_runtime.inference.golden import load_golden, mismatch, size_differs, worst

    contents = {"golden.safetensors": data, "m.onnx": b"", "t.json": b""}
    files = [_entry(path, content) for path, content in contents.items()]
    made = json.dumps(_one_case() | {"files": files}).encode()
    (case,) = load_golden(verify(_Memory({**contents, MANIFEST_NAME: made})))
    demand(set(case.inputs) == {"ids"} and set(case.outputs) == {"logits"}, "a case is whole")
    demand(not mismatch(case.outputs, case), "a reference is like itself")
    if case.outputs["logits"].size:
        demand(-1 <= worst(case.outputs, case) <= 1, "a cosine is one")
        size_differs(case.outputs, case)
    return case


def tokenizer(data: bytes) -> object:
    """A tokenizer's file, and two texts through it."""
    from edge_runtime.inference.tasks.tokenize import Tokenize, TokenizeOptions

    options = TokenizeOptions("tokenizer.json", 16, 4096, 0, ("input_ids", "attention_mask"))
    tokenize = Tokenize(options, data)
    rows = [tokenize("a fast web server"), tokenize("e\u0301 \0 \U0001f600 " + "x" * 100)]
    demand(all(0 < row.length <= 16 for row in rows), "a row has as many tokens as it may")
    return rows
