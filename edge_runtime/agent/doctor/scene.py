"""What the doctor was asked to look at, and the small readings that several looks share."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.state_folder import holder_pid
from edge_runtime.bundle import durable
from edge_runtime.errors import DeviceError
from edge_runtime.profile import DeviceProfile
from edge_runtime.telemetry.board import read_text
from edge_runtime.update.clock import Machine, Readings

MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Scene:
    """One visit. `root` holds /proc, /sys, /dev and /etc: a fake one in tests.

    `profile` is the configuration's or the one that was named; None where neither is. `bundle` is a
    path that a person gave.
    """

    root: Path = Path("/")
    config: AgentConfig | None = None
    profile: DeviceProfile | None = None
    bundle: Path | None = None
    offline: bool = False
    architecture: str = field(default_factory=platform.machine)
    python: tuple[int, int] = sys.version_info[:2]
    readings: Readings = field(default_factory=Machine)

    @property
    def state_dir(self) -> Path | None:
        """The device's folder, where there is a configuration."""
        return self.config.state_dir if self.config is not None else None

    @property
    def agent_pid(self) -> int | None:
        """The agent that holds the state folder now; None where none does, or it does not say."""
        try:
            return holder_pid(self.state_dir) if self.state_dir is not None else None
        except DeviceError:
            return None

    def read(self, path: str) -> str | None:
        """A small file under the root; None where it cannot be read."""
        file = self.root / path
        return read_text(file) if os.path.isfile(file) else None

    def lines(self, path: str) -> list[str]:
        """A file under the root that may be longer; nothing where it cannot be read."""
        try:
            data = durable.read(self.root / path, MAX_FILE_BYTES)
        except OSError:
            return []
        return data.decode("utf-8", "replace").splitlines()

    @property
    def compatible(self) -> list[str]:
        """What the device tree calls this board, the most exact name first."""
        text = self.read("proc/device-tree/compatible")
        return [name for name in text.split("\0") if name] if text else []

    @property
    def memory_bytes(self) -> int | None:
        """Main memory that the kernel manages."""
        for line in self.lines("proc/meminfo"):
            words = line.split()
            if len(words) >= 2 and words[0] == "MemTotal:" and words[1].isdecimal():
                return int(words[1]) * 1024
        return None

    @property
    def cores(self) -> frozenset[int]:
        """Numbers of the cores that are switched on; none where the kernel does not tell."""
        found: set[int] = set()
        for part in (self.read("sys/devices/system/cpu/online") or "").split(","):
            if match := re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part):
                found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
        return frozenset(found)

    @property
    def cpu_features(self) -> frozenset[str]:
        """What every core has: a thread may run on any of them."""
        cores = [
            frozenset(line.partition(":")[2].split())
            for line in self.lines("proc/cpuinfo")
            if line.partition(":")[0].strip() in ("flags", "Features")
        ]
        return frozenset.intersection(*cores) if cores else frozenset()


def user() -> str:
    """Who the doctor runs as, for advice on permissions."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"#{os.geteuid()}"
