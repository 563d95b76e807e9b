"""Device profiles on a terminal: all of them as a table, or one of them explained.

A profile may be a stranger's file: every value passes `plain` before it is printed for people.
"""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from converters.profile_words import Point, explain, runs_on
from edge_runtime.profile import DeviceProfile
from edge_runtime.text import MAX_ERROR, plain, size

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 80
LABEL = 19
"""Columns of a label with the space after it; a longer one has a line of its own."""
SHOWN_NAMES = 12
"""Of a long list of operators; JSON and docs/profiles.md have all of them."""
HEAD = ("profile", "arch", "RAM", "runs on, the best first", "image")


def print_profiles(profiles: Sequence[DeviceProfile]) -> None:
    """One row a profile on stdout: folded to a person's terminal, whole lines for a pipe."""
    if not sys.stdout.isatty():
        sys.stdout.write(profiles_text(profiles) + "\n")
        return
    from rich.console import Console

    Console(file=sys.stdout, highlight=False).print(profiles_table(profiles))


def profiles_text(profiles: Sequence[DeviceProfile]) -> str:
    """One line a profile, in columns."""
    rows = [HEAD, *(tuple(plain(cell) for cell in _row(profile)) for profile in profiles)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def profiles_table(profiles: Sequence[DeviceProfile]) -> Table:
    """One row a profile; the ways to run a model are folded where the terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for head in HEAD:
        folds = head == HEAD[3]
        made.add_column(head, no_wrap=not folds, overflow="fold")
    for profile in profiles:
        made.add_row(*(Text(plain(cell)) for cell in _row(profile)))
    return made


def _row(profile: DeviceProfile) -> tuple[str, ...]:
    image = "" if profile.image == "none" else profile.image
    return (profile.name, profile.arch, size(profile.ram_bytes), runs_on(profile), image)


def profile_text(profile: DeviceProfile) -> str:
    """A profile explained for somebody who sees the board for the first time."""
    lines = textwrap.wrap(plain(f"{profile.name}: {profile.title}"), WIDTH)
    for section in explain(profile):
        lines += ["", plain(section.title)]
        lines += textwrap.wrap(section.intro, WIDTH, initial_indent="  ", subsequent_indent="  ")
        before = ""
        for point in section.points:
            lines += _point(point, named=point.label != before)
            before = point.label
    return "\n".join(lines)


def _point(point: Point, *, named: bool) -> Iterator[str]:
    """A label, unless the point above has the same, and its text beside it, folded."""
    label = plain(point.label) if named else ""
    text = plain(_with_names(point), MAX_ERROR)
    folded = textwrap.wrap(
        text, WIDTH - 2 - LABEL, break_long_words=False, break_on_hyphens=False
    ) or [""]
    if len(label) >= LABEL:
        yield f"  {label}"
        label = ""
    for line in folded:
        yield f"  {label:<{LABEL}}{line}".rstrip()
        label = ""


def _with_names(point: Point) -> str:
    if not point.names:
        return point.text
    more = len(point.names) - SHOWN_NAMES
    listed = ", ".join(point.names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
    return f"{point.text}: {listed}" if point.text else listed


def profile_json(profile: DeviceProfile) -> dict[str, Any]:
    """A profile as plain values."""
    return dataclasses.asdict(profile)
