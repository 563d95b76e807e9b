"""What matters most of test_service_*.py, on Debian 13 and on Ubuntu 22.04."""

from __future__ import annotations

import pytest

from tests.machine import ways
from tests.machine.board import Board

pytestmark = [pytest.mark.machine, pytest.mark.timeout(900), pytest.mark.full]


@pytest.fixture(scope="module", params=["deb13", "jammy"])
def board(request: pytest.FixtureRequest) -> Board:
    found: Board = request.getfixturevalue(request.param)
    return found


def test_the_whole_way_from_the_package_to_answers_and_reports(
    board: Board, record_property: ways.Record
) -> None:
    ways.whole_way(board, "press-1", record_property)


def test_a_killed_agent_comes_back_and_who_connects_meanwhile_is_answered(board: Board) -> None:
    with board.serving() as agent:
        ways.killed_meanwhile(agent)


def test_a_board_without_its_network_serves_and_reports_later(board: Board) -> None:
    ways.without_network(board)


def test_an_upgrade_fails_no_request(board: Board, record_property: ways.Record) -> None:
    ways.upgraded(board, record_property)


def test_a_purged_package_leaves_nothing(board: Board) -> None:
    ways.purged(board)
