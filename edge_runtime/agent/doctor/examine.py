"""All looks, side by side, and their findings in the order in which people read them.

Looks that go to native code begin first, for they take longest. A look that fails or is not over
in time is a finding like any other: unknown. Nothing here changes the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from edge_runtime.agent.doctor import (
    accelerators,
    broker,
    bundles,
    clocks,
    equipment,
    heat,
    identity,
    itself,
    machine,
    storage,
)
from edge_runtime.agent.doctor.bounded import Overdue, Running
from edge_runtime.agent.doctor.engines import Engines
from edge_runtime.agent.doctor.finding import CATALOGUE, GROUPS, Finding, unknown
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.errors import EdgeError
from edge_runtime.text import plain

LOOK_S = 2.6
"""Of each look. They run side by side: with the command's own start it is over in three seconds."""
ENGINES_S = 2.1
"""Of the processes that look at engines; less, so that looks that wait for them can tell it."""

Look: TypeAlias = Callable[[Scene], Iterable[Finding]]
EngineLook: TypeAlias = Callable[[Scene, Engines], Iterable[Finding]]

ENGINE_LOOKS: dict[str, EngineLook] = {
    "engine.package": equipment.packages,
    "engine.profile": equipment.profile_engines,
    "bundle.present": bundles.present,
}
LOOKS: dict[str, Look] = {
    "machine.profile": machine.profile,
    "machine.model": machine.model,
    "machine.architecture": machine.architecture,
    "machine.kernel": machine.kernel,
    "machine.memory": machine.memory,
    "machine.memory-limit": machine.memory_limit,
    "machine.cpu-features": machine.cpu_features,
    "machine.python": machine.python,
    "accelerator.device": accelerators.devices,
    "probe.thermal": heat.thermal,
    "probe.power": heat.power,
    "probe.throttling": heat.throttled,
    "probe.governor": heat.governor,
    "clock.synchronized": clocks.synchronized,
    "clock.plausible": clocks.plausible,
    "clock.rtc": clocks.rtc,
    "clock.floor": clocks.floor,
    "storage.state": storage.state,
    "storage.filesystem": storage.filesystem,
    "storage.free": storage.free,
    "storage.inodes": storage.inodes,
    "storage.size": storage.disk_size,
    "storage.health": storage.health,
    "storage.sync": storage.sync,
    "broker.connection": broker.broker,
    "identity.certificate": identity.certificate,
    "identity.key": identity.key,
    "identity.root": identity.root,
    "identity.metadata": identity.metadata,
    "bundle.degraded": bundles.degraded,
    "agent.running": itself.running,
    "agent.version": itself.version,
    "agent.service": itself.service,
    "agent.api": itself.api,
    "agent.sources": itself.sources,
}
"""By the id that is unknown where the look fails."""


def examine(scene: Scene) -> list[Finding]:
    """Every finding, group after group; within a group in the order of the catalogue."""
    engines = Engines(scene.profile, limit_s=ENGINES_S)
    running = {
        **{id: _begin(look, scene, LOOK_S) for id, look in LOOKS.items()},
        **{
            id: _begin(lambda s, look=look: look(s, engines), scene, LOOK_S)  # type: ignore[misc]
            for id, look in ENGINE_LOOKS.items()
        },
    }
    findings = [finding for id, look in running.items() for finding in _told(id, look)]
    groups, ids = list(GROUPS), list(CATALOGUE)
    # Several of one id stay in their own order: sorting is stable.
    return sorted(findings, key=lambda f: (groups.index(f.group), ids.index(f.id)))


def _begin(look: Look, scene: Scene, limit_s: float) -> Running[list[Finding]]:
    return Running(lambda: list(look(scene)), limit_s)


def _told(id: str, look: Running[list[Finding]]) -> list[Finding]:
    try:
        return look.result()
    except Overdue as reason:
        return [unknown(id, str(reason), "try again; where it stays so, a driver or disk hangs")]
    except (EdgeError, OSError) as reason:
        return [unknown(id, f"cannot be told ({plain(str(reason))})")]
    except Exception as reason:
        said = f"cannot be told ({type(reason).__name__}: {plain(str(reason))})"
        return [unknown(id, said, "a fault of the doctor's: please report it")]
