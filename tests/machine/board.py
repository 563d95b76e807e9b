"""A board of one suite and its fleet, and the states that machines start from.

    tree        the distribution alone
    installed   and our package
    enrolled    and `edge-agent setup` of an identity with a first bundle, which serves

Each is made once, by a machine that boots, changes and is switched off; later machines read it
below what they write themselves.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from tests.machine.fleet import DEVICE, Fleet, fleet
from tests.machine.machine import Machine
from tests.machine.network import Cable, cable
from tests.machine.package import FIRST, SECOND, package
from tests.machine.service import Service
from tests.machine.tree import tree

MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 << 30
MEDIA = "/media/host"
PACKAGES = "/media/packages"
SETTINGS = """
[worker]
hang_s = 5.0
[update]
trial_s = 1.0
trial_slowdown = 1000.0
"""
"""Behind what `edge-fleet enroll` wrote, so that a test need not wait for a minute."""


class Board:
    """See above. One machine at a time is on."""

    def __init__(self, suite: str, folder: Path, fleet: Fleet, cable: Cable) -> None:
        self.suite = suite
        self.fleet = fleet
        self.cable = cable
        self._folder = folder
        self._numbers = itertools.count()
        self._media = folder / "media"
        self._media.mkdir()
        # Both, before the clock of a test begins to run.
        self._packages = {version: package(suite, version) for version in (FIRST, SECOND)}

    def deb(self, version: str = FIRST) -> str:
        """A package, as a machine sees it."""
        return f"{PACKAGES}/{self._packages[version].name}"

    def identity(self, device: str, *, first: bool = True) -> str:
        """An enrolled folder, as a machine sees it."""
        folder = self.fleet.identity(self._media / device, device, first=first)
        with (folder / "agent.toml").open("a") as file:
            file.write(SETTINGS)
        return f"{MEDIA}/{device}"

    def stick(self, version: str) -> str:
        """The fleet's repository with a new bundle in it, as a machine sees it."""
        self.fleet("sign", self.fleet.bundle(version))
        folder = self._media / f"stick-{version}"
        shutil.copytree(self.fleet.home / "repository", folder)
        return f"{MEDIA}/{folder.name}"

    @cached_property
    def tree(self) -> Path:
        """See above."""
        return tree(self.suite)

    @cached_property
    def installed(self) -> list[Path]:
        """Layers of that state."""
        machine = self.machine([self.tree])
        with self.on(machine):
            machine.run("dpkg", "-i", self.deb())
            machine.power_off()
        return [machine.written, self.tree]

    @cached_property
    def enrolled(self) -> list[Path]:
        """Layers of that state, with the device DEVICE."""
        identity = self.identity(DEVICE)
        machine = self.machine(self.installed)
        with self.on(machine) as service:
            machine.run("edge-agent", "setup", identity)
            service.wait_ready()
            machine.power_off()
        return [machine.written, *self.installed]

    def machine(self, layers: list[Path]) -> Machine:
        """A new machine, which is off."""
        folder = self._folder / f"machine-{next(self._numbers)}"
        shares = {MEDIA: self._media, PACKAGES: self._packages[FIRST].parent}
        return Machine(layers, folder, shares=shares)

    @contextlib.contextmanager
    def on(self, machine: Machine, *options: str, plugged: bool = True) -> Iterator[Service]:
        """Boot it, and have it off and gone afterwards."""
        machine.boot(self.cable, *options, plugged=plugged)
        try:
            yield Service(machine)
        finally:
            machine.kill()

    @contextlib.contextmanager
    def serving(self) -> Iterator[Service]:
        """A machine that has just booted and serves its first bundle."""
        with self.on(self.machine(self.enrolled)) as service:
            service.wait_ready()
            yield service


@contextlib.contextmanager
def board(suite: str) -> Iterator[Board]:
    """A board with its fleet, gone with the tests."""
    line = cable()
    place = tempfile.TemporaryDirectory(prefix="edge-machine-", dir=_where())
    with place as folder, fleet(line) as its:
        yield Board(suite, Path(folder), its, line)


def _where() -> Path | None:
    """Memory, where there is enough: dpkg waits for a disk with every file."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES else None
