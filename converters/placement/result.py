"""What is known of a model's placement on one accelerator: every node, and how that is known.

Nothing is claimed without evidence: where there is none, `evidence` is "unknown", there are no
nodes, and `why` says what to do about it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.fields import Json

MEASURED, COMPILED, RULES, UNKNOWN = "measured", "vendor-compiled", "rule-checked", "unknown"
EVIDENCE = (MEASURED, COMPILED, RULES, UNKNOWN)
"""It really ran there; the vendor's compiler took it; rules say so; nobody knows."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of the file that computes; `reason` says why it is not on the accelerator."""

    name: str
    operator: str
    on: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes of one operator that share their fate and its reason."""

    operator: str
    on: bool
    reason: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the nodes of a file run.

    `partitions` are the accelerator's parts of the graph, between which the CPU works.
    `estimated_ms` is the vendor's own figure and `estimate` says in words where it comes from; it
    is never a measurement. `notes` are what else the tool found out. `compiled` is the file that
    the tool made, where it was told to keep it.
    """

    accelerator: str
    nodes: tuple[Node, ...]
    evidence: str
    tool: str
    partitions: int | None = None
    estimated_ms: float | None = None
    estimate: str = ""
    notes: Mapping[str, Json] = field(default_factory=dict)
    why: str = ""
    compiled: Path | None = None

    @property
    def known(self) -> bool:
        """Whether anything is known at all."""
        return self.evidence != UNKNOWN

    @property
    def off(self) -> tuple[Node, ...]:
        """The nodes that are left to the CPU, in the file's order."""
        return tuple(node for node in self.nodes if not node.on)

    @property
    def share(self) -> float | None:
        """Of the nodes, on the accelerator: 0..1. None where nothing is known."""
        if not self.known or not self.nodes:
            return None
        return sum(node.on for node in self.nodes) / len(self.nodes)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The nodes by operator and fate: those that are off first, then the most frequent."""
        found: dict[tuple[str, bool, str], list[str]] = {}
        for node in self.nodes:
            found.setdefault((node.operator, node.on, node.reason), []).append(node.name)
        groups = [Group(*key, tuple(names)) for key, names in found.items()]
        return tuple(sorted(groups, key=lambda one: (one.on, -len(one.names))))

    def as_json(self) -> dict[str, Json]:
        """Everything, for machines."""
        return {
            "accelerator": self.accelerator,
            "evidence": self.evidence,
            "why": self.why,
            "tool": self.tool,
            "share": self.share,
            "on": sum(node.on for node in self.nodes),
            "nodes": [
                {"name": one.name, "operator": one.operator, "on": one.on, "reason": one.reason}
                for one in self.nodes
            ],
            "partitions": self.partitions,
            "estimated_ms": self.estimated_ms,
            "estimate": self.estimate,
            "notes": dict(self.notes),
            "compiled": str(self.compiled) if self.compiled else None,
        }


def from_json(words: Mapping[str, Any]) -> Placed:
    """What `Placed.as_json` wrote; only for what we wrote ourselves."""
    return Placed(
        words["accelerator"],
        tuple(Node(**node) for node in words["nodes"]),
        words["evidence"],
        words["tool"],
        words["partitions"],
        words["estimated_ms"],
        words["estimate"],
        words["notes"],
        words["why"],
        Path(words["compiled"]) if words["compiled"] else None,
    )


def unknown(accelerator: str, why: str, *, tool: str = "") -> Placed:
    """Nothing is known, and `why`."""
    return Placed(accelerator, (), UNKNOWN, tool, why=why)


def percent(share: float) -> str:
    """As 89.9 %, rounded down: what is short of a floor never looks like it."""
    return f"{math.floor(share * 1000 + 1e-9) / 10:g} %"


def first_names(names: Sequence[str], most: int = 3) -> str:
    """The first of `names`, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
