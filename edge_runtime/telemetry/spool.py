"""Telemetry that waits on disk while the broker is away: bounded, and kind to SD cards.

JSON lines in numbered segment files. The oldest segment goes when the bound is reached, and its
lines are counted as dropped; a segment goes as well when all of it was delivered. Where delivery
stood is not written down: after a restart part of the oldest segment is delivered again, and the
receiver knows a duplicate by its sequence number. A power cut loses what was appended since the
last `fsync`, which happens at most every `sync_s`; a line it tore is passed over.

What stands on the disk is not believed: a link, a stranger's file, a segment larger than the bound
and a line that no broker would carry are passed over.

The spool never stops its owner: a full or broken disk costs lines, which are counted; an outage is
said once, and so is its end. Writing is unbuffered: a buffer would fail again when it is closed,
long after its line was given up.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from edge_runtime.errors import DeviceError

log = logging.getLogger(__name__)

SEGMENTS = 8
MIN_BYTES = 4096
MAX_LINE_BYTES = 128 << 10
"""What the strictest cloud broker carries."""
_NAME = r"0[0-9]{11}\.jsonl"
"""As we write it; the numbers that begin with another digit leave room above the highest."""


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
        self._file: FileIO | None = None
        self._dirty = False
        self._outages: set[str] = set()  # what fails at present, told already
        self._delivered = 0  # lines of the oldest segment
        self._read: deque[bytes] = deque()  # lines of the oldest segment, once it was read
        self._read_number = -1
        self.dropped = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = [name for name in os.listdir(folder) if re.fullmatch(_NAME, name)]
            self._segments = deque(_found(folder, names, max_bytes))
        except OSError as error:
            raise DeviceError(f"spool {folder}: {error.strerror}") from None
        # Never appended to: its last line may be torn.
        self._next_number = 1 + max((int(Path(name).stem) for name in names), default=0)

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
        limit = min(self._segment_bytes - 1, MAX_LINE_BYTES)
        if b"\n" in line or not _is_whole(line) or len(line) > limit:
            raise RuntimeError(f"spool: not one JSON object of at most {limit} bytes")
        self._make_room(len(line) + 1)
        try:
            _write_whole(self._open(), line + b"\n")
        except OSError as error:
            self.dropped += 1
            self._told("written", error)
            self._abandon()
            return False
        segment = self._segments[-1]
        segment.size_bytes += len(line) + 1
        segment.lines += 1
        self._dirty = True
        self._works("written")
        if self._synced_s is None:
            self._synced_s = now_s
        if now_s - self._synced_s >= self._sync_s:
            self._sync(now_s)
        return True

    def read(self, max_lines: int) -> list[bytes]:
        """The oldest lines, oldest first; they stay until `done`."""
        while self._segments:
            segment = self._segments[0]
            if segment.lines and self._holds(segment):
                break
            self._remove_oldest()  # Nothing in it: what a cut or a full disk left behind.
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
        self._rotate()

    def _holds(self, segment: _Segment) -> bool:
        """Have what waits in the oldest segment at hand; False where nothing of it can be read."""
        if self._read_number == segment.number and (
            len(self._read) + self._delivered >= segment.lines
        ):
            return True
        try:
            lines = _lines(segment.path)
        except OSError as error:
            self._told("read", error)
            self.dropped += segment.lines - self._delivered
            return False
        self._works("read")
        self.dropped += max(0, segment.lines - len(lines))
        self._read_number = segment.number
        self._read = deque(lines[self._delivered :])
        segment.lines = len(lines)
        return bool(self._read)

    def _open(self) -> FileIO:
        if self._file is None:
            number = self._next_number
            self._next_number += 1
            path = self._folder / f"{number:012d}.jsonl"
            self._file = FileIO(path, "xb")
            self._segments.append(_Segment(number, path, 0, 0))
        return self._file

    def _abandon(self) -> None:
        """After a failed append: the next one begins a segment of its own, behind no torn line."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # The torn line would be passed over all the same.
                self._file.truncate(self._segments[-1].size_bytes)
        self._close()
        if self._segments and not self._segments[-1].size_bytes:
            self._remove(self._segments.pop())

    def _make_room(self, size_bytes: int) -> None:
        if self._file is not None and (
            self._segments[-1].size_bytes + size_bytes > self._segment_bytes
        ):
            self._rotate()
        while self._segments and self.size_bytes + size_bytes > self._max_bytes:
            self.dropped += self._segments[0].lines - self._delivered
            self._remove_oldest()

    def _rotate(self) -> None:
        self._sync(None)
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        self._dirty = False
        if file is not None:
            with contextlib.suppress(OSError):  # What was not written was told already.
                file.close()

    def _sync(self, now_s: float | None) -> None:
        """Lines that the disk would not take now are still read; only a power cut loses them."""
        self._synced_s = now_s
        if self._file is not None and self._dirty:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                self._told("synced", error)
            else:
                self._works("synced")
                self._dirty = False

    def _remove_oldest(self) -> None:
        segment = self._segments.popleft()
        self._delivered = 0
        self._read.clear()
        self._read_number = -1
        if not self._segments:
            self._close()
        self._remove(segment)

    def _remove(self, segment: _Segment) -> None:
        try:
            segment.path.unlink(missing_ok=True)
        except OSError as error:
            self._told("removed", error)
        else:
            self._works("removed")

    def _told(self, what: str, error: OSError) -> None:
        """`what` cannot be done; said once, until it can be again."""
        if what not in self._outages:
            self._outages.add(what)
            log.warning(
                "spool cannot be %s", what,
                extra={"path": str(self._folder), "reason": error.strerror},
            )  # fmt: skip

    def _works(self, what: str) -> None:
        if what in self._outages:
            self._outages.remove(what)
            log.info("spool can be %s again", what, extra={"path": str(self._folder)})


def _write_whole(file: FileIO, data: bytes) -> None:
    """A disk takes what still fits of a line; that is a failure as well."""
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _found(folder: Path, names: Sequence[str], max_bytes: int) -> Iterator[_Segment]:
    """Those of `names` that are files, in order."""
    for name in sorted(names):
        path = folder / name
        found = path.lstat()
        if stat.S_ISREG(found.st_mode):
            lines = 0
            with contextlib.suppress(OSError):  # It is removed when its turn comes.
                lines = len(_lines(path)) if found.st_size <= max_bytes else 0
            yield _Segment(int(path.stem), path, found.st_size, lines)


def _lines(path: Path) -> list[bytes]:
    """Whole lines; one that a power cut tore or filled with zeros is passed over."""
    return [line for line in path.read_bytes().split(b"\n") if _is_whole(line)]


def _is_whole(line: bytes) -> bool:
    return line.startswith(b"{") and line.endswith(b"}") and len(line) <= MAX_LINE_BYTES
