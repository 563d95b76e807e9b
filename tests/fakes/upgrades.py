"""A board below a prefix whose agent can be updated, and a fleet that signs new agents for it.

The agent is not run here: `Board.hold` puts into its state folder what its driver would have
fetched, and `Board.ask` what it would ask for. The helper is the real one; its service manager and
the machine's clocks are the other side, and faked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edge_runtime.agent.upgrade.helper import Bounds, Helper
from edge_runtime.agent.upgrade.places import DRIVER, Places
from edge_runtime.agent.upgrade.record import Record, load
from edge_runtime.agent.upgrade.request import Request
from edge_runtime.agent.upgrade.states import Candidate
from edge_runtime.bundle.agent_package import own_platform
from edge_runtime.bundle.archive import Reader
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.files import sha256_hex
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.fleet.agent_publish import PackageReader
from edge_runtime.messages.fleet import Release
from edge_runtime.update.clock import Clock
from edge_runtime.update.trust.client import Client
from tests.fakes import debs
from tests.fakes.signed import FakeReadings, SignedRepository

BOUNDS = Bounds(trial_s=10.0, look_s=1.0)


class FakeService:
    """A service manager: what it was told, and how often the agent has crashed since."""

    def __init__(self) -> None:
        self.restarts = 0
        self.crashed = 0

    def restart(self) -> None:
        self.restarts += 1
        self.crashed = 0

    def crashes(self) -> int:
        return self.crashed


def release_of(reader: Reader) -> Release:
    """As publishing makes it, for this platform."""
    data = reader.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
    m = Manifest.from_bytes(data)
    entry = file_entry(MANIFEST_NAME, data)
    return Release(m.name, m.version, own_platform(), m.size_bytes, entry)


class Fleet:
    """Who signs new agents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = SignedRepository()

    def package(self, version: str, data: bytes | None = None) -> Reader:
        """A package as `edge-fleet publish` reads it."""
        path = self.folder / f"edge-agent_{version}.deb"
        path.write_bytes(data if data is not None else debs.small(version))
        return PackageReader([path])

    def sign(self, reader: Reader) -> Release:
        """Let the next metadata vouch for it."""
        release = release_of(reader)
        data = reader.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
        self.repository.add(release.file, data)
        self.repository.publish()
        return release


class Board:
    """Its file system is at `prefix`; the package that is installed has version `installed`."""

    def __init__(self, prefix: Path, fleet: Fleet, installed: str = "0.1.0") -> None:
        self.places = Places.under(prefix)
        self.service = FakeService()
        self.readings = FakeReadings()
        (self.places.factory / f"edge_runtime-{installed}.dist-info").mkdir(parents=True)
        self.places.state.mkdir(parents=True, mode=0o700)
        self.places.root.parent.mkdir(parents=True)
        self.places.root.write_bytes(fleet.repository.files["1.root.json"])

    def hold(self, reader: Reader, files: dict[str, bytes] | None = None) -> None:
        """The agent has fetched this, and followed the metadata `files`."""
        data = reader.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
        state = self.places.state / DRIVER
        manifests = state / "manifests"
        manifests.mkdir(parents=True, exist_ok=True)
        (manifests / f"{sha256_hex(data)}.json").write_bytes(data)
        ChunkStore(state / "chunks").ingest(reader, Manifest.from_bytes(data).files)
        if files is not None:
            self.follow(files)

    def follow(self, files: dict[str, bytes]) -> None:
        """The agent has followed this metadata."""

        class Given:
            def read(self, name: str, max_bytes: int) -> bytes | None:
                return files.get(name)

        trust = self.places.state / "trust"
        root = self.places.root.read_bytes()
        Client(trust, root, Given(), Clock(trust / "time.json", self.readings)).refresh()

    def ask(
        self,
        action: str,
        release: Release,
        *,
        attempt: int = 0,
        serving: bool = True,
        connected: bool = True,
    ) -> str:
        """The agent's request."""
        candidate = Candidate(release.version, release.manifest.sha256, attempt)
        return Request(action, candidate, release, serving, connected).leave(self.places.state)

    def helper(self, sleep: Callable[[float], None] | None = None) -> Helper:
        """A run of the helper, which passes time by itself, unless `sleep` does something else."""
        return Helper(self.places, self.service, BOUNDS, self.readings, sleep or self.readings.wait)

    def run(self, sleep: Callable[[float], None] | None = None) -> Record:
        """One, until it ends."""
        self.helper(sleep).run()
        return self.record

    @property
    def record(self) -> Record:
        """What the agent can read of it."""
        return load(self.places.journal) or Record()

    @property
    def current(self) -> str:
        """What the link names."""
        link = self.places.releases / "current"
        return os.readlink(link) if os.path.lexists(link) else ""

    def trees(self) -> set[str]:
        """Names of all trees that are there."""
        found = self.places.releases.glob("*/.complete.json")
        return {item.parent.name for item in found} - {"current"}
