"""The broker is killed in the middle of a transfer, and started again; it keeps what it is told to.

Nothing is published again: what is retained is on the broker's disk before the transfer begins, and
the device goes on where it was. A client of the device notices nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fakes.agents import wait_for
from tests.fakes.brokers import BrokerProcess, mosquitto
from tests.reliability.board import Board, asking, with_client
from tests.reliability.case import Case, Kind, Setting

SIZE = 600_000
RATE_BYTES_S = 300_000
CRAWL_BYTES_S = 500
"""Until the broker has saved what the device is to fetch."""
MOMENTS = tuple(n / 8 for n in range(8))
"""Shares of a transfer after which the broker is killed."""
PAUSES_S = (0.0, 3.0)
"""How long it is gone."""


def killed(setting: Setting) -> Iterator[Case]:
    """One case for each moment and each pause."""
    sweep = setting.some([(moment, pause_s) for moment in MOMENTS for pause_s in PAUSES_S])
    setting.expect(len(sweep))
    with TemporaryDirectory(prefix="edge-persistence-") as kept:
        lines = ("persistence true", f"persistence_location {kept}/", "autosave_interval 1")
        with mosquitto(lines) as broker, Board(setting.folder, broker, "broker") as board:
            board.begin(board.sized("1.0.0", SIZE))
            with asking(board) as asker:
                for number, (moment, pause_s) in enumerate(sweep, start=2):
                    version = f"{number}.0.0"
                    board.restart()
                    asker.forget()
                    case = _update(board, broker, Path(kept), version, moment, pause_s)
                    yield with_client(case, asker)
                    if board.before is None:
                        return


def _update(
    board: Board, broker: BrokerProcess, kept: Path, version: str, moment: float, pause_s: float
) -> Case:
    made = board.sized(version, SIZE)
    assert board.before is not None
    fresh = made.without(board.before)
    board.sign(made)
    board.proxy.rate_bytes_s = CRAWL_BYTES_S
    board.ask(made)
    _saved(kept)
    begin = board.proxy.to_client_bytes
    board.proxy.rate_bytes_s = RATE_BYTES_S
    goal = begin + moment * sum(fresh.values())
    wait_for("the transfer is under way", lambda: board.proxy.to_client_bytes > goal)
    broker.kill()
    time.sleep(pause_s)
    broker.start()
    what = f"killed at {moment:.0%} of the transfer, gone for {pause_s:g} s"
    case = board.conclude(what)
    board.proxy.rate_bytes_s = 0
    return case


def _saved(kept: Path) -> None:
    """Wait until the broker has written what it keeps: twice, for one may have begun before."""
    database = kept / "mosquitto.db"

    def written() -> int:
        return database.stat().st_mtime_ns if database.exists() else 0

    for _ in range(2):
        wait_for("the broker saves what it keeps", partial(_later, written, written()))


def _later(written: Callable[[], int], before: int) -> bool:
    return written() > before


KINDS = (
    Kind("broker-killed", "SIGKILL of the broker in the middle of a transfer, and again", killed),
)
