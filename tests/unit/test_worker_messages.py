"""Frames between supervisor and worker: whole whatever the pieces, refused when malformed."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import InputError, UntrustedError
from edge_runtime.messages.fleet import MAX_REQUEST_BYTES, InferRequest, to_bytes
from edge_runtime.messages.worker import (
    MAX_FRAME_BYTES,
    Answer,
    Ask,
    FrameReader,
    Refused,
    to_frame,
)
from tests.fakes.messages import FRAME_MESSAGES, FRAMES


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@pytest.mark.parametrize(
    ("message", "frame"),
    list(zip(FRAME_MESSAGES, FRAMES, strict=True)),
    ids=[type(message).__name__ for message in FRAME_MESSAGES],
)
def test_a_frame_reads_what_it_writes(message: object, frame: bytes) -> None:
    assert list(FrameReader().feed(frame)) == [message]


@given(st.lists(st.integers(0, sum(map(len, FRAMES))), max_size=12))
def test_frames_come_whole_whatever_the_pieces(cuts: list[int]) -> None:
    stream = b"".join(FRAMES)
    bounds = [0, *sorted(cuts), len(stream)]
    reader = FrameReader()
    found = [
        frame
        for start, end in itertools.pairwise(bounds)
        for frame in reader.feed(stream[start:end])
    ]
    assert found == list(FRAME_MESSAGES)


def test_half_a_frame_is_no_frame() -> None:
    assert list(FrameReader().feed(FRAMES[0][:-1])) == []


def test_a_frame_too_large_is_refused_from_its_length_alone() -> None:
    with pytest.raises(UntrustedError, match="frame: 4194305 bytes, at most 4194304"):
        list(FrameReader().feed(struct.pack(">I", MAX_FRAME_BYTES + 1)))


def test_what_a_reader_would_refuse_is_not_written() -> None:
    fits = Answer("r", ({"x": "y" * (MAX_FRAME_BYTES - 100)},))
    assert list(FrameReader().feed(to_frame(fits))) == [fits]
    with pytest.raises(InputError, match=f"Answer: 41943.. bytes, at most {MAX_FRAME_BYTES} fit"):
        to_frame(Answer("r", ({"x": "y" * (MAX_FRAME_BYTES + 10)},)))


@pytest.mark.parametrize("character", ['"', "\\", "\x01", "\x7f", "é", "€", "😀"])
def test_the_largest_request_fits_a_frame(character: str) -> None:
    """Whatever it is written in: in JSON a character may take six bytes."""
    share = MAX_REQUEST_BYTES // 17
    size_bytes = len(to_bytes(InferRequest((character * 100,)))) // 100
    inputs = (character * min(share // size_bytes, 1 << 16),) * 16
    assert InferRequest.from_bytes(to_bytes(InferRequest(inputs))).inputs == inputs
    to_frame(Ask("r", inputs))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"[]", "expected an object"),
        (b"{}", "kind is missing"),
        (b'{"kind":"Exec"}', "kind 'Exec' is not known"),
        (b'{"kind":7}', "kind must be a string"),
        (b'{"kind":"Refused"}', "reason is missing"),
        (b'{"kind":"Ready","reports":[{}]}', "accelerator is missing"),
        (b'{"kind":"Heartbeat","requests":-1}', "requests is -1"),
        (b'{"kind":"Ask","id":"r","inputs":"x"}', "must be a list"),
        (b'{"kind":"Answer","id":"r","results":["x"]}', "expected an object"),
    ],
)
def test_a_malformed_frame_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(UntrustedError, match=says):
        list(FrameReader().feed(framed(body)))


def test_a_fault_comes_after_the_frames_before_it() -> None:
    reader = FrameReader()
    frames = reader.feed(FRAMES[2] + framed(b"[]"))
    assert next(frames) == FRAME_MESSAGES[2]
    with pytest.raises(UntrustedError):
        next(frames)


def test_a_worker_with_a_long_reason_is_still_understood() -> None:
    (frame,) = FrameReader().feed(to_frame(Refused("because " * 10_000)))
    assert isinstance(frame, Refused)
    assert frame.reason.startswith("because ")
    assert len(frame.reason) == 2048
