"""Sound in chunks of any size, cut into overlapping windows of a model's length.

Chunks come from a recording or a microphone. A recording waits for the model, and every window is
had (`windows`). A microphone does not wait (`Microphone`): a thread takes what it gives, at most
`BACKLOG` windows wait for the model, and the oldest of more are dropped and counted. Either way
memory is that of a few windows, however long the sound and the chunks are.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InputError
from edge_runtime.inference.tasks.results import FloatArray

Chunk: TypeAlias = Union[  # noqa: UP007 - read by people as a list
    bytes, bytearray, memoryview, NDArray[np.int16], FloatArray
]
"""Sound of any length: 16-bit little-endian PCM of one channel, int16, or floats in -1..1."""

BACKLOG = 4
"""Windows of a microphone's that may wait: a pause of the system's is caught up with."""
MAX_PIECE = 1 << 14
"""Samples that are looked at in one go, however long a chunk is."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Samples `begin` to `end` (behind the last) of a sound, float32 in -1..1.

    `came_s`: when the last of them came, on the monotonic clock.
    """

    begin: int
    end: int
    samples: FloatArray
    came_s: float


def samples_of(chunks: Iterable[Chunk]) -> Iterator[FloatArray]:
    """Chunks as float32 in -1..1, in pieces of bounded size; half a sample waits for the rest.

    Raises:
        InputError: a chunk is something else, or holds a sample that is not a finite number.
    """
    half = b""
    for chunk in chunks:
        if isinstance(chunk, np.ndarray):
            yield from _pieces(chunk)
        elif isinstance(chunk, (bytes, bytearray, memoryview)):
            data = memoryview(half + bytes(chunk) if half else chunk).cast("B")
            whole = len(data) & ~1
            half = bytes(data[whole:])
            yield from _pieces(np.frombuffer(data[:whole], "<i2"))
        else:
            raise InputError(
                f"audio: a chunk is PCM bytes or samples, found {type(chunk).__name__}"
            )


def _pieces(chunk: NDArray[np.int16] | FloatArray) -> Iterator[FloatArray]:
    if chunk.ndim != 1 or (chunk.dtype.kind != "f" and chunk.dtype != np.int16):
        raise InputError(
            f"audio: a chunk has int16 or float samples of shape [n], found {chunk.dtype} of "
            f"{list(chunk.shape)}"
        )
    for at in range(0, len(chunk), MAX_PIECE):
        piece: FloatArray = chunk[at : at + MAX_PIECE].astype(np.float32)
        if chunk.dtype.kind != "f":
            piece *= np.float32(1 / (1 << 15))
        elif not np.isfinite(piece).all():
            raise InputError("audio: holds a sample that is not a finite number")
        yield piece


class Ring:
    """The last `size` samples of a sound; `total` counts all there were."""

    def __init__(self, size: int) -> None:
        self._kept = np.zeros(size, dtype=np.float32)
        self.total = 0

    def push(self, samples: FloatArray) -> None:
        """The next ones."""
        size = len(self._kept)
        self.total += len(samples)
        last = samples[-size:]
        at = (self.total - len(last)) % size
        first = min(len(last), size - at)
        self._kept[at : at + first] = last[:first]
        self._kept[: len(last) - first] = last[first:]

    def copy(self, begin: int, end: int) -> FloatArray:
        """Samples `begin` to `end`, of those that are still kept."""
        size = len(self._kept)
        if not max(0, self.total - size) <= begin <= end <= self.total:
            raise RuntimeError(f"samples {begin} to {end} are not kept any more, or not there yet")
        at = begin % size
        return np.concatenate(
            [self._kept[at : at + end - begin], self._kept[: max(0, at + end - begin - size)]]
        )


class Cutter:
    """Finds where windows end: the first after `length` samples, then one every `hop`."""

    def __init__(self, length: int, hop: int, keep: int) -> None:
        self.ring = Ring(keep)
        self.length = length
        self._hop = hop
        self._due = length

    def push(self, samples: FloatArray) -> Iterator[int]:
        """Take `samples`; the end of every window that they complete, once it is in the ring."""
        at = 0
        while at < len(samples):
            piece = samples[at : at + self._due - self.ring.total]
            self.ring.push(piece)
            at += len(piece)
            if self.ring.total == self._due:
                yield self._due
                self._due += self._hop

    def window(self, end: int, came_s: float) -> Window:
        """The window that ends there."""
        begin = end - self.length
        return Window(begin, end, self.ring.copy(begin, end), came_s)

    def short(self, came_s: float) -> Window | None:
        """What there is of a sound that has ended before its first window did, silence behind it.

        Raises:
            InputError: there is nothing of it.
        """
        total = self.ring.total
        if not total:
            raise InputError("audio: holds no samples")
        if total >= self.length:
            return None
        padded = np.pad(self.ring.copy(0, total), (0, self.length - total))
        return Window(0, total, padded, came_s)


def windows(
    chunks: Iterable[Chunk],
    length: int,
    hop: int,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Window]:
    """Every window of a recording, `length` samples each; what is left at the end is not used.

    Raises:
        InputError: as `samples_of`; the recording is empty.
    """
    cutter = Cutter(length, hop, length)
    came_s = clock()
    for samples in samples_of(chunks):
        came_s = clock()
        for end in cutter.push(samples):
            yield cutter.window(end, came_s)
    short = cutter.short(came_s)
    if short is not None:
        yield short


class Microphone:
    """Windows of a source that does not wait, which is read on a thread of its own.

    `dropped` counts those that came while `BACKLOG` others waited. The thread ends with the source,
    or, after `close`, at its next chunk.
    """

    def __init__(
        self,
        chunks: Iterable[Chunk],
        length: int,
        hop: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped = 0
        self._cutter = Cutter(length, hop, length + BACKLOG * hop)
        self._clock = clock
        self._due: deque[tuple[int, float]] = deque()
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._failed: BaseException | None = None
        threading.Thread(target=self._take, args=(chunks,), daemon=True, name="sound").start()

    def _take(self, chunks: Iterable[Chunk]) -> None:
        try:
            for samples in samples_of(chunks):
                with self._changed:
                    for end in self._cutter.push(samples):
                        self._due.append((end, self._clock()))
                        if len(self._due) > BACKLOG:
                            self._due.popleft()
                            self.dropped += 1
                    self._changed.notify()
                    if self._closed:
                        return
        except BaseException as reason:  # It is raised where somebody waits for the sound.
            self._failed = reason
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def __iter__(self) -> Iterator[Window]:
        while (window := self._next()) is not None:
            yield window
        if self._failed is not None:
            raise self._failed
        short = self._cutter.short(self._clock())
        if short is not None:
            yield short

    def _next(self) -> Window | None:
        with self._changed:
            self._changed.wait_for(lambda: self._due or self._ended)
            return self._cutter.window(*self._due.popleft()) if self._due else None

    def close(self) -> None:
        """Take nothing more."""
        with self._changed:
            self._closed = True
