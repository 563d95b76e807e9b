"""Cut the power of an emulated board in the middle of updates, again and again.

    python -m tests.board.powercut [--cuts 20] [--moments 200] [--seed 1] [--json] [--keep]
                                   [--write] [--forget]

The first run makes the board's image, which takes two minutes and the network; it is cached under
`$EDGE_CACHE/board` or `build/board`. A cut takes about a minute on two cores, boot and the rest of
the update included. Exit code 0: nothing was broken; 1: something was, or the board cannot be made;
2: usage.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edge_runtime.errors import EdgeError
from tests.board import host, image, in_1970, moments, page
from tests.board.board import Board
from tests.board.page import Result
from tests.fakes.brokers import mosquitto

PAGE = image.ROOT / "docs" / "reliability.md"
SWEPT = "after all cuts, an update that nothing disturbs leaves nothing over"
FORGETS = {"BOARD_FORGETS": "1"}


def run(folder: Path, options: argparse.Namespace, talk: Console) -> Result:
    """All of it.

    Raises:
        EdgeError: the board cannot be made, or does not even work without a cut.
    """
    plan = moments.plan(options.cuts, options.seed)
    result = Result(options.seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=talk) as progress:
        task = progress.add_task("making the board", total=options.cuts)

        def say(what: str) -> None:
            progress.update(task, description=what)

        made = image.make(image.cache_folder(), folder, say, options.mirror)
        told = FORGETS if options.forget else None
        with mosquitto() as broker, Board(folder, made, broker, options.seed, told) as board:
            say("the self-test on the board")
            result.facts = board.facts()
            say("two updates that nothing disturbs")
            board.begin()
            say("moments of its log")
            for number, faults in enumerate(board.look_back(options.moments)):
                result.moments.append(faults)
                say(f"moment {number + 1} of {options.moments} of its log")
                for fault in faults:
                    talk.print(f"moment {number + 1}, broken: {fault}", markup=False)
            for aims in plan:
                say("cut in " + ", then ".join(aim.state for aim in aims))
                cuts = board.update(aims)
                result.cuts += cuts
                progress.advance(task, len(cuts))
                for cut in cuts:
                    talk.print(f"cut {cut.number}: {page.line(cut)}", markup=False)
                    for fault in cut.broken:
                        talk.print(f"  broken: {fault}", markup=False)
            say("an update that nothing disturbs")
            result.others.append((SWEPT, board.undisturbed()))
            result.rss_bytes = page.rss([heard.gauges for heard in board.fleet.telemetry])
            say("1970")
            result.others += in_1970.cases(board)
            result.left_over = board.left_over
            say("done")
    return result


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.board.powercut", description=(__doc__ or "").splitlines()[0]
    )
    made.add_argument("--cuts", type=int, default=20, metavar="N", help="how many (default: 20)")
    made.add_argument("--seed", type=int, default=1, help="of moments and losses (default: 1)")
    made.add_argument(
        "--moments",
        type=int,
        default=200,
        metavar="N",
        help="of an undisturbed update's disk to look at, without a boot (default: 200)",
    )
    made.add_argument("--json", action="store_true", help="every case as JSON on stdout")
    made.add_argument("--keep", action="store_true", help="leave disks and consoles behind")
    made.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    made.add_argument(
        "--mirror", default=image.MIRROR, metavar="URL", help=f"Debian (default: {image.MIRROR})"
    )
    made.add_argument(
        "--forget",
        action="store_true",
        help="give the board a Python whose fsync does nothing: then this must fail",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the exit code."""
    arguments = parser()
    options = arguments.parse_args(argv)
    if options.cuts < 1:
        arguments.error(f"--cuts is {options.cuts}, expected at least 1")
    talk = Console(stderr=True)
    if missing := host.missing():
        talk.print(f"not installed: {', '.join(missing)}", markup=False)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="edge-board-"))
    begin_s = time.monotonic()
    try:
        result = run(folder, options, talk)
    except EdgeError as error:
        talk.print(f"powercut: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if options.keep:
            talk.print(f"kept: {folder}", markup=False)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(result.as_json(), indent=1))
    else:
        Console().print(page.table(result))
        for sentence in page.sentences(result):
            print(f"  {sentence}")
        for what, faults in result.others:
            print(f"  {what}: {'; '.join(faults) or 'true'}")
    talk.print(f"{time.monotonic() - begin_s:.0f} s, {len(result.broken)} broken", markup=False)
    if options.write:
        page.write(PAGE, page.section(result))
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
