"""A WAV file a piece at a time, as a microphone would deliver it: its length costs no memory.

`tasks.audio` says what is read of WAV files; the same is read here.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from edge_runtime.errors import InputError
from edge_runtime.inference.tasks.audio import WavFormat, cut_off
from edge_runtime.inference.tasks.results import FloatArray

PIECE_MS = 20
"""Sound in a piece; what drivers of microphones deliver at a time."""
MAX_HEAD_BYTES = 1 << 16
_UNKNOWN = (0, 0xFFFFFFFF)
"""Sizes that a recorder leaves that was stopped by force, or that wrote into a pipe."""


def wav_pieces(file: BinaryIO, sample_rate: int) -> Iterator[FloatArray]:
    """The samples of a WAV file, the channels' mean, in -1..1, a piece of (n,) after the other.

    Raises:
        InputError: not a WAV file, of another rate, or cut off; the last once all was given.
    """
    begin = file.read(12)
    if begin[:4] != b"RIFF" or begin[8:] != b"WAVE":
        raise InputError(f"audio: not a WAV file, it begins with {begin!r}")
    form: WavFormat | None = None
    while len(head := file.read(8)) == 8:
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"data":
            if form is None:
                raise InputError("audio: the WAV file has samples before their format")
            yield from _pieces(file, form, sample_rate, size)
            return
        kept = file.read(min(size, MAX_HEAD_BYTES))
        if name == b"fmt ":
            form = WavFormat.parse(memoryview(kept), sample_rate)
        _skip(file, size + size % 2 - len(kept))
    raise InputError("audio: the WAV file has no samples")


def _pieces(file: BinaryIO, form: WavFormat, rate: int, size: int) -> Iterator[FloatArray]:
    piece = max(1, rate * PIECE_MS // 1000) * form.frame
    left = None if size in _UNKNOWN else size
    while left is None or left >= form.frame:
        data = file.read(piece if left is None else min(piece, left))
        if left is not None:
            left -= len(data)
        if len(data) >= form.frame:
            yield form.samples(memoryview(data))
        if len(data) < piece:
            break
    if left is not None and left >= form.frame:
        raise cut_off(size - left, size)


def _skip(file: BinaryIO, count: int) -> None:
    while count > 0 and (data := file.read(min(count, MAX_HEAD_BYTES))):
        count -= len(data)


def paced(
    pieces: Iterator[FloatArray],
    sample_rate: int,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[FloatArray]:
    """`pieces`, each no sooner than a microphone would have heard the whole of it."""
    began_s, heard = clock(), 0
    for piece in pieces:
        heard += len(piece)
        ahead_s = heard / sample_rate - (clock() - began_s)
        if ahead_s > 0:
            sleep(ahead_s)
        yield piece
