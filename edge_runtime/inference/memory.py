"""How much memory this process holds, and how to give back what the allocator keeps unused."""

from __future__ import annotations

import contextlib
import ctypes
import os


def rss_bytes() -> int:
    """Resident set of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def trim() -> None:
    """Return free heap pages to the system, with glibc; elsewhere nothing happens.

    Loading a model frees much that the allocator then holds on to: 7 MB after MiniLM.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
