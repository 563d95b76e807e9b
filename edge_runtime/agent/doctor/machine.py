"""The machine against its profile: architecture, memory, processor, Python."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.agent.doctor.boards import suggested
from edge_runtime.agent.doctor.finding import Finding, ok, unknown, warning
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.telemetry.board import read_integer
from edge_runtime.text import plain, size

NEARLY = 0.75
"""Of a nominal size: firmware, a GPU and the kernel keep a part, and cards are sold by thousands.

A Raspberry Pi Zero 2 W of 512 MiB shows 0.81 of it.
"""
NOTABLE = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8",
    "neon", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Those that decide how fast INT8 is."""
UNLIMITED = 1 << 60
"""cgroup v1 says "no limit" as a number near 2**63."""


def profile(scene: Scene) -> Iterator[Finding]:
    """The profile that all else is held to, or the one that would fit."""
    best = suggested(scene)
    if scene.profile is not None:
        title = f"{scene.profile.name}: {scene.profile.title}"
        yield ok("machine.profile", title, values={"name": scene.profile.name})
    elif best is None:
        yield warning(
            "machine.profile",
            f"none given, and no shipped profile is for {scene.architecture}",
            "write one as device_profiles/README.md says, and give it with --profile FILE.toml",
        )
    else:
        name, why = best
        yield ok(
            "machine.profile",
            f"none given; {name} fits best ({why}): edge-agent doctor --profile {name}",
            values={"suggested": name},
        )


def model(scene: Scene) -> Iterator[Finding]:
    """What its maker calls it."""
    tree = scene.read("proc/device-tree/model")
    dmi = [
        word
        for name in ("sys_vendor", "product_name")
        if (word := scene.read(f"sys/class/dmi/id/{name}")) and word.strip()
    ]
    found = tree.rstrip("\0") if tree else " ".join(dmi)
    if found:
        yield ok("machine.model", plain(found), values={"name": plain(found)})
    else:
        yield unknown("machine.model", "neither device tree nor DMI tells it")


def architecture(scene: Scene) -> Iterator[Finding]:
    """As the profile says: its engines, options and measurements are of that processor."""
    found, p = scene.architecture, scene.profile
    if p is None or found == p.arch:
        yield ok("machine.architecture", found, values={"architecture": found})
    else:
        best = suggested(scene)
        yield warning(
            "machine.architecture",
            f"{found}, profile {p.name} is for {p.arch}",
            f"use a profile for this machine{f', as {best[0]}' if best else ''}",
            values={"architecture": found},
        )


def kernel(scene: Scene) -> Iterator[Finding]:
    """Its version."""
    found = scene.read("proc/sys/kernel/osrelease")
    if found:
        yield ok("machine.kernel", f"Linux {plain(found)}", values={"release": plain(found)})
    else:
        yield unknown("machine.kernel", "/proc does not tell it")


def memory(scene: Scene) -> Iterator[Finding]:
    """Main memory against the profile's."""
    found, p = scene.memory_bytes, scene.profile
    if found is None:
        yield unknown("machine.memory", "/proc/meminfo does not tell it")
    elif p is not None and found < NEARLY * p.ram_bytes:
        yield warning(
            "machine.memory",
            f"{size(found)}, profile {p.name} counts on {size(p.ram_bytes)}",
            "use the profile of the smaller board, or copy this one with its ram_bytes corrected: "
            "variants may need more than there is",
            values={"total_bytes": found},
        )
    else:
        wanted = f", the profile counts on {size(p.ram_bytes)}" if p is not None else ""
        yield ok("machine.memory", f"{size(found)}{wanted}", values={"total_bytes": found})


def memory_limit(scene: Scene) -> Iterator[Finding]:
    """Of the control group of the agent, or of this process where none runs."""
    pid = scene.agent_pid
    whose = "the agent" if pid is not None else "this process"
    limit = _limit(scene, f"proc/{pid}/cgroup" if pid is not None else "proc/self/cgroup")
    if limit is None:
        yield ok("machine.memory-limit", f"none for {whose}")
        return
    p = scene.profile
    budget = p.budget.ram_bytes if p is not None else 0
    if limit < budget:
        yield warning(
            "machine.memory-limit",
            f"{size(limit)} for {whose}, a worker may take {size(budget)} by the profile's budget",
            "raise MemoryMax of the unit, or the limit of the container",
            values={"limit_bytes": limit},
        )
    else:
        yield ok(
            "machine.memory-limit", f"{size(limit)} for {whose}", values={"limit_bytes": limit}
        )


def _limit(scene: Scene, path: str) -> int | None:
    """The least limit on the way from the group to the root; None where there is none."""
    limits = []
    for line in scene.lines(path):
        number, controllers, group = ([*line.split(":", 2), "", ""])[:3]
        v2 = number == "0" and not controllers
        if not v2 and "memory" not in controllers.split(","):
            continue
        base = scene.root / "sys/fs/cgroup" / ("" if v2 else "memory")
        folder = base / group.strip("/")
        for place in (folder, *folder.parents):
            limits.append(read_integer(place / ("memory.max" if v2 else "memory.limit_in_bytes")))
            if place == base:
                break
    return min((n for n in limits if n is not None and 0 < n < UNLIMITED), default=None)


def cpu_features(scene: Scene) -> Iterator[Finding]:
    """Those of the profile, on every core."""
    found, p = scene.cpu_features, scene.profile
    if not found:
        yield unknown("machine.cpu-features", "/proc/cpuinfo lists none")
    elif p is None or p.arch != scene.architecture:
        notable = [name for name in NOTABLE if name in found]
        text = f"{len(found)}, among them {', '.join(notable)}" if notable else f"{len(found)}"
        yield ok("machine.cpu-features", text, values={"notable": notable})
    elif missing := [name for name in p.cpu_features if name not in found]:
        yield warning(
            "machine.cpu-features",
            f"{', '.join(missing)} of profile {p.name} {'is' if len(missing) == 1 else 'are'} "
            "missing here",
            "use the profile of this board: a variant that needs them would crash",
            values={"missing": missing},
        )
    else:
        extra = [n for n in NOTABLE if n in found and n not in p.cpu_features]
        more = f"; more: {', '.join(extra)}" if extra else ""
        text = f"all {len(p.cpu_features)} of the profile{more}"
        yield ok(
            "machine.cpu-features", text, values={"notable": [n for n in NOTABLE if n in found]}
        )


def python(scene: Scene) -> Iterator[Finding]:
    """The version, against those that the board's systems ship."""
    found, p = ".".join(map(str, scene.python)), scene.profile
    if p is not None and found not in p.python:
        yield warning(
            "machine.python",
            f"{found}, profile {p.name} knows {', '.join(p.python)}",
            "check that every package has a wheel for it, or use the system's own Python",
            values={"version": found},
        )
    else:
        yield ok("machine.python", found, values={"version": found})
