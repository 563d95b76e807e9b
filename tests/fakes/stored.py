"""A bundle in a device's store, as an installer leaves it, and the order for its worker."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from edge_runtime.agent.config import ApiConfig, WorkerConfig
from edge_runtime.agent.order import Order
from edge_runtime.bundle.archive import Reader
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from edge_runtime.bundle.store import ChunkStore


def store(reader: Reader, state: Path) -> str:
    """Put every chunk and the manifest under `state`; the manifest's digest."""
    data = reader.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
    chunks = ChunkStore(state / "chunks")
    for entry in Manifest.from_bytes(data).files:
        for chunk, piece in entry.cut(reader.read(entry.path, entry.size_bytes)):
            chunks.put(chunk, piece)
    digest = hashlib.sha256(data).hexdigest()
    (state / "manifests").mkdir(parents=True, exist_ok=True)
    (state / "manifests" / f"{digest}.json").write_bytes(data)
    return digest


def order(state: Path, digest: str, profile: str, **worker: Any) -> Order:
    """An order for a worker that is to load that bundle; `worker` are its settings."""
    return Order(
        control=-1,
        listener=-1,
        state_dir=str(state),
        manifest_sha256=digest,
        profile=profile,
        version="1",
        log_level="info",
        api=ApiConfig(),
        worker=WorkerConfig(**worker),
    )
