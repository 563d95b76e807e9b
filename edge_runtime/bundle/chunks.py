"""Cutting files by their content, so that an edit changes the chunks around it and no others.

A gear hash rolls over the last 32 bytes; a chunk ends where it falls below a threshold. Between
the smallest and the normal size the threshold is hard to meet, past the normal size easy, so that
sizes gather around 64 KiB and few chunks run into the limit ("normalized chunking"). Host only:
this needs numpy. A device joins chunks and never cuts: any list of 1 byte to 128 KiB is a legal
one, and this cut may change without a new bundle format, at the price of one large update.

Source: Wen Xia et al., "FastCDC: a Fast and Efficient Content-Defined Chunking Approach for Data
Deduplication", USENIX ATC 2016, sections 3.2 to 3.4.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

from edge_runtime.bundle.files import MAX_CHUNK_BYTES, Chunk, FileEntry, sha256_hex

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_BYTES = 16 << 10
NORMAL_BYTES = 52 << 10
MAX_BYTES = MAX_CHUNK_BYTES
WINDOW = 32
"""Bytes that the hash sees: older ones have been shifted out of its 32 bits."""
HARD = 1 << 14
"""Below it falls one hash in 2**18: 256 KiB apart on average."""
EASY = 1 << 18
"""Below it falls one hash in 2**14: 16 KiB apart on average."""
_STEP_BYTES = 16 << 10


def cut(data: bytes) -> list[int]:
    """Sizes of the chunks of `data`, in order; they add up to its length, and none is empty.

    The same bytes give the same sizes on every platform and numpy version. Every chunk has
    MIN_BYTES..MAX_BYTES, only the last may be smaller.
    """
    view = memoryview(data)
    sizes: list[int] = []
    start = 0
    while start < len(view):
        sizes.append(_first_cut(view[start : start + MAX_BYTES]))
        start += sizes[-1]
    return sizes


def file_entry(path: str, data: bytes) -> FileEntry:
    """`data` as the manifest lists it under `path`."""
    view = memoryview(data)
    chunks: list[Chunk] = []
    start = 0
    for size in cut(data):
        piece = view[start : start + size]
        chunks.append(Chunk(hashlib.sha256(piece).hexdigest(), size))
        start += size
    return FileEntry(path, len(data), sha256_hex(data), tuple(chunks))


def _first_cut(view: memoryview) -> int:
    """Where the first chunk of `view` ends; `view` is at most MAX_BYTES long."""
    position = MIN_BYTES
    while position < len(view):
        bound = NORMAL_BYTES if position < NORMAL_BYTES else MAX_BYTES
        end = min(position + _STEP_BYTES, bound, len(view))
        hashes = _hashes(view[position - WINDOW : end])
        below = hashes < (HARD if position < NORMAL_BYTES else EASY)
        first = int(below.argmax())
        if below[first]:
            return position + first
        position = end
    return len(view)


def _hashes(view: memoryview) -> NDArray[np.uint32]:
    """Hash of each window of 32 bytes but the last: entry i is of view[i : i + 32].

    The rolling hash h = (h << 1) + gear[byte] in 32 bits, for all places at once: the sum over 2n
    bytes is the sum over the last n plus the one over the n before, shifted by n.
    """
    import numpy as np

    h = _gear()[np.frombuffer(view, dtype=np.uint8)]
    width = 1
    while width < WINDOW:
        h = h[width:] + (h[:-width] << np.uint32(width))
        width *= 2
    return h[:-1]


@functools.cache
def _gear() -> NDArray[np.uint32]:
    """256 numbers that nobody chose: the first four bytes, little-endian, of SHA-256 of a byte."""
    import numpy as np

    head = b"".join(hashlib.sha256(bytes([value])).digest()[:4] for value in range(256))
    return np.frombuffer(head, dtype="<u4").astype(np.uint32)
