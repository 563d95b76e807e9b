"""Boards with systemd, for the tests that need one; made when the first of them asks."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Before it is imported, so that what is proven there fails as telling as here.
pytest.register_assert_rewrite("tests.machine")

from tests.machine import host  # noqa: E402
from tests.machine.board import Board, board  # noqa: E402
from tests.machine.service import Service  # noqa: E402
from tests.machine.tree import tree  # noqa: E402


@pytest.fixture(scope="session")
def deb12() -> Iterator[Board]:
    """Debian 12."""
    yield from _board("deb12")


@pytest.fixture(scope="session")
def deb13() -> Iterator[Board]:
    """Debian 13."""
    yield from _board("deb13")


@pytest.fixture(scope="session")
def jammy() -> Iterator[Board]:
    """Ubuntu 22.04, of which JetPack 6 is made."""
    yield from _board("jammy")


@pytest.fixture(scope="module")
def agent(deb12: Board) -> Iterator[Service]:
    """One machine for a module: each test leaves it serving."""
    with deb12.serving() as service:
        yield service


def _board(suite: str) -> Iterator[Board]:
    reason = host.missing()
    if reason:
        pytest.skip(reason)
    try:
        tree(suite)
    except RuntimeError as failed:
        if os.environ.get("EDGE_SYSTEM") == "1":
            raise
        pytest.skip(f"no tree of a distribution can be had: {failed}")
    with board(suite) as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have measured, in lines."""
    reports = [
        (report.nodeid.rpartition("::")[2], name, value)
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
    ]
    if reports:
        terminalreporter.section("measured")
    for test, name, value in reports:
        terminalreporter.write_line(f"{name} {value}  ({test})")
