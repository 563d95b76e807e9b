"""Placements and tools as a person wants to read them, drawn with rich.

Names of nodes and vendors' reasons are strangers' words: what is shown passes `plain`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from converters.placement.ask import Asked
from converters.placement.coverage import advice
from converters.placement.environments import state_of, tool_of
from converters.placement.result import Group, Placed, percent
from converters.placement.targets import TARGETS, Target
from edge_runtime.profile.engine import Demands
from edge_runtime.text import MAX_ERROR, plain, size

if TYPE_CHECKING:
    from rich.console import RenderableType

LABELS: Mapping[str, str] = {
    "measured": "it really ran there",
    "vendor-compiled": "the vendor's compiler took it",
    "rule-checked": "the documented rules say so; only the board can prove it",
    "unknown": "nobody knows",
}


def show_placements(found: Sequence[Asked], *, every: bool = False) -> None:
    """Draw a table for each engine and a line for each at the end, on stdout.

    `every` lists node by node what is otherwise one row for operators of the same fate.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    for one in found:
        if one.placed.known:
            console.print(_table(one, every=every))
            for line in _notes(one.placed, one.engine.demands):
                console.print(f"  {plain(line, MAX_ERROR)}", markup=False)
            console.print()
    for one in found:
        console.print(summary(one), markup=False, soft_wrap=True)


def summary(one: Asked) -> str:
    """One line: what, where, how much of it, how that is known, and whether that is enough."""
    placed = one.placed
    head = f"{one.file} on {one.engine.accelerator} ({one.profile}): "
    if one.failed:
        return plain(f"{head}FAILED", MAX_ERROR)  # why is an error, and told where errors are
    if not placed.known or placed.share is None:
        return plain(f"{head}unknown. {placed.why or 'it has no operators'}", MAX_ERROR)
    on = len(placed.nodes) - len(placed.off)
    words = [f"{percent(placed.share)}, {on} of {len(placed.nodes)} operators"]
    if placed.partitions is not None:
        words.append(f"{placed.partitions} partition{'' if placed.partitions == 1 else 's'}")
    if placed.estimated_ms is not None:
        words.append(f"about {placed.estimated_ms:.3g} ms estimated")
    words.append(f"{placed.evidence} ({placed.tool})")
    if one.engine.coverage:
        floor = f"floor {percent(one.engine.coverage)}"
        words.append(floor if not one.missed else f"BELOW the {floor}")
    return plain(head + ", ".join(words), MAX_ERROR)


def _table(one: Asked, *, every: bool) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(plain(f"{one.file} on {one.engine.accelerator}, {one.profile}")),
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("operator", no_wrap=True)
    table.add_column("nodes", justify="right")
    table.add_column("runs on")
    table.add_column("why not")
    said = ""
    for group in _rows(one.placed, every=every):
        where = one.engine.accelerator if group.on else "CPU"
        table.add_row(
            Text(plain(group.names[0] if every else group.operator)),
            str(len(group.names)),
            Text(plain(where), style="green" if group.on else "yellow"),
            Text("the same" if group.reason and group.reason == said else plain(group.reason)),
        )
        said = group.reason
    return table


def _rows(placed: Placed, *, every: bool) -> Sequence[Group]:
    if not every:
        sizes = Counter(node.reason for node in placed.off)
        return sorted(placed.groups, key=lambda one: (one.on, -sizes[one.reason], one.reason))
    return [Group(one.operator, one.on, one.reason, (one.name,)) for one in placed.nodes]


def _notes(placed: Placed, demands: Demands) -> list[str]:
    lines = [f"{placed.evidence} by {placed.tool}: {LABELS[placed.evidence]}"]
    if placed.estimated_ms is not None:
        lines.append(f"{placed.estimated_ms:.3g} ms: {placed.estimate}")
    shown = [
        f"{key.removesuffix('_bytes').replace('_', ' ')} "
        + (size(value) if key.endswith("_bytes") and isinstance(value, int) else str(value))
        for key, value in placed.notes.items()
        if isinstance(value, int | float | str)
    ]
    if shown:
        lines.append(", ".join(shown))
    changes = {
        advice(group.reason, demands, group.operator): None
        for group in placed.groups
        if not group.on
    }
    return [*lines, *(f"to change: {words}" for words in changes)]


def show_targets() -> None:
    """Draw the table of tools and what is set up, on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("target", "set up", "disk", "takes", "what it proves"):
        table.add_column(name, no_wrap=name in ("target", "disk"))
    for name, one in TARGETS.items():
        table.add_row(
            name,
            _state(name, one),
            f"{one.disk_mb} MB" if one.own_process else "",
            ", ".join(one.formats),
            f"{one.title}: {one.proves} [{one.evidence}]".replace("[", "\\["),
        )
    Console(highlight=False).print(table)


def _state(name: str, one: Target) -> str:
    if not one.own_process:
        return "needs nothing"
    state = state_of(name)
    return tool_of(name) or "ready" if state == "ready" else state


def targets_json() -> list[dict[str, object]]:
    """The table of tools, for machines."""
    return [
        {
            "target": name,
            "title": one.title,
            "proves": one.proves,
            "formats": list(one.formats),
            "evidence": one.evidence,
            "needs_setup": one.own_process,
            "tool": tool_of(name) if one.own_process else None,
            "state": state_of(name) if one.own_process else "needs nothing",
            "requirements": [list(step) for step in one.steps],
            "pythons": list(one.pythons),
            "disk_mb": one.disk_mb,
        }
        for name, one in TARGETS.items()
    ]
