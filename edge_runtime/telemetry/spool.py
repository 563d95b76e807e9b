"""Telemetry that waits on disk while the broker is away: bounded, and kind to SD cards.

JSON lines in numbered segment files. The oldest segment goes when the bound is reached, and its
lines are counted as dropped; a segment goes as well when all of it was delivered. Where delivery
stood is not written down: after a restart part of the oldest segment is delivered again, and the
receiver knows a duplicate by its sequence number. A power cut loses what was appended since the
last `fsync`, which happens at most every `sync_s`; a line it tore is passed over.

The spool never stops its owner: a full or broken disk costs lines, which are counted, and is said
once.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edge_runtime.errors import DeviceError

log = logging.getLogger(__name__)

SEGMENTS = 8
MIN_BYTES = 4096


@dataclass(slots=True)
class _Segment:
    number: int
    path: Path
    size_bytes: int
    lines: int


class Spool:
    """One folder of segments, used by one thread of one process."""

    def __init__(self, folder: Path, *, max_bytes: int = 4 << 20, sync_s: float = 30.0) -> None:
        """Picks up what an earlier process left.

        Raises:
            DeviceError: the folder cannot be made or read.
        """
        if max_bytes < MIN_BYTES:
            raise RuntimeError(f"spool of {max_bytes} bytes, at least {MIN_BYTES}")
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = max_bytes // SEGMENTS
        self._sync_s = sync_s
        self._synced_s: float | None = None
        self._file: BinaryIO | None = None
        self._dirty = False
        self._failing = False
        self._delivered = 0  # lines of the oldest segment
        self._read: deque[bytes] = deque()  # lines of the oldest segment, once it was read
        self._read_number = -1
        self.dropped = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._segments = deque(_found(folder))
        except OSError as error:
            raise DeviceError(f"spool {folder}: {error.strerror}") from None
        last = self._segments[-1].number if self._segments else 0
        # Never appended to: its last line may be torn.
        self._next_number = last + 1

    def __len__(self) -> int:
        """Lines that wait."""
        return sum(s.lines for s in self._segments) - self._delivered

    @property
    def size_bytes(self) -> int:
        """On disk; at most `max_bytes`."""
        return sum(segment.size_bytes for segment in self._segments)

    def append(self, line: bytes, now_s: float) -> bool:
        """Keep one JSON object; False (and counted) where the disk would not.

        Raises:
            RuntimeError: `line` holds a newline or is no object, or is too large ever to fit.
        """
        line = line.rstrip(b"\n")
        if b"\n" in line or not _is_whole(line) or len(line) >= self._segment_bytes:
            raise RuntimeError(f"spool: not one JSON object of less than {self._segment_bytes}")
        try:
            self._make_room(len(line) + 1)
            file = self._open()
            file.write(line + b"\n")
            file.flush()
            segment = self._segments[-1]
            segment.size_bytes += len(line) + 1
            segment.lines += 1
            self._dirty = True
            if self._synced_s is None:
                self._synced_s = now_s
            if now_s - self._synced_s >= self._sync_s:
                self._sync(now_s)
        except OSError as error:
            self._failed(error)
            return False
        self._failing = False
        return True

    def read(self, max_lines: int) -> list[bytes]:
        """The oldest lines, oldest first; they stay until `done`."""
        if not self._segments:
            return []
        segment = self._segments[0]
        if self._read_number != segment.number or len(self._read) + self._delivered < segment.lines:
            try:
                lines = _lines(segment.path)
            except OSError as error:
                self._failed(error)
                self.dropped += segment.lines - self._delivered - 1  # one was counted
                self._remove_oldest()
                return self.read(max_lines)
            self._read_number = segment.number
            self._read = deque(lines[self._delivered :])
            segment.lines = len(lines)
        return [self._read[i] for i in range(min(max_lines, len(self._read)))]

    def done(self, lines: int) -> None:
        """The first `lines` of the last `read` were delivered."""
        if lines > len(self._read):
            raise RuntimeError(f"spool: {lines} lines done, {len(self._read)} were read")
        for _ in range(lines):
            self._read.popleft()
        self._delivered += lines
        if self._segments and self._delivered >= self._segments[0].lines:
            self._remove_oldest()

    def close(self) -> None:
        """Write out what the disk does not have yet."""
        try:
            self._rotate()
        except OSError as error:
            self._failed(error)

    def _open(self) -> BinaryIO:
        if self._file is None:
            path = self._folder / f"{self._next_number:012d}.jsonl"
            self._file = path.open("xb")
            self._segments.append(_Segment(self._next_number, path, 0, 0))
            self._next_number += 1
        return self._file

    def _make_room(self, size_bytes: int) -> None:
        if self._file is not None and (
            self._segments[-1].size_bytes + size_bytes > self._segment_bytes
        ):
            self._rotate()
        while self._segments and self.size_bytes + size_bytes > self._max_bytes:
            self.dropped += self._segments[0].lines - self._delivered
            self._remove_oldest()

    def _rotate(self) -> None:
        if self._file is not None:
            try:
                self._sync(None)
            finally:
                self._file.close()
                self._file = None

    def _sync(self, now_s: float | None) -> None:
        if self._file is not None and self._dirty:
            os.fsync(self._file.fileno())
            self._dirty = False
        self._synced_s = now_s

    def _remove_oldest(self) -> None:
        segment = self._segments.popleft()
        self._delivered = 0
        self._read.clear()
        self._read_number = -1
        if not self._segments and self._file is not None:
            self._file.close()
            self._file = None
            self._dirty = False
        try:
            segment.path.unlink(missing_ok=True)
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        self.dropped += 1
        if self._file is not None:
            # What is half written stays; the next segment starts clean.
            self._file.close()
            self._file = None
        if not self._failing:
            self._failing = True
            log.warning(
                "spool failing", extra={"path": str(self._folder), "reason": error.strerror}
            )


def _found(folder: Path) -> list[_Segment]:
    segments = []
    for path in sorted(folder.glob("*.jsonl")):
        if path.stem.isdecimal() and path.is_file():
            lines = len(_lines(path))
            segments.append(_Segment(int(path.stem), path, path.stat().st_size, lines))
    return segments


def _lines(path: Path) -> list[bytes]:
    """Whole lines; one that a power cut tore or filled with zeros is passed over."""
    return [line for line in path.read_bytes().split(b"\n") if _is_whole(line)]


def _is_whole(line: bytes) -> bool:
    return line.startswith(b"{") and line.endswith(b"}")
