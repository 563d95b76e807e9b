"""Files as chunk lists: their JSON, their limits, their paths."""

from __future__ import annotations

import pytest

from edge_runtime.bundle.files import MAX_CHUNK_BYTES, Chunk, FileEntry, safe_path, sha256_hex
from edge_runtime.errors import UntrustedError
from edge_runtime.fields import Fields

A, B = b"a" * 10, b"b" * 5
ENTRY = FileEntry(
    "dir/file.bin", 15, sha256_hex(A + B), (Chunk(sha256_hex(A), 10), Chunk(sha256_hex(B), 5))
)


def parse(**changed: object) -> FileEntry:
    return FileEntry.parse(Fields({**ENTRY.as_json(), **changed}, "entry", UntrustedError))


def test_an_entry_reads_what_it_writes() -> None:
    assert parse() == ENTRY


def test_an_empty_file_has_no_chunks() -> None:
    assert parse(size_bytes=0, chunks=[]).chunks == ()


@pytest.mark.parametrize(
    "chunk",
    [
        [sha256_hex(A)],
        [sha256_hex(A), 0],
        [sha256_hex(A), True],
        [sha256_hex(A), 10.0],
        [sha256_hex(A), MAX_CHUNK_BYTES + 1],
        [sha256_hex(A).upper(), 10],
        [sha256_hex(A)[:-1] + "\n", 10],
        {"sha256": sha256_hex(A)},
        None,
    ],
)
def test_a_chunk_is_a_digest_and_a_size_within_the_limit(chunk: object) -> None:
    with pytest.raises(UntrustedError, match="a chunk must be"):
        parse(chunks=[chunk])


def test_chunks_must_add_up_to_the_file() -> None:
    with pytest.raises(UntrustedError, match="chunks add up to 15 bytes, size_bytes says 16"):
        parse(size_bytes=16)


@pytest.mark.parametrize("path", ["a", "a/b.c", "a-b/_c", "x" * 512, "/".join("abcdefghijklmnop")])
def test_a_plain_relative_path_is_safe(path: str) -> None:
    assert safe_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "./a", "a\\b", "C:a", "a\0b", "a\nb",
        "é", "a ", "a.", ".hidden", "a/ b", "a*", "a?", 'a"', "<a", "a|b", "x" * 513,
        "/".join("abcdefghijklmnopq"),
    ],
)  # fmt: skip
def test_any_other_path_is_not_safe(path: str) -> None:
    assert not safe_path(path)
    with pytest.raises(UntrustedError, match=r"path|characters"):
        parse(path=path)


def test_a_file_is_checked_by_size_and_by_digest() -> None:
    ENTRY.check(A + B, "here")
    with pytest.raises(UntrustedError, match=r"here: 'dir/file\.bin' has 14 bytes, expected 15"):
        ENTRY.check(A + B[1:], "here")
    with pytest.raises(UntrustedError, match="has digest"):
        ENTRY.check(B + A, "here")


def test_a_file_is_cut_by_its_chunk_list() -> None:
    assert [(c.size_bytes, bytes(piece)) for c, piece in ENTRY.cut(A + B)] == [(10, A), (5, B)]
    ENTRY.check_chunks(A + B, "here")


def test_a_chunk_list_of_other_bytes_is_refused() -> None:
    with pytest.raises(UntrustedError, match=r"here: 'dir/file.bin': chunk .* has digest"):
        ENTRY.check_chunks(B + A, "here")
