"""What an update costs the device: bytes written, memory, seconds, failed requests.

    python -m benchmarks.update_cost [--quick] [--bundle BUNDLE] [--json]

A real broker and a real agent that demands signed metadata and serves a small bundle; a client asks
it without a pause. Bundles of several sizes are published, signed and brought in. They share
nothing with what is there: every byte is new. They are noise around a tiny model; BUNDLE is one of
yours to do the same with, for its engine loads more than that.

Bytes written are those that the supervisor, and every process that it waited for, had the disk
write, as the kernel counts them. Memory growth is the supervisor's peak during an update over what
it had before.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables import Row, at_most, show
from tests.fakes.agents import wait_for
from tests.fakes.brokers import mosquitto
from tests.flows.world import Made
from tests.reliability.board import Board, asking

SIZES_MB = (25, 200)
QUICK_MB = (25, 50)
MB = 1e6
MAX_WRITTEN = 1.3
MAX_GROWTH_MB = 24.0
MAX_SECONDS = 5.0


def measure(sizes_mb: Sequence[int] = SIZES_MB, bundle: Path | None = None) -> list[Row]:
    """Rows for each size, and then for `bundle`; the first size has a bound on its time."""
    # The page cache of a disk is what is measured, so not a folder in memory.
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as name,
        mosquitto() as broker,
        Board(Path(name), broker, "cost", chunk_timeout_s=30.0, trial_s=1.0) as board,
    ):
        board.begin(board.sized("1.0.0", 100_000))
        made = [board.sized(f"{n}.0.0", mb * 1_000_000) for n, mb in enumerate(sizes_mb, 2)]
        if bundle is not None:
            made.append(Made(bundle))
            board.made(made[-1], True, "")
        rows: list[Row] = []
        with asking(board) as client:
            for number, each in enumerate(made):
                rows += _update(board, each, timed=number == 0 or number >= len(sizes_mb))
            asked, failed = sum(client.answered.values()), client.unanswered
        rows.append(Row("requests during all of it", asked, ""))
        rows.append(at_most("requests that failed", failed, "", 0))
        return rows


def _update(board: Board, made: Made, *, timed: bool) -> list[Row]:
    assert board.before is not None
    new_bytes = sum(made.without(board.before).values())
    title = f"{made.manifest.name}, {new_bytes / MB:.0f} MB"
    pid = board.agent.process.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # The peak begins anew.
    before_bytes, written_before = _memory(pid, "VmRSS"), _written(pid)
    begin_s = time.monotonic()
    board.sign(made)
    published_s = time.monotonic() - begin_s
    board.ask(made)
    wait_for("it serves", lambda: board.serves() == made)
    serving_s = time.monotonic() - begin_s
    case = board.conclude("update")
    if case.broken:
        raise RuntimeError(f"{title}: {case.broken[0]}")
    ratio = (_written(pid) - written_before) / new_bytes
    growth_mb = (_memory(pid, "VmHWM") - before_bytes) / MB
    rows = [
        at_most(f"{title}: written to disk, per new byte", ratio, "", MAX_WRITTEN),
        at_most(f"{title}: supervisor's memory growth", growth_mb, "MB", MAX_GROWTH_MB),
        Row(f"{title}: of publishing and signing", published_s, "s"),
    ]
    what = f"{title}: publish to serving, self-test included"
    if timed:
        return [*rows, at_most(what, serving_s, "s", MAX_SECONDS)]
    return [*rows, Row(what, serving_s, "s")]


def _memory(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(found.split()[1]) * 1024


def _written(pid: int) -> int:
    """Bytes that it had the disk write, and the children that it has waited for."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("write_bytes:"))
    return int(found.split()[1])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--quick", action="store_true", help="no large bundle")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(QUICK_MB if options.quick else SIZES_MB, options.bundle)
    show("the cost of an update", rows, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
