"""How every benchmark reports: rows for a person, the same rows as JSON for a script."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `goal` is what we want of it, `met` whether it was reached (None: no goal)."""

    what: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None


def at_most(what: str, value: float, unit: str, bound: float) -> Row:
    """A figure that should not exceed `bound`."""
    return Row(what, value, unit, f"<= {bound:g}", value <= bound)


def at_least(what: str, value: float, unit: str, bound: float) -> Row:
    """A figure that should reach `bound`."""
    return Row(what, value, unit, f">= {bound:g}", value >= bound)


def median(values: Sequence[float]) -> float:
    """The middle value; 0 for none."""
    return statistics.median(values) if values else 0.0


def show(title: str, rows: Sequence[Row], *, as_json: bool) -> None:
    """Print the rows: JSON to stdout for scripts, else a table."""
    if as_json:
        json.dump({"title": title, "rows": [asdict(row) for row in rows]}, sys.stdout, indent=1)
        print()
        return
    table = Table(title=title, title_justify="left")
    for column, justify in (("figure", "left"), ("value", "right"), ("unit", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("goal")
    table.add_column("")
    for row in rows:
        mark = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[row.met]
        table.add_row(row.what, f"{row.value:.4g}", row.unit, row.goal, mark)
    Console().print(table)
