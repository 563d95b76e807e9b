"""The bundle of an order, and the cores of an engine: what a worker and its provers both begin by.

A bundle is opened from the device's store by its manifest's digest. Its files were compared when
they were installed, and are again on every read.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edge_runtime.bundle import durable
from edge_runtime.bundle.manifest import MAX_MANIFEST_BYTES
from edge_runtime.bundle.store import ChunkStore, StoreReader
from edge_runtime.bundle.verify import VerifiedBundle, verify
from edge_runtime.errors import DeviceError
from edge_runtime.profile import Engine


def stored_bundle(state: Path, manifest_sha256: str) -> VerifiedBundle:
    """The bundle with that manifest in the store under `state`.

    Raises:
        DeviceError: it cannot be read.
        UntrustedError, IncompatibleError: it is not to be believed, or of another format.
    """
    path = state / "manifests" / f"{manifest_sha256}.json"
    try:
        data = durable.read(path, MAX_MANIFEST_BYTES + 1)
    except OSError as reason:
        raise DeviceError(f"manifest {path}: cannot be read ({reason.strerror})") from None
    reader = StoreReader(ChunkStore(state / "chunks"), data)
    return verify(reader, manifest_sha256=manifest_sha256, files=False)


def pin(engine: Engine | None, cores: frozenset[int]) -> None:
    """Let this thread, and those that it starts, run on the engine's cores of `cores` only.

    All of them where the profile names none, or none that is here: a board with a core switched
    off, or a system that does not let us choose, is no reason not to serve.
    """
    wanted = cores & set(engine.affinity) if engine else frozenset[int]()
    if (wanted or cores) != own_cores():
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, wanted or cores)


def own_cores() -> frozenset[int]:
    """The cores that this process may use now."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()
