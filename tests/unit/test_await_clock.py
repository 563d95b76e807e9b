"""The wait for the right time ends, one way or the other."""

from __future__ import annotations

import json

import pytest

from edge_runtime.agent.await_clock import await_clock
from edge_runtime.agent.cli import main


class Board:
    """Its clock is set `after_s`; time passes when somebody sleeps."""

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        self.uptime = 0.0

    def now_s(self) -> float:
        return 1_800_000_000.0 if self.synchronized() else self.uptime

    def synchronized(self) -> bool:
        return self.uptime >= self.after_s

    def uptime_s(self) -> float:
        return self.uptime

    def boot_id(self) -> str:
        return "boot"

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.uptime += seconds


def test_it_ends_soon_after_the_clock_is_set() -> None:
    board = Board(after_s=7.1)
    waited = await_clock(20.0, board, board.uptime_s, board.sleep)
    assert waited.right
    assert 7.1 <= waited.waited_s <= 7.6
    assert waited.sentence.endswith("2027-01-15 08:00:00 UTC")


def test_without_anything_that_sets_the_clock_it_ends_at_its_bound() -> None:
    board = Board(after_s=1e9)
    waited = await_clock(20.0, board, board.uptime_s, board.sleep)
    assert not waited.right
    assert waited.waited_s == pytest.approx(20.0)
    assert "within 20 s, it says 1970-01-01 00:00:20 UTC" in waited.sentence


def test_a_clock_that_is_right_already_is_not_waited_for() -> None:
    board = Board(after_s=0.0)
    assert await_clock(20.0, board, board.uptime_s, board.sleep).waited_s == 0.0


def test_the_command_says_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["await-clock", "--timeout", "0.01", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["right"] is (code == 0)
    assert set(told) == {"right", "now", "waited_s"}
