"""Draws the lifecycle's table for people.

`python -m edge_runtime.update.diagram docs/lifecycle.md` replaces what stands between two markers
of the document; with `--check` it only compares. What leads from a state to itself is left out of
the picture and stands in the table below it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.update.lifecycle import TABLE, Event, State

BEGIN = "<!-- drawn from edge_runtime/update/lifecycle.py: begin -->"
END = "<!-- drawn from edge_runtime/update/lifecycle.py: end -->"


def mermaid() -> str:
    """A Mermaid state diagram; edges between the same two states are one."""
    edges: dict[tuple[State, State], list[str]] = {}
    for (state, event), (then, _) in TABLE.items():
        if then is not state:
            edges.setdefault((state, then), []).append(event.__name__)
    lines = ["stateDiagram-v2", f"    [*] --> {State.IDLE.name}"]
    for (state, then), names in edges.items():
        lines.append(f"    {state.name} --> {then.name}: {', '.join(names)}")
    return "\n".join(lines)


def table() -> str:
    """Every row of the table, grouped by event, with what the event means."""
    rows: dict[type[Event], list[str]] = {}
    for (state, event), (then, actions) in TABLE.items():
        what = ", ".join(action.value for action in actions) or "nothing"
        rows.setdefault(event, []).append(f"| {state.name} | {then.name} | {what} |")
    parts = []
    for event, lines in rows.items():
        meaning = " ".join((event.__doc__ or "").split())
        head = "| in | goes to | and does |\n|---|---|---|"
        parts.append(f"### {event.__name__}\n\n{meaning}\n\n{head}\n" + "\n".join(lines))
    return "\n\n".join(parts)


def drawn(document: str) -> str:
    """`document` with the drawing between its markers made anew.

    Raises:
        ValueError: the markers are missing.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"expected the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n```mermaid\n{mermaid()}\n```\n\n{table()}\n\n{END}{after}"


def main(argv: Sequence[str]) -> int:
    """0 where the document is current now, 1 where `--check` found that it is not."""
    parser = argparse.ArgumentParser(description="Draw the update lifecycle into a document.")
    parser.add_argument("document", type=Path)
    parser.add_argument("--check", action="store_true", help="compare only; exit code 1 if stale")
    arguments = parser.parse_args(argv)
    text = arguments.document.read_text(encoding="utf-8")
    new = drawn(text)
    if arguments.check:
        return 0 if new == text else 1
    if new != text:
        arguments.document.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
