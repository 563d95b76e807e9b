"""What the doctor says: one finding a thing it looked at, under a stable id.

Every id stands in CATALOGUE and in docs/doctor.md; scripts and dashboards go by it. A finding that
is not good says what to do.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_runtime.fields import Json
from edge_runtime.text import plain

MAX_TEXT = 600


class Level(enum.Enum):
    """How bad. Only an obstacle keeps the device from its job, and fails the command."""

    OK = "ok"
    WARNING = "warning"
    OBSTACLE = "obstacle"
    UNKNOWN = "unknown"


GROUPS = {
    "machine": "Machine",
    "engine": "Engines",
    "accelerator": "Accelerators",
    "probe": "Temperature, power and speed",
    "clock": "Clock",
    "storage": "Storage",
    "broker": "Broker",
    "identity": "Identity and trust",
    "bundle": "Bundle",
    "agent": "Agent",
}
"""Groups in the order in which people read them; an id begins with its group."""

CATALOGUE: Mapping[str, str] = {
    "machine.profile": "profile",
    "machine.model": "model",
    "machine.architecture": "architecture",
    "machine.kernel": "kernel",
    "machine.memory": "memory",
    "machine.memory-limit": "memory limit",
    "machine.cpu-features": "CPU features",
    "machine.python": "Python",
    "engine.package": "package",
    "engine.clash": "packages",
    "engine.profile": "engine",
    "engine.any": "engines of the profile",
    "accelerator.device": "device",
    "accelerator.driver": "driver",
    "probe.thermal": "temperature",
    "probe.power": "power",
    "probe.throttling": "throttling",
    "probe.governor": "frequency governor",
    "clock.synchronized": "synchronized",
    "clock.plausible": "time",
    "clock.rtc": "hardware clock",
    "clock.floor": "trusted time",
    "storage.state": "state folder",
    "storage.filesystem": "file system",
    "storage.free": "free space",
    "storage.inodes": "inodes",
    "storage.size": "size",
    "storage.health": "wear and errors",
    "storage.sync": "write to disk",
    "broker.address": "address",
    "broker.connection": "connection",
    "broker.encryption": "encryption",
    "identity.certificate": "certificate",
    "identity.key": "key",
    "identity.root": "root of trust",
    "identity.metadata": "signed metadata",
    "bundle.present": "bundle",
    "bundle.variant": "variant",
    "bundle.degraded": "accelerator truth",
    "agent.running": "running",
    "agent.version": "version",
    "agent.service": "service",
    "agent.api": "API",
    "agent.sources": "sources",
}
"""Every id, and what it is called for people."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        text: one sentence: what was found, and what was expected where they differ.
        advice: what to do about it; there is some for every warning and obstacle.
        subject: which one, where an id is told of several: an engine, a variant, a device.
        values: the same for machines, units in the names.

    Raises:
        RuntimeError: the id is not in the catalogue, or there is no advice.
    """

    id: str
    level: Level
    text: str
    advice: str = ""
    subject: str = ""
    values: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.id not in CATALOGUE:
            raise RuntimeError(f"{self.id} is not in the doctor's catalogue")
        if self.level in (Level.WARNING, Level.OBSTACLE) and not self.advice:
            raise RuntimeError(f"{self.id}: {self.level.value} without advice")

    @property
    def group(self) -> str:
        """The key of GROUPS."""
        return self.id.partition(".")[0]

    def as_json(self) -> dict[str, Json]:
        """As docs/doctor.md has it."""
        return {
            "id": self.id,
            "subject": self.subject,
            "level": self.level.value,
            "text": plain(self.text, MAX_TEXT),
            "advice": plain(self.advice, MAX_TEXT),
            "values": dict(self.values),
        }


NOTHING: Mapping[str, Json] = {}


def ok(id: str, text: str, *, subject: str = "", values: Mapping[str, Json] = NOTHING) -> Finding:
    """As it should be."""
    return Finding(id, Level.OK, text, "", subject, values)


def warning(
    id: str, text: str, advice: str, *, subject: str = "", values: Mapping[str, Json] = NOTHING
) -> Finding:
    """Not as it should be; the device does its job all the same."""
    return Finding(id, Level.WARNING, text, advice, subject, values)


def obstacle(
    id: str, text: str, advice: str, *, subject: str = "", values: Mapping[str, Json] = NOTHING
) -> Finding:
    """The device cannot do its job."""
    return Finding(id, Level.OBSTACLE, text, advice, subject, values)


def unknown(
    id: str,
    text: str,
    advice: str = "",
    *,
    subject: str = "",
    values: Mapping[str, Json] = NOTHING,
) -> Finding:
    """It cannot be told here, or not in time."""
    return Finding(id, Level.UNKNOWN, text, advice, subject, values)


def exit_code(findings: list[Finding]) -> int:
    """1 where one is an obstacle."""
    return int(any(finding.level is Level.OBSTACLE for finding in findings))
