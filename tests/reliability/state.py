"""What must be true of a state folder after any fault, read from the folder of a stopped device.

Read with this module's own few lines, not with the product's store, which would mend what it reads.
The journal alone is read with the product's code: it is readable if the product can read it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from hashlib import sha256
from pathlib import Path

from edge_runtime.messages.fleet import BundleRef
from edge_runtime.update.journal import Journal
from edge_runtime.update.record import Record

DIGEST = re.compile("[0-9a-f]{64}")
LEAK = "leak: "
KNOWN = {"agent", "chunks", "manifests", "journal.json", "lock", "reported.json", "spool", "trust"}
"""What a device keeps at the top of its state folder."""


def record(state: Path) -> Record | None:
    """What the journal says, or None where there is none that can be read."""
    return Journal(state / "journal.json").load()


def broken(state: Path, may_serve: Collection[str], *, at_rest: bool = False) -> list[str]:
    """What is untrue that must be true; nothing is changed.

    Args:
        may_serve: manifest digests; the active bundle is one of them. Empty: there may be none.
        at_rest: no update is under way, and the last one was pruned after.
    """
    found = record(state)
    if found is None:
        if not may_serve and not (state / "journal.json").exists():
            return []
        return ["the journal cannot be read"]
    rest = _exact(state, found) if at_rest else ()
    return [*_serves(state, found, may_serve), *_whole_chunks(state), *_metadata(state), *rest]


def _serves(state: Path, found: Record, may_serve: Collection[str]) -> Iterator[str]:
    """The active bundle is a right one and whole, and one to fall back on is whole as well."""
    if found.active is None:
        if may_serve:
            yield "no bundle is active"
        return
    if may_serve and found.active.manifest_sha256 not in may_serve:
        yield f"{found.active.version} is active"
    if not found.good and found.previous is None and len(may_serve) > 1:
        yield f"{found.active.version} is on trial with nothing to fall back on"
    for name, bundle in (("active", found.active), ("previous", found.previous)):
        for fault in _files(state, bundle) if bundle else ():
            yield f"{name} {bundle.version if bundle else ''}: {fault}"


def _files(state: Path, bundle: BundleRef) -> Iterator[str]:
    """Files of `bundle` that are not what its manifest says."""
    path = state / "manifests" / f"{bundle.manifest_sha256}.json"
    data = path.read_bytes() if path.is_file() else b""
    if sha256(data).hexdigest() != bundle.manifest_sha256:
        yield "its manifest is lost or spoiled"
        return
    for entry in json.loads(data)["files"]:
        whole = sha256()
        for digest, _ in entry["chunks"]:
            chunk = state / "chunks" / digest[:2] / digest
            whole.update(chunk.read_bytes() if chunk.is_file() else b"")
        if whole.hexdigest() != entry["sha256"]:
            yield f"{entry['path']} is not whole"


def _whole_chunks(state: Path) -> Iterator[str]:
    """A chunk is there whole or not at all, needed or not."""
    for path in _chunks(state):
        if DIGEST.fullmatch(path.name) and sha256(path.read_bytes()).hexdigest() != path.name:
            yield f"chunk {path.name[:12]} is torn"


def _metadata(state: Path) -> Iterator[str]:
    """Trusted metadata is there whole or not at all."""
    for path in sorted((state / "trust").rglob("[!.]*.json")):
        try:
            json.loads(path.read_bytes())
        except (OSError, ValueError):
            yield f"{path.relative_to(state)} is torn"


def _exact(state: Path, found: Record) -> Iterator[str]:
    """Nothing is in the folder but what the kept bundles need."""
    kept = [bundle.manifest_sha256 for bundle in (found.active, found.previous) if bundle]
    if found.candidate is not None:
        yield f"{found.candidate.version} is still a candidate"
    needed = set()
    for digest in kept:
        path = state / "manifests" / f"{digest}.json"
        for entry in json.loads(path.read_bytes())["files"] if path.is_file() else ():
            needed |= {chunk for chunk, _ in entry["chunks"]}
    here = {path.name for path in _chunks(state)}
    yield from (f"{LEAK}chunk {name[:12]}" for name in sorted(here - needed))
    yield from (f"chunk {name[:12]} is lost" for name in sorted(needed - here))
    manifests = {path.name for path in (state / "manifests").iterdir()}
    expected = {f"{digest}.json" for digest in kept}
    yield from (f"{LEAK}manifests/{name}" for name in sorted(manifests - expected))
    strays = [path for path in state.iterdir() if path.name not in KNOWN]
    strays += [path for path in (state / "chunks").iterdir() if not path.is_dir()]
    strays += [path for path in (state / "trust").rglob("*") if path.name.startswith(".")]
    yield from (f"{LEAK}{path.relative_to(state)}" for path in strays)


def _chunks(state: Path) -> list[Path]:
    return sorted((state / "chunks").glob("??/*"))
