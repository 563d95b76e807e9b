"""Run the faults of every kind, count their cases, write the page: `make reliability`.

    python -m tests.reliability [--quick] [--only NAME] [--write docs/reliability.md] [--json]

Kinds are run one after the other. What each counted is kept in `build/reliability/results.json`, so
that a kind may be run alone and the page be written with the others as they were. Exit code 1 where
a case is broken; its folder stays then, and is named.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import update_cost
from benchmarks.tables import show
from tests.board.page import kept as power_cuts
from tests.reliability import (
    broker_kills,
    hostile_chunks,
    network,
    random_kills,
    strace,
    system_calls,
)
from tests.reliability.case import Case, Kind, Setting
from tests.reliability.page import page
from tests.reliability.results import Kept, Result, counted

KINDS: dict[str, Kind] = {
    kind.name: kind
    for module in (system_calls, random_kills, broker_kills, network, hostile_chunks)
    for kind in module.KINDS
}
NUMBERS = "numbers"
QUICK = 12
"""Cases of each kind."""


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability",
        description="Put faults of every kind into updates and count what becomes of them.",
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} cases of each kind")
    parser.add_argument(
        "--only", choices=[*KINDS, NUMBERS], action="append", help="this one; repeatable"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page")
    parser.add_argument("--out", type=Path, default=Path("build/reliability"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=1, help="of what happens at random")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    chosen = options.only or [*KINDS, NUMBERS]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Agents and brokers end with us.
    talk = Console(stderr=True)
    # The operator's own link loses its broker, too, and would say so into the progress bars.
    logging.getLogger("edge_runtime").addHandler(logging.NullHandler())
    lacking = _lacking()
    if lacking:
        talk.print(f"error: {lacking}", markup=False)
        return 1
    kept = Kept(options.out / "results.json")
    for name in chosen:
        if name == NUMBERS:
            talk.print("what an update costs")
            sizes = update_cost.QUICK_MB if options.quick else update_cost.SIZES_MB
            kept.numbers = update_cost.measure(sizes)
        else:
            kept.results[name] = _run(KINDS[name], options, talk)
        kept.save()
    if options.json:
        sys.stdout.write(json.dumps(kept.as_json(), indent=1) + "\n")
    else:
        _show([kept.results[name] for name in KINDS if name in chosen])
        if NUMBERS in chosen:
            show("what an update costs", kept.numbers, as_json=False)
    if options.write:
        missing = [name for name in KINDS if name not in kept.results]
        if missing:
            talk.print(f"error: no page without {', '.join(missing)}: run them", markup=False)
            return 1
        before = options.write.read_text() if options.write.exists() else ""
        # Power cuts of a whole board take an emulator, and a command of their own.
        options.write.write_text(page(kept, list(KINDS)) + power_cuts(before))
    return 1 if any(kept.results[n].broken for n in chosen if n != NUMBERS) else 0


def _lacking() -> str:
    """What this cannot do without, in a sentence, or nothing."""
    for name in ("mosquitto", "strace"):
        if shutil.which(name) is None and shutil.which(name, path="/usr/sbin") is None:
            return f"{name} is not installed (Debian: apt-get install {name})"
    return strace.obstacle()


def _run(kind: Kind, options: argparse.Namespace, talk: Console) -> Result:
    folder = Path(tempfile.mkdtemp(prefix=f"edge-{kind.name}-"))
    cases: list[Case] = []
    notes: list[str] = []
    begin_s = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=talk) as progress:
        bar = progress.add_task(kind.name, total=None)
        setting = Setting(
            folder,
            QUICK if options.quick else None,
            options.seed,
            expect=lambda total: progress.update(bar, total=total),
            say=notes.append,
        )
        for case in kind.run(setting):
            cases.append(case)
            progress.advance(bar)
            if case.broken:
                progress.console.print(f"broken: {case.what}", markup=False)
                for fault in case.broken:
                    progress.console.print(f"  {fault}", markup=False)
    if any(case.broken for case in cases):
        talk.print(f"{kind.name}: what is left is in {folder}", markup=False)
    else:
        shutil.rmtree(folder)
    seconds = time.monotonic() - begin_s
    return counted(kind, cases, notes, seconds, quick=options.quick)


def _show(results: list[Result]) -> None:
    table = Table(title="what an update survives", title_justify="left")
    for column in ("kind", "cases", "new", "restarted", "refused", "left-overs", "broken", "s"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for r in results:
        figures = (r.cases, *r.endings.values(), r.left_over, len(r.broken), round(r.seconds))
        table.add_row(r.name, *map(str, figures))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
