"""The package's life on a board: installed, set up, upgraded while it serves, removed, purged."""

from __future__ import annotations

import pytest

from tests.machine import ways
from tests.machine.board import Board

pytestmark = [pytest.mark.machine, pytest.mark.timeout(900)]


@pytest.mark.full
def test_a_board_that_is_not_enrolled_is_quiet_and_one_command_makes_it_serve_and_report(
    deb12: Board, record_property: ways.Record
) -> None:
    ways.whole_way(deb12, "press-1", record_property)


def test_an_upgrade_of_the_package_fails_no_request_and_keeps_state_and_configuration(
    deb12: Board, record_property: ways.Record
) -> None:
    ways.upgraded(deb12, record_property)


@pytest.mark.full
def test_removed_it_keeps_what_is_yours_purged_it_leaves_nothing_and_can_be_installed_again(
    deb12: Board,
) -> None:
    ways.purged(deb12)
