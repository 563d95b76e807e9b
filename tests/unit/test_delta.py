"""Differences between chunks, how they travel, and what a liar may put into them."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.delta import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    MAX_PIECE_CHUNKS,
    DeltaIndex,
    DeltaRef,
    Difference,
    OldFiles,
    Piece,
    coded_size,
    difference,
    join,
    news,
    restore,
    split,
)
from edge_runtime.bundle.files import MAX_CHUNK_BYTES, Chunk
from edge_runtime.errors import IncompatibleError, UntrustedError
from edge_runtime.fields import Fields
from tests.fakes.bundles import DIGEST, manifest, noise


def stepped(old: bytes, seed: int = 0) -> bytes:
    """`old` with a third of its bytes moved by one, up or down, as training moves weights."""
    steps = random.Random(seed).choices((0, 0, 0, 0, 1, 255), k=len(old))
    return bytes((a + b) % 256 for a, b in zip(old, steps, strict=True))


@given(st.binary(min_size=1, max_size=3000), st.binary(max_size=3000))
def test_what_was_coded_is_restored(new: bytes, old: bytes) -> None:
    assert restore(difference(new, old), old, len(new)) == new


def test_weights_that_moved_by_a_step_shrink_to_a_fraction() -> None:
    old = noise(65_536)
    new = stepped(old)
    assert len(difference(new, old)) < 0.25 * len(new)
    assert len(difference(noise(65_536, 1), old)) > 0.99 * len(new)


def test_an_old_file_that_ends_early_counts_as_zeros() -> None:
    assert restore(difference(b"abcdef", b"abc"), b"abc", 6) == b"abcdef"
    assert restore(difference(b"abcdef", b""), b"", 6) == b"abcdef"


@pytest.mark.parametrize(
    "coded",
    [
        b"",
        b"no zlib at all",
        zlib.compress(b"x" * 99),
        zlib.compress(b"x" * 101),
        zlib.compress(b"x" * 100)[:-1],
        zlib.compress(b"x" * 100) + b"more",
        zlib.compress(b"x" * 100)[:-4] + b"sums",
    ],
)
def test_anything_but_exactly_the_chunk_is_refused(coded: bytes) -> None:
    with pytest.raises(UntrustedError, match="delta: a difference"):
        restore(coded, b"", 100)


def test_a_bomb_is_stopped_one_byte_past_the_chunk() -> None:
    bomb = zlib.compress(bytes(100 << 20), 9)
    assert len(bomb) <= MAX_CHUNK_BYTES
    tracemalloc.start()
    try:
        with pytest.raises(UntrustedError, match="exactly 65536 bytes"):
            restore(bomb, b"", 65_536)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_piece_gives_back_its_differences() -> None:
    made = [Difference(0, 0, b"abc"), Difference(), Difference(4095, 1 << 33, b"d")]
    piece = join(made)
    assert len(piece) == coded_size(made)
    assert list(split(piece, 3)) == made


@pytest.mark.parametrize(
    ("piece", "count", "reason"),
    [
        (b"", 1, "ends before its 1 differences"),
        (join([Difference(0, 0, b"abc")])[:-1], 1, "ends before its 1 differences"),
        (join([Difference(0, 0, b"abc")]), 2, "ends before its 2 differences"),
        (join([Difference(0, 0, b"abc")]) + b"x", 1, "holds 1 bytes after its last one"),
        (struct.pack(">HQI", 0, 0, 0xFFFFFFFF), 1, "ends before its 1 differences"),
    ],
)
def test_a_piece_that_is_cut_or_runs_on_is_refused(piece: bytes, count: int, reason: str) -> None:
    with pytest.raises(UntrustedError, match=reason):
        list(split(piece, count))


@given(st.binary(max_size=200), st.integers(1, 16), st.integers(1, 300))
def test_whatever_a_piece_holds_only_our_own_error_escapes(
    piece: bytes, count: int, size: int
) -> None:
    with contextlib.suppress(UntrustedError):
        for one in split(piece, count):
            restore(one.coded, b"old", size)


def test_new_chunks_are_those_that_the_old_bundle_lacks_in_the_order_of_the_files() -> None:
    backbone, tail = noise(300_000, 7), noise(90_000, 8)
    old = manifest(files("model.onnx", backbone))
    new = manifest(files("model.onnx", backbone + tail) | {"copy.bin": backbone + tail})
    held = {chunk for entry in old.files for chunk in entry.chunks}
    wanted = dict.fromkeys(chunk for chunk in new.file("model.onnx").chunks if chunk not in held)
    assert news(old, new) == tuple(wanted)
    assert 0 < len(wanted) < len(new.file("model.onnx").chunks)
    assert news(new, new) == ()


def files(path: str, data: bytes) -> dict[str, bytes]:
    return {path: data, "litert/model.tflite": b"t", "tokenizer.json": b"{}",
            "golden.safetensors": b"g"}  # fmt: skip


@given(st.integers(0, 310_000), st.integers(1, MAX_CHUNK_BYTES))
def test_a_range_of_an_old_file_is_read_across_its_chunks(offset: int, size: int) -> None:
    assert OLD.range(0, offset, size) == WEIGHTS[offset : offset + size]


def test_only_the_chunks_of_a_range_are_read() -> None:
    chunks = manifest(files("model.onnx", WEIGHTS)).file("model.onnx").chunks
    read: list[Chunk] = []

    def note(chunk: Chunk) -> bytes:
        read.append(chunk)
        return POOL[chunk.sha256]

    old = OldFiles(manifest(files("model.onnx", WEIGHTS)), note)
    old.range(0, chunks[0].size_bytes, chunks[1].size_bytes)
    assert read == [chunks[1]]


def test_a_file_that_the_old_bundle_lacks_is_refused() -> None:
    with pytest.raises(UntrustedError, match="names file 4 of the old bundle, which has 4"):
        OLD.range(4, 0, 10)


WEIGHTS = noise(300_000, 5)
POOL = {
    chunk.sha256: bytes(piece)
    for path, data in files("model.onnx", WEIGHTS).items()
    for chunk, piece in file_entry(path, data).cut(data)
}
OLD = OldFiles(manifest(files("model.onnx", WEIGHTS)), lambda chunk: POOL[chunk.sha256])

INDEX = DeltaIndex(
    DIGEST, "cd" * 32, (Piece(Chunk("0" * 64, 9), 0, 16), Piece(Chunk("1" * 64, 131072), 20, 1))
)


def test_an_index_is_what_was_written() -> None:
    assert DeltaIndex.from_bytes(INDEX.to_bytes()) == INDEX


@pytest.mark.parametrize(
    "piece",
    [
        None,
        [],
        ["0" * 64, 9, 0],
        ["0" * 63, 9, 0, 1],
        ["0" * 64, 0, 0, 1],
        ["0" * 64, MAX_CHUNK_BYTES + 1, 0, 1],
        ["0" * 64, 9, -1, 1],
        ["0" * 64, 9, 0, 0],
        ["0" * 64, 9, 0, MAX_PIECE_CHUNKS + 1],
        ["0" * 64, 9, 1 << 70, 1],
        ["0" * 64, 9.0, 0, 1],
    ],
)
def test_a_malformed_piece_of_an_index_is_refused(piece: Any) -> None:
    value = json.loads(INDEX.to_bytes()) | {"pieces": [piece]}
    with pytest.raises(UntrustedError, match="a piece must be"):
        DeltaIndex.from_bytes(json.dumps(value).encode())


def test_an_index_of_another_format_or_size_is_refused() -> None:
    value = json.loads(INDEX.to_bytes())
    with pytest.raises(IncompatibleError, match="format 2, this software reads 1"):
        DeltaIndex.from_bytes(json.dumps(value | {"format": 2}).encode())
    with pytest.raises(UntrustedError, match="at most"):
        DeltaIndex.from_bytes(INDEX.to_bytes() + b" " * MAX_INDEX_BYTES)


def test_a_ref_names_an_index_and_nothing_else() -> None:
    ref = DeltaRef(DIGEST, file_entry(INDEX_NAME, INDEX.to_bytes()))
    assert DeltaRef.parse(Fields(ref.as_json(), "ref", UntrustedError)) == ref
    other = DeltaRef(DIGEST, file_entry("other.json", b"x"))
    with pytest.raises(UntrustedError, match=r"index must be delta\.json of 1\.\."):
        DeltaRef.parse(Fields(other.as_json(), "ref", UntrustedError))
