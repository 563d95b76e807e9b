"""What a disk's state folder says of an update, and whether it says enough."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.bundle.manifest import Manifest
from edge_runtime.messages.fleet import Release, Reported
from tests.board.fleet import chunks_of
from tests.board.moments import BEFORE, IDLE, ORDER
from tests.reliability import state

ROLES = ("root", "timestamp", "snapshot", "targets")
FLOOR = "time floor"


@dataclass(frozen=True, slots=True)
class Evidence:
    """`stage` of the update to one release by the journal, and `held` of its `needed` chunks."""

    stage: str
    held: int
    needed: int

    @classmethod
    def read(cls, folder: Path, release: Release, manifest: Manifest) -> Evidence:
        """From the state folder."""
        chunks = chunks_of(manifest)
        held = sum((folder / "chunks" / name[:2] / name).is_file() for name in chunks)
        return cls(_stage(folder, release), held, len(chunks))

    def less_than(self, said: str, reported: Reported | None) -> list[str]:
        """What the board had said that is not on its disk."""
        faults: list[str] = []
        order = (BEFORE, *ORDER)
        if said in order and self.stage in order and order.index(self.stage) < order.index(said):
            faults.append(f"it had said {said}, the disk has {self.stage}")
        if reported and reported.progress and reported.state == self.stage == "fetching":
            counted = reported.progress.chunks_held
            if self.held < counted <= self.needed:
                faults.append(f"it had reported {counted} chunks, the disk has {self.held}")
        return faults


def _stage(folder: Path, release: Release) -> str:
    found = state.record(folder)
    wanted = found.desired.release if found is not None and found.desired is not None else None
    if found is None or wanted is None or wanted.ref != release.ref:
        return BEFORE
    if found.state.value == IDLE and found.active != release.ref:
        return BEFORE
    return found.state.value


@dataclass(slots=True)
class Trust:
    """Versions of trusted metadata, and the floor of time, as last seen on the disk."""

    seen: dict[str, float] = field(default_factory=dict)

    def older(self, folder: Path) -> list[str]:
        """What went back since the last look, or cannot be read."""
        faults: list[str] = []
        found = _versions(folder, faults)
        for what, before in self.seen.items():
            if found.get(what, 0.0) < before:
                faults.append(f"{what} went back from {before:g} to {found.get(what, 0.0):g}")
        self.seen |= {what: max(value, self.seen.get(what, 0.0)) for what, value in found.items()}
        return faults

    def behind(self, timestamp_version: int) -> list[str]:
        """Whether the newest that was signed has not come."""
        seen = self.seen.get("timestamp", 0.0)
        if seen == timestamp_version:
            return []
        return [f"timestamp {seen:g} on the disk, signed was {timestamp_version}"]


def _versions(folder: Path, faults: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for role in ROLES:
        path = folder / f"{role}.json"
        if path.exists():
            try:
                found[role] = float(json.loads(path.read_bytes())["signed"]["version"])
            except (OSError, ValueError, LookupError, TypeError):
                faults.append(f"{path.name} is spoiled")
    path = folder / "time.json"
    if path.exists():
        try:
            found[FLOOR] = float(json.loads(path.read_bytes())["time_s"])
        except (OSError, ValueError, LookupError, TypeError):
            faults.append(f"{path.name} is spoiled")
    return found
