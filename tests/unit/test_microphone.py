"""Chunks of any size become the same windows, in bounded memory, whether or not they wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import InputError
from edge_runtime.inference.microphone import (
    BACKLOG,
    MAX_PIECE,
    Microphone,
    Ring,
    Window,
    samples_of,
    windows,
)

SOUND = np.random.default_rng(3).integers(-32768, 32767, 1000).astype(np.int16)
FLOATS = (SOUND / 32768).astype(np.float32)


def expected(length: int, hop: int, count: int = 1000) -> list[tuple[int, list[float]]]:
    return [(end, FLOATS[end - length : end].tolist()) for end in range(length, count + 1, hop)]


def plain(found: Any) -> list[tuple[int, list[float]]]:
    assert all(isinstance(one, Window) and one.end - one.begin == len(one.samples) for one in found)
    return [(one.end, one.samples.tolist()) for one in found]


@given(st.lists(st.integers(0, 400), max_size=30), st.integers(1, 300), st.integers(1, 400))
def test_windows_do_not_depend_on_how_the_sound_is_cut(
    cuts: list[int], length: int, hop: int
) -> None:
    data = SOUND.tobytes()
    chunks, at = [], 0
    for size in cuts:
        chunks.append(data[at : at + size])
        at += size
    chunks.append(data[at:])
    assert plain(list(windows(chunks, length, hop))) == expected(length, hop)


@pytest.mark.parametrize(
    "chunks",
    [
        [SOUND.tobytes()],
        [bytearray(SOUND.tobytes())],
        [SOUND.data],
        [SOUND],
        [FLOATS],
        [FLOATS.astype(np.float64)],
        [SOUND.tobytes()[:3], b"", SOUND.tobytes()[3:4], SOUND.tobytes()[4:]],
        [SOUND.tobytes() + b"\x01"],
    ],
)
def test_every_kind_of_chunk_is_heard(chunks: list[Any]) -> None:
    assert np.concatenate(list(samples_of(chunks))).tolist() == FLOATS.tolist()


@pytest.mark.parametrize(
    ("chunk", "says"),
    [
        ("text", "PCM bytes or samples, found str"),
        (3, "found int"),
        (np.zeros((2, 2), np.int16), r"found int16 of \[2, 2\]"),
        (np.zeros(2, np.int32), r"found int32 of \[2\]"),
        (np.array([0.0, np.nan], np.float32), "not a finite number"),
    ],
)
def test_what_is_no_sound_is_told_in_a_sentence(chunk: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        list(windows([SOUND, chunk], 10, 10))
    with pytest.raises(InputError, match=says):
        list(Microphone([chunk], 10, 10))


def test_what_is_shorter_than_a_window_gets_silence_behind_it_and_nothing_is_refused() -> None:
    for found in (list(windows([SOUND[:5]], 8, 2)), list(Microphone([SOUND[:5]], 8, 2))):
        (one,) = found
        assert (one.begin, one.end) == (0, 5)
        assert one.samples.tolist() == [*FLOATS[:5].tolist(), 0, 0, 0]
    for empty in ([], [b""], [b"x"], [np.zeros(0, np.int16)]):
        with pytest.raises(InputError, match="holds no samples"):
            list(windows(empty, 8, 2))
        with pytest.raises(InputError, match="holds no samples"):
            list(Microphone(empty, 8, 2))


def test_a_chunk_without_end_is_taken_in_pieces() -> None:
    sizes = [len(piece) for piece in samples_of([np.zeros(100_000, np.int16)])]
    assert max(sizes) == MAX_PIECE
    assert sum(sizes) == 100_000


def test_a_ring_keeps_the_last_ones_only() -> None:
    ring = Ring(10)
    for at in range(0, 1000, 7):
        ring.push(FLOATS[at : at + 7])
    assert ring.copy(990, 1000).tolist() == FLOATS[990:].tolist()
    assert ring.copy(993, 996).tolist() == FLOATS[993:996].tolist()
    for begin, end in ((989, 1000), (995, 1001)):
        with pytest.raises(RuntimeError, match="not kept any more, or not there yet"):
            ring.copy(begin, end)
    ring.push(FLOATS[:500])
    assert ring.copy(1490, 1500).tolist() == FLOATS[490:500].tolist()


def test_a_microphone_that_is_listened_to_in_time_loses_nothing() -> None:
    gate = threading.Semaphore(1)

    def source() -> Iterator[bytes]:
        for at in range(0, 2000, 100):
            gate.acquire()  # The next chunk comes once the last one's windows were taken.
            yield SOUND.tobytes()[at : at + 100]

    microphone = Microphone(source(), 100, 50)
    found = []
    gate.release()  # The first window takes two chunks.
    for window in microphone:
        found.append(window)
        gate.release()
    assert plain(found) == expected(100, 50)
    assert microphone.dropped == 0


def test_a_microphone_that_nobody_keeps_up_with_drops_the_oldest_and_counts_them() -> None:
    done = threading.Event()

    def source() -> Iterator[np.ndarray[Any, np.dtype[np.int16]]]:
        yield from (SOUND[at : at + 30] for at in range(0, 1000, 30))
        done.set()

    microphone = Microphone(source(), 100, 50)
    assert done.wait(10)
    found = list(microphone)
    assert plain(found) == expected(100, 50)[-BACKLOG:]
    assert len(found) + microphone.dropped == len(expected(100, 50))


def test_a_chunk_that_is_larger_than_all_that_is_kept_is_still_the_same_sound() -> None:
    done = threading.Event()

    def source() -> Iterator[np.ndarray[Any, np.dtype[np.int16]]]:
        yield np.tile(SOUND, 50)
        done.set()

    microphone = Microphone(source(), 100, 50)
    assert done.wait(10)
    found = list(microphone)
    assert len(found) + microphone.dropped == 999
    assert plain(found) == [(end + 49_000, row) for end, row in expected(100, 50)[-len(found) :]]


def test_a_source_that_fails_is_not_mistaken_for_the_end() -> None:
    def source() -> Iterator[bytes]:
        yield SOUND.tobytes()[:400]
        raise OSError("the cable is out")

    for found in (windows(source(), 100, 50), iter(Microphone(source(), 100, 50))):
        assert [next(found).end for _ in range(3)] == [100, 150, 200]
        with pytest.raises(OSError, match="the cable is out"):
            next(found)


def test_after_close_nothing_more_is_taken() -> None:
    asked = threading.Semaphore(0)
    taken: list[int] = []

    def source() -> Iterator[bytes]:
        for number in range(100):
            taken.append(number)
            yield SOUND.tobytes()
            asked.acquire()

    microphone = Microphone(source(), 100, 50)
    windows_of = iter(microphone)
    next(windows_of)
    microphone.close()
    asked.release()
    assert len(list(windows_of)) <= 2 * BACKLOG
    assert taken[-1] <= 1
