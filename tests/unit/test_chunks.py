"""Content-defined cutting: what it promises whatever the bytes are."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bundle.chunks import EASY, HARD, MAX_BYTES, MIN_BYTES, NORMAL_BYTES, cut
from edge_runtime.bundle.chunks import file_entry as entry_of
from tests.fakes.bundles import noise

SOURCES = st.builds(
    lambda seed, size, period: (noise(period, seed) * (size // period + 1))[:size],
    st.integers(0, 50),
    st.integers(0, 600_000),
    st.sampled_from([1, 2, 33, 5_000, 600_000]),
)


def cut_plainly(data: bytes) -> list[int]:
    """The same cut, one byte after the other, as docs/bundle-format.md tells it."""
    gear = [int.from_bytes(hashlib.sha256(bytes([b])).digest()[:4], "little") for b in range(256)]
    sizes, start, h = [], 0, 0
    for end, byte in enumerate(data):
        size = end - start
        limit = 0 if size < MIN_BYTES else HARD if size < NORMAL_BYTES else EASY
        if h < limit or size == MAX_BYTES:
            sizes.append(size)
            start = end
        h = (h << 1) + gear[byte] & 0xFFFF_FFFF
    return sizes + [len(data) - start] * (len(data) > start)


@given(SOURCES)
@settings(max_examples=40, deadline=None)
def test_sizes_add_up_and_stay_within_bounds(data: bytes) -> None:
    sizes = cut(data)
    assert sum(sizes) == len(data)
    assert all(MIN_BYTES <= size <= MAX_BYTES for size in sizes[:-1])
    assert all(0 < size <= MAX_BYTES for size in sizes)


@given(SOURCES)
@settings(max_examples=10, deadline=None)
def test_the_fast_cut_is_the_plain_one(data: bytes) -> None:
    assert cut(data) == cut_plainly(data)


def test_sizes_are_the_same_on_every_platform() -> None:
    assert cut(hashlib.shake_256(b"edge").digest(500_000)) == GOLDEN_SIZES


GOLDEN_SIZES = [53475, 81686, 66421, 80533, 64647, 73631, 55353, 24254]


def test_sizes_gather_around_64_kib() -> None:
    sizes = cut(noise(8 << 20))[:-1]
    assert 56 << 10 < sum(sizes) / len(sizes) < 72 << 10
    assert sum(size == MAX_BYTES for size in sizes) <= len(sizes) // 20


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("replace", lambda data, at: data[:at] + b"other" + data[at + 5 :]),
        ("insert", lambda data, at: data[:at] + b"more" + data[at:]),
        ("delete", lambda data, at: data[:at] + data[at + 777 :]),
    ],
)
@pytest.mark.parametrize("at", [0, 1_000_000, 2_500_000, 3_999_000])
def test_a_local_edit_changes_few_chunks(name: str, edit, at: int) -> None:  # type: ignore[no-untyped-def]
    before = noise(4_000_000, 9)
    after = edit(before, at)
    held = {chunk.sha256 for chunk in entry_of("a", before).chunks}
    changed = [chunk for chunk in entry_of("a", after).chunks if chunk.sha256 not in held]
    assert 1 <= len(changed) <= 4


def test_an_entry_lists_digests_of_the_very_pieces() -> None:
    data = noise(300_000, 4)
    entry = entry_of("a/b", data)
    entry.check(data, "here")
    entry.check_chunks(data, "here")
    assert len(entry.chunks) > 2


def test_an_empty_file_has_no_chunks() -> None:
    assert entry_of("empty", b"").chunks == ()
