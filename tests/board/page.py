"""The result for people: a table on a terminal, and its section in docs/reliability.md."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from edge_runtime.fields import Json
from tests.board.case import UNASKED, Cut, by_state

BEGIN, END = "<!-- board: begin -->", "<!-- board: end -->"
COMMAND = "python -m tests.board.powercut"
HOW = (
    "An emulated ARM64 board (Debian's kernel and Python, ext4, a real broker, signed releases) is "
    "killed in the middle of an update. Its disk is made anew from the log of its writes: what was "
    "flushed is there, and of the rest nothing, some pieces or everything. Then it boots. After "
    "each cut the disk must hold one bundle whole and all that the board had said, the old bundle "
    "or the new one must answer, the update must end by itself, and nothing may be left over. A "
    "board whose fsync does nothing (`--forget`) fails at the first look, with torn chunks and an "
    "old journal."
)
COLUMNS = ("on the disk", "cuts", "old answers first", "new answers first",
           "cut again in the start", "lost writes", "broken")  # fmt: skip


@dataclass(slots=True)
class Result:
    """Of a whole run: cuts; what would have been untrue at `moments` of the log; further cases."""

    seed: int
    cuts: list[Cut] = field(default_factory=list)
    moments: list[list[str]] = field(default_factory=list)
    others: list[tuple[str, list[str]]] = field(default_factory=list)
    left_over: int = 0
    facts: Mapping[str, Json] = field(default_factory=dict)
    rss_bytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def broken(self) -> list[str]:
        """Everything that was untrue, with the case."""
        of_cuts = [f"cut {cut.number}: {fault}" for cut in self.cuts for fault in cut.broken]
        seen = {fault for faults in self.moments for fault in faults}
        of_moments = [f"a moment of the log: {fault}" for fault in sorted(seen)]
        rest = [f"{what}: {fault}" for what, faults in self.others for fault in faults]
        return of_cuts + of_moments + rest

    def as_json(self) -> dict[str, Json]:
        """For a script."""
        return {
            "seed": self.seed,
            "cuts": [cut.as_json() for cut in self.cuts],
            "moments": [list(faults) for faults in self.moments],
            "others": [{"what": what, "broken": list(faults)} for what, faults in self.others],
            "left_over": self.left_over,
            "facts": dict(self.facts),
            "rss_bytes": dict(self.rss_bytes),
            "broken": list(self.broken),
        }


def line(cut: Cut) -> str:
    """One cut, in a line."""
    then = f"the {cut.served} bundle answers after {cut.answered_s:.0f} s"
    if cut.served == UNASKED:
        then = "its start is cut as well"
    if cut.in_1970:
        then += ", in 1970"
    return (
        f"aimed at {cut.aim}, the disk has {cut.found} with {cut.held} of {cut.needed} chunks, "
        f"{cut.left.lost} pieces lost; {then}"
    )


def table(result: Result) -> Table:
    """For a terminal."""
    made = Table(title=f"{len(result.cuts)} power cuts of a whole board, seed {result.seed}")
    for number, column in enumerate(COLUMNS):
        made.add_column(column, justify="left" if number == 0 else "right")
    for row in by_state(result.cuts):
        made.add_row(*map(str, row))
    return made


def sentences(result: Result) -> list[str]:
    """What the table does not say."""
    cuts = result.cuts
    lost = sum(cut.left.lost for cut in cuts)
    partly = sum(1 for cut in cuts if cut.left.lost and cut.left.survived)
    found = [
        f"{lost} pieces of 4 KiB that the board had written and not flushed were lost in "
        f"{sum(1 for cut in cuts if cut.left.lost)} cuts; in {partly} of them others survived.",
        f"The disk of an update that nothing disturbed was looked at as it had been after "
        f"{len(result.moments)} of its writes and flushes: "
        f"{sum(bool(faults) for faults in result.moments)} times something was broken.",
        f"{sum(cut.in_1970 for cut in cuts)} of the boots after a cut were in 1970.",
        f"{sum(cut.aim == 'boot' for cut in cuts)} cuts fell while the board started after "
        "another one.",
        f"{result.left_over} cuts left chunks behind that the next update removed; after the last "
        "one nothing was left.",
    ]
    return [*found, *_measured(result)]


def _measured(result: Result) -> list[str]:
    found = []
    reports = result.facts.get("reports")
    for report in reports if isinstance(reports, list) else ():
        if isinstance(report, Mapping):
            verdict = "passes" if report["passed"] else f"fails ({report['reason']})"
            found.append(
                f"{report['variant']} {verdict} its self-test on {result.facts['machine']}: "
                f"{report['metric']} {report['value']:.4f}, at least {report['floor']} is needed, "
                f"over {report['cases']} golden vectors made on x86-64."
            )
    if result.rss_bytes:
        sizes = ", ".join(f"{who} {size / 1e6:.0f} MB" for who, size in result.rss_bytes.items())
        found.append(f"Resident memory on the board, at rest: {sizes}.")
    return found


def section(result: Result) -> str:
    """For docs/reliability.md, markers included."""
    options = f"--cuts {len(result.cuts)} --moments {len(result.moments)} --seed {result.seed}"
    broken = sum(bool(cut.broken) for cut in result.cuts)
    points = [
        *sentences(result),
        *(f"{_begun(what)}: {'; '.join(faults) or 'true'}." for what, faults in result.others),
    ]
    lines = [
        BEGIN,
        "## Power cuts of a whole board",
        "",
        _wrapped(HOW),
        "",
        _wrapped(
            f"By `{COMMAND} {options}`: {len(result.cuts)} cuts; {broken} left something broken."
        ),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|" + "---:|" * (len(COLUMNS) - 1),
        *("| " + " | ".join(map(str, row)) + " |" for row in by_state(result.cuts)),
        "",
        *(_wrapped(f"- {point}", "  ") for point in points),
        END,
    ]
    return "\n".join(lines) + "\n"


def _begun(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def write(path: Path, made: str) -> None:
    """Put the section where its markers are, or at the end; nothing else changes."""
    text = path.read_text() if path.exists() else ""
    between = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END) + "\n?", re.DOTALL)
    if between.search(text):
        text = between.sub(lambda _: made, text, count=1)
    else:
        text = f"{text.rstrip()}\n\n{made}" if text.strip() else made
    path.write_text(text)


def kept(text: str) -> str:
    """The section in `text`, to be put at the end of the page by whoever writes the rest anew."""
    found = re.search(re.escape(BEGIN) + ".*?" + re.escape(END), text, re.DOTALL)
    return f"\n{found[0]}\n" if found else ""


def rss(gauges: Sequence[Mapping[str, float]]) -> dict[str, int]:
    """By process, of the last telemetry that has both."""
    for values in reversed(gauges):
        if {"supervisor_rss_bytes", "worker_rss_bytes"} <= values.keys():
            return {who: int(values[f"{who}_rss_bytes"]) for who in ("supervisor", "worker")}
    return {}
