"""What matters most of test_service.py, on Debian 13."""

from __future__ import annotations

import pytest

from tests.machine import ways
from tests.machine.board import Board

pytestmark = [pytest.mark.machine, pytest.mark.timeout(900), pytest.mark.full]


def test_the_whole_way_from_the_package_to_answers_and_reports(
    deb13: Board, record_property: ways.Record
) -> None:
    ways.whole_way(deb13, "press-1", record_property)


def test_a_killed_agent_comes_back_and_who_connects_meanwhile_is_answered(deb13: Board) -> None:
    with deb13.serving() as agent:
        ways.killed_meanwhile(agent)


def test_a_board_without_its_network_serves_and_reports_later(deb13: Board) -> None:
    ways.without_network(deb13)


def test_an_upgrade_fails_no_request(deb13: Board, record_property: ways.Record) -> None:
    ways.upgraded(deb13, record_property)


def test_a_purged_package_leaves_nothing(deb13: Board) -> None:
    ways.purged(deb13)
