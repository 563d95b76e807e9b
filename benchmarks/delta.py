"""What a delta saves between two bundles: every way to code the new chunks, and ours end to end.

    python -m benchmarks.delta OLD.edge NEW.edge [--json]

Today a device fetches the chunks that it lacks. The rows say how many megabytes that is, for each
file and in all, and what it would be as a share of that with each chunk compressed alone, as its
difference from the bytes at the same place of the old file, or as their exclusive or. A chunk is
never counted with more than its own size. The last rows are of the delta that `edge-fleet` makes,
index and uncoded chunks included, and of the work of coding and rebuilding it: processor time of
one core, and the most memory that Python held while it rebuilt.
"""

from __future__ import annotations

import argparse
import bz2
import lzma
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.tables import Row, at_least, show
from edge_runtime.bundle.archive import open_bundle
from edge_runtime.bundle.delta import DeltaIndex, OldFiles, news, restore, split
from edge_runtime.bundle.files import Chunk
from edge_runtime.bundle.verify import VerifiedBundle, verify
from edge_runtime.fleet import deltas

RAW_LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 17, "lc": 0, "pb": 0}]


def _lzma(data: bytes) -> bytes:
    """Without container, and with the smallest dictionary: what a device could afford."""
    return lzma.compress(data, lzma.FORMAT_RAW, filters=RAW_LZMA)


def _deflate(data: bytes, level: int, strategy: int) -> bytes:
    coder = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, 8, strategy)
    return coder.compress(data) + coder.flush()


def _ours(data: bytes) -> bytes:
    return min(_deflate(data, 6, zlib.Z_FILTERED), _deflate(data, 6, zlib.Z_HUFFMAN_ONLY), key=len)


CODINGS: Mapping[str, tuple[str, Callable[[bytes], bytes]]] = {
    "alone, zlib 9": ("alone", lambda data: zlib.compress(data, 9)),
    "alone, lzma": ("alone", _lzma),
    "difference, zlib 9": ("difference", lambda data: zlib.compress(data, 9)),
    "difference, zlib 6": ("difference", _ours),
    "difference, bz2": ("difference", bz2.compress),
    "difference, lzma": ("difference", _lzma),
    "exclusive or, zlib 9": ("exclusive or", lambda data: zlib.compress(data, 9)),
}
"""Name → what of the chunk is coded, and how."""


def measure(old: Path, new: Path) -> list[Row]:
    """Rows for the way from `old` to `new`."""
    before, after = (verify(open_bundle(path)) for path in (old, new))
    return [*_codings(before, after), *_end_to_end(before, after)]


def _codings(before: VerifiedBundle, after: VerifiedBundle) -> Iterator[Row]:
    held = {chunk.sha256 for entry in before.manifest.files for chunk in entry.chunks}
    paths = {entry.path for entry in before.manifest.files}
    sums: dict[str, int] = dict.fromkeys(CODINGS, 0)
    plain = 0
    for entry in after.manifest.files:
        data = after.read(entry.path)
        base = before.read(entry.path) if entry.path in paths else b""
        found: dict[str, int] = dict.fromkeys(CODINGS, 0)
        missing = start = 0
        for chunk, piece in entry.cut(data):
            if chunk.sha256 not in held:
                missing += chunk.size_bytes
                for name, size in _sizes(bytes(piece), base[start:]).items():
                    found[name] += size
            start += chunk.size_bytes
        if not missing:
            continue
        yield Row(f"{entry.path}: size", entry.size_bytes / 1e6, "MB")
        yield Row(f"{entry.path}: larger than before", entry.size_bytes - len(base), "bytes")
        yield Row(f"{entry.path}: new chunks", missing / 1e6, "MB")
        for name, size in found.items():
            yield Row(f"{entry.path}: {name}", 100 * size / missing, "% of new chunks")
            sums[name] += size
        plain += missing
    yield Row("all files: size", after.manifest.size_bytes / 1e6, "MB")
    yield Row("all files: new chunks", plain / 1e6, "MB")
    for name, size in sums.items():
        if plain:
            yield Row(f"all files: {name}", 100 * size / plain, "% of new chunks")


def _sizes(new: bytes, old: bytes) -> dict[str, int]:
    a = np.frombuffer(new, np.uint8)
    b = np.frombuffer(old[: len(new)].ljust(len(new), b"\0"), np.uint8)
    forms = {
        "alone": new,
        "difference": (a - b).tobytes(),
        "exclusive or": (a ^ b).tobytes(),
    }
    return {name: min(len(code(forms[form])), len(new)) for name, (form, code) in CODINGS.items()}


def _end_to_end(before: VerifiedBundle, after: VerifiedBundle) -> Iterator[Row]:
    begin = time.process_time()
    old, new = deltas.Source.of(before), deltas.Source.of(after)
    made = deltas.delta(old, new, after.manifest.profile)
    seconds = time.process_time() - begin
    if made is None:
        yield Row("delta: not worth it", 0, "")
        return
    blobs = {chunk.sha256: data for chunk, data in made.blobs}
    index = DeltaIndex.from_bytes(b"".join(blobs[c.sha256] for c in made.ref.index.chunks))
    yield Row("delta: pieces", len(index.pieces), "")
    yield Row("delta: index", made.ref.index.size_bytes / 1e3, "kB")
    yield Row("delta: on the wire", made.wire_bytes / 1e6, "MB")
    yield at_least(
        "delta: saved", 100 * (1 - made.wire_bytes / made.plain_bytes), "% of new chunks", 30
    )
    yield Row("delta: coding", seconds * 1e9 / made.plain_bytes, "ms per MB")
    chunks = news(before.manifest, after.manifest)
    pool: dict[str, bytes] = {
        chunk.sha256: bytes(piece)
        for entry in before.manifest.files
        for chunk, piece in entry.cut(before.read(entry.path))
    }
    files = OldFiles(before.manifest, lambda chunk: pool[chunk.sha256])
    begin = time.process_time()
    rebuilt = _rebuild(index, blobs, chunks, files)
    seconds = time.process_time() - begin
    yield Row("delta: rebuilding", seconds * 1e9 / rebuilt, "ms per MB")
    tracemalloc.start()
    _rebuild(index, blobs, chunks, files)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    yield Row("delta: memory to rebuild", peak / 1e6, "MB")


def _rebuild(
    index: DeltaIndex, blobs: Mapping[str, bytes], chunks: tuple[Chunk, ...], files: OldFiles
) -> int:
    """Bytes of all chunks that the pieces make; each is held to its digest."""
    total = 0
    for piece in index.pieces:
        differences = split(blobs[piece.blob.sha256], piece.count)
        for chunk, one in zip(chunks[piece.first :], differences, strict=False):
            old = files.range(one.file, one.offset, chunk.size_bytes)
            chunk.check(restore(one.coded, old, chunk.size_bytes), "benchmark")
            total += chunk.size_bytes
    return total


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="the bundle that a device has: folder or .edge")
    parser.add_argument("new", type=Path, help="the bundle that it fetches")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    show("delta", measure(options.old, options.new), as_json=options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
