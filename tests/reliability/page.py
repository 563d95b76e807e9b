"""`docs/reliability.md`: what was done, what must hold, and what was counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.tables import Row
from tests.reliability.case import Ending
from tests.reliability.results import Kept, Result, machine

HEAD = """\
# Reliability

What an update survives, shown by doing it. Every case puts one fault into one update and then looks
at the device. This page is written by `make reliability`, which runs all of it; the code is in
`tests/reliability`. A share of every kind runs with the other system tests.

After each case, all of this must be true, or the case counts as broken:

- The old bundle or the new one serves, and no other: right after a restart without a network, and
  in the end. Where no process was killed, no client's request failed.
- What serves is whole: every file has the digest that its manifest names. So has the bundle that is
  kept to fall back on.
- The journal can be read, no chunk in the store and no file of signed metadata is torn.
- The update ends in the new bundle, by itself or after a restart. Or the new bundle was refused,
  with a reason, the old one serves, and the operator's word brings the new one in after all.
- The store holds what the two kept bundles need, and nothing else: no chunk too many, no temporary
  file. What a refused bundle or a fault in the clearing up itself leaves over is gone with the next
  update at the latest; such cases are counted in a column of their own.
- No process of ours ended in a traceback.

Bundles are signed, and the device demands it; the files of signed metadata are swept as well.
"""
HOW = """\
## How

**System calls** (the first four rows). A small device, the agent's own driver, store, journal and
trust over a repository in a folder, runs an update under strace, which lists every call that
touches the state folder. Then the update is run once for each of these calls, and strace kills the
process before the call, or has the call fail. Whether the right call was hit is read from strace's
output. Three updates are swept: one between two bundles, the first one of a new device, and one
that is rolled back because its bundle crashes. A device that was killed is also told to run a third
bundle instead, in a copy of its folder: nothing of the second may stay.

**Processes** (the other rows). `edge-agent run`, its supervisor, its workers and its notary, on a
real mosquitto, through a TCP proxy that misbehaves at exact bytes; a client asks for inferences all
the time. A supervisor that was killed is started again, as systemd would do it. A worker that is
killed while its bundle is tested or on trial is a reason to refuse the bundle; a notary's end is
not.

A missing fsync is not seen by any of this, for the kernel survives: that takes a power cut, of a
whole board.
"""
COLUMNS = ("fault", "cases", "new bundle", "after a restart", "old bundle, new refused",
           "left-overs until the next update", "broken")  # fmt: skip


def page(kept: Kept, order: Sequence[str]) -> str:
    """The whole page; `order` are the kinds' names."""
    results = [kept.results[name] for name in order]
    parts = [HEAD, *_table(results), "", *_notes(results), HOW, *_numbers(kept.numbers)]
    days = sorted({result.day for result in results})
    parts += ["", f"Run {' to '.join(dict.fromkeys((days[0], days[-1])))} on {machine()}."]
    return "\n".join(parts) + "\n"


def _table(results: Sequence[Result]) -> Iterator[str]:
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|---|" + "---:|" * (len(COLUMNS) - 1)
    for result in results:
        yield _row(f"{result.title}{' (a share)' if result.quick else ''}", [result])
    yield _row("**all**", results)


def _row(title: str, results: Sequence[Result]) -> str:
    figures = [
        sum(result.cases for result in results),
        *(sum(result.endings[ending.name] for result in results) for ending in Ending),
        sum(result.left_over for result in results),
        sum(len(result.broken) for result in results),
    ]
    return f"| {title} | " + " | ".join(f"{figure:,}" for figure in figures) + " |"


def _notes(results: Sequence[Result]) -> Iterator[str]:
    notes = [(result.title, note) for result in results for note in result.notes]
    broken = [(result.title, *case) for result in results for case in result.broken]
    for title, note in notes:
        yield f"{title}: {note}."
        yield ""
    if broken:
        yield "Broken:"
        yield ""
        for title, what, faults in broken:
            yield f"- {title}, {_code(what)}: {'; '.join(_code(fault) for fault in faults)}"
        yield ""


def _code(text: str) -> str:
    line = " ".join(text.split())
    return f"`{line[:200].replace('`', ' ')}`"


def _numbers(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    yield "## What an update costs"
    yield ""
    yield "By `python -m benchmarks.update_cost`; every byte of each bundle is new to the device."
    yield ""
    yield "| figure | value | goal | |"
    yield "|---|---:|---|---|"
    for row in rows:
        met = {None: "", True: "met", False: "**missed**"}[row.met]
        value = f"{row.value:.4g} {row.unit}".strip()
        yield f"| {row.what} | {value} | {row.goal.replace('<=', '≤')} | {met} |"
