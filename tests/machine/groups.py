"""Control groups of one machine: an own group in every hierarchy, or its limits are not enforced.

The machine's processes are moved into the groups before systemd-nspawn starts, and systemd in the
machine makes its own below them. On a host with systemd, nspawn asks that for a scope instead.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from pathlib import Path

TOP = Path("/sys/fs/cgroup")
LEFT_OUT = ("cpuset",)
"""A new group there takes no process before its processors are named."""
PREFIX = "edge-machine-"
"""Of a group; then comes the process that made it."""
REMOVE_S = 5.0
_NUMBERS = itertools.count()


def host_has_systemd() -> bool:
    """Whether systemd manages this host's groups."""
    return Path("/run/systemd/system").is_dir()


def make() -> list[Path]:
    """New groups below those of this process. What dead processes have left is removed."""
    if host_has_systemd():
        return []
    name, found = f"{PREFIX}{os.getpid()}-{next(_NUMBERS)}", []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers in LEFT_OUT:
            continue
        hierarchy = _hierarchy(controllers)
        if (hierarchy / "cgroup.procs").exists():
            found.append(hierarchy / own.lstrip("/") / name)
    for folder in found:
        _remove_left(folder.parent)
        folder.mkdir()
    return found


def remove(groups: list[Path]) -> None:
    """Every group and what is below it, as soon as its last process has gone."""
    end_s = time.monotonic() + REMOVE_S
    for group in groups:
        while group.is_dir():
            _remove_tree(group)
            if time.monotonic() > end_s:
                raise RuntimeError(f"{group}: processes are left in it")
            if group.is_dir():
                time.sleep(0.02)


def _remove_left(parent: Path) -> None:
    for group in parent.glob(f"{PREFIX}*"):
        maker = group.name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", maker).exists():
            _remove_tree(group)


def _remove_tree(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _hierarchy(controllers: str) -> Path:
    if controllers:
        return TOP / controllers.removeprefix("name=")
    # The second version: everything, or beside the first one.
    return TOP / "unified" if (TOP / "unified").is_dir() else TOP
