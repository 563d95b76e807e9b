"""Every contender's model file: a tool's is built in its environment, ours comes as it is.

A build is kept under a digest of all that it depends on, with the seconds and the memory that it
took, so a second run measures at once; so are its answers, which are the same every time. A
failed build is not kept.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compression.catalogue import Peer
from benchmarks.compression.environments import prepare, version
from benchmarks.compression.process import BUILD_LIMIT_S, PeerProcess, command
from benchmarks.compression.reference import Reference
from edge_runtime.bundle.archive import open_bundle
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.verify import verify

BUILD_FILE = "build.json"
MODELS = "models"
SOURCES = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Built:
    """A model that can be served. `build_s` and `peak_rss_bytes` are 0 for our bundles.

    `size_bytes` is of the model's files alone: a tokenizer comes on top for everybody. `place` is
    the folder of what a tool built, where its answers can be kept, too.
    """

    id: str
    title: str
    words: tuple[str, ...]
    size_bytes: int
    build_s: float = 0.0
    peak_rss_bytes: int = 0
    quantized: bool = True
    ours: bool = False
    place: Path | None = None


def built(peer: Peer, reference: Reference, cache: Path) -> Built:
    """Build `peer` in `cache`, or find it there.

    Raises:
        PeerError: the environment or the build fails; says why.
    """
    python = prepare(peer.environment, cache)
    place = cache / MODELS / _digest(peer, reference)
    if not (place / BUILD_FILE).is_file():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        words = command(python, "build", peer.module, peer.variant, reference.inputs_file, place)
        started = time.perf_counter()
        with PeerProcess(words, place / "build.log", BUILD_LIMIT_S) as process:
            told = process.reply()
        told["build_s"] = time.perf_counter() - started
        (place / BUILD_FILE).write_text(json.dumps(told))
    told = json.loads((place / BUILD_FILE).read_text())
    return Built(
        id=peer.id,
        title=peer.title,
        words=tuple(command(python, "serve", peer.module, peer.variant, place)),
        size_bytes=int(told["size_bytes"]),
        build_s=float(told["build_s"]),
        peak_rss_bytes=int(told["peak_rss_bytes"]),
        quantized=peer.quantized,
        place=place,
    )


def bundled(path: Path, task: str, cache: Path) -> Sequence[Built]:
    """One contender for each variant of the bundle at `path`; none where its task is another.

    Raises:
        EdgeError: not a bundle that can be trusted.
    """
    manifest = verify(open_bundle(path), files=False).manifest
    if manifest.task != task:
        return ()
    python = prepare("host", cache)
    # The folder, or the one that the file lies in: two bundles of one recipe may be compared.
    place = path.resolve() if path.is_dir() else path.resolve().parent
    sizes = {entry.path: entry.size_bytes for entry in manifest.files}
    return tuple(
        Built(
            id=f"{place.name}:{variant.id}",
            title=f"{_name(manifest)}, {variant.id}",
            words=tuple(command(python, "serve", "ours", variant.id, path.resolve())),
            size_bytes=sizes[variant.file],
            quantized=not variant.precision.startswith("float"),
            ours=True,
        )
        for variant in manifest.variants
    )


def _name(manifest: Manifest) -> str:
    return f"ours: {manifest.name} {manifest.version}"


def _digest(peer: Peer, reference: Reference) -> str:
    parts = [reference.digest, peer.module, peer.variant, version(peer.environment)]
    # A tool's module decides what is built; the one for ONNX files serves several.
    parts += [(SOURCES / "peers" / f"{name}.py").read_text() for name in (peer.module, "ort")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
