"""How much memory this process holds, and how to give back what the allocator keeps unused."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable

PARTS = 4
MIN_PART_RUNS = 3
LEAST_BYTES = 512 << 10
"""A part that grew by less says nothing: on a busy machine OpenVINO was seen to grow by 130 KiB in
each of twelve."""


def rss_bytes() -> int:
    """Resident set of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def private_bytes() -> int:
    """What this process alone holds, in memory or swapped out; 0 where the system does not tell.

    Pages of libraries and files come and go as the system likes, which is nobody's leak.
    """
    held = 0
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(("RssAnon:", "VmSwap:")):
                    held += int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        return 0
    return held


def trim() -> None:
    """Return free heap pages to the system, with glibc; elsewhere nothing happens.

    Loading a model frees much that the allocator then holds on to: 7 MB after MiniLM.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def growth_bytes(work: Callable[[], object], runs: int, limit_s: float) -> int:
    """What `work` keeps each time, at the least, when it is done again and again; 0 or more.

    In PARTS parts, of `runs` in all or of what fits `limit_s`. An engine that grows once, for a
    buffer that it did not have, does so in one part; one that leaks grows in each, so the part that
    grew the least counts, if that was LEAST_BYTES or more. Warm up before.
    """
    least: tuple[int, int] | None = None
    trim()
    before = private_bytes()
    for _ in range(PARTS):
        done, end_s = 0, time.monotonic() + limit_s / PARTS
        while done < runs // PARTS and (done < MIN_PART_RUNS or time.monotonic() < end_s):
            work()
            done += 1
        trim()
        now = private_bytes()
        least = min(least or (now - before, done), (now - before, done))
        before = now
    grown, done = least or (0, 1)
    return grown // done if grown >= LEAST_BYTES else 0
