"""Whether a bundle's files are all there and what its manifest says, as far as time allows.

Files are read a chunk at a time. Nothing is removed: what is spoiled in the store stays for the
agent to find.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge_runtime.bundle.archive import Reader
from edge_runtime.bundle.files import FileEntry
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.errors import EdgeError
from edge_runtime.text import plain

READ_S = 1.0


@dataclass(frozen=True, slots=True)
class Files:
    """What was found. `faults` are sentences by path; `unread_bytes` were not read in time."""

    faults: Mapping[str, str]
    unread_bytes: int
    total_bytes: int


def looked_through(
    reader: Reader,
    entries: Iterable[FileEntry],
    store: ChunkStore | None,
    limit_s: float,
) -> Files:
    """Every file of `entries`, in that order.

    Args:
        store: where the chunks are, of a bundle that is installed. What is missing there is told
            also of files for whose content there is no time.
        limit_s: how long files are read.
    """
    end_s = time.monotonic() + limit_s
    faults: dict[str, str] = {}
    unread = total = 0
    for entry in entries:
        total += entry.size_bytes
        lost = store.missing((entry,)) if store is not None else []
        if lost:
            faults[entry.path] = f"{len(lost)} of its {len(entry.chunks)} chunks are not here"
            continue
        left = entry.size_bytes
        try:
            if time.monotonic() < end_s:
                for chunk, _ in entry.checked(reader.pieces(entry), reader.where):
                    left -= chunk.size_bytes
                    if left and time.monotonic() >= end_s:
                        break
            unread += left
        except EdgeError as reason:
            faults[entry.path] = plain(str(reason).removeprefix(f"{reader.where}: "), 200)
    return Files(faults, unread, total)
