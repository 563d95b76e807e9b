"""What the kernel says about our processes and the machine, and all gauges of one sample.

Boards differ: every value is optional, and one that cannot be read is left out, never guessed.
Nothing here raises for what a board lacks. A fake root folder stands in for the board in tests.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.profile import Probes as Places
from edge_runtime.telemetry.board import power_w, temperatures, throttling


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Resident memory now, and processor time since the process started, threads included."""

    rss_bytes: int
    cpu_s: float


def process_usage(pid: int, root: Path = Path("/")) -> ProcessUsage | None:
    """Of a running process; None where there is none."""
    folder = root / "proc" / str(pid)
    try:
        pages = int((folder / "statm").read_text().split()[1])
        # The command's name, in parentheses, may hold spaces and parentheses itself.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        return None
    return ProcessUsage(pages * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK"))


def load_1m(root: Path = Path("/")) -> float | None:
    """The load average over one minute."""
    try:
        return float((root / "proc/loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def memory_available_bytes(root: Path = Path("/")) -> int | None:
    """What the kernel could give to a new process without swapping."""
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def disk_free_bytes(folder: Path) -> int | None:
    """What is left on the file system of `folder`."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


class Probes:
    """All of this and of `board` as gauges. Remembers the last sample, for CPU percent in between.

    Args:
        places: where this board has its own, as its profile says.
    """

    def __init__(
        self, state_dir: Path, places: Places | None = None, *, root: Path = Path("/")
    ) -> None:
        self._state_dir = state_dir
        self._places = places or Places()
        self._root = root
        self._last: dict[int, tuple[float, float]] = {}

    def sample(self, now_s: float, pids: Mapping[str, int]) -> dict[str, float]:
        """Gauges by name; `pids` maps a role ("supervisor", "worker") to its process.

        `now_s` is monotonic. `<role>_cpu_percent` (of one core) is there from the second sample
        of a process on.
        """
        root = self._root
        gauges: dict[str, float | None] = {
            "load_1m": load_1m(root),
            "memory_available_bytes": memory_available_bytes(root),
            "disk_free_bytes": disk_free_bytes(self._state_dir),
        }
        places = self._places
        gauges.update({f"temp_c_{k}": v for k, v in temperatures(root, places.thermal).items()})
        gauges.update({f"power_w_{k}": v for k, v in power_w(places.power, root).items()})
        gauges.update(
            {f"throttling_{k}": v for k, v in throttling(places.throttling, root).items()}
        )
        samples: dict[int, tuple[float, float]] = {}
        for role, pid in pids.items():
            usage = process_usage(pid, root)
            if usage is None:
                continue
            gauges[f"{role}_rss_bytes"] = usage.rss_bytes
            samples[pid] = (now_s, usage.cpu_s)
            then_s, cpu_s = self._last.get(pid, (now_s, usage.cpu_s))
            if now_s > then_s:
                percent = 100 * (usage.cpu_s - cpu_s) / (now_s - then_s)
                # A process id that was used again would show less time than before.
                gauges[f"{role}_cpu_percent"] = round(max(0.0, percent), 2)
        self._last = samples
        return {name: float(value) for name, value in gauges.items() if value is not None}
