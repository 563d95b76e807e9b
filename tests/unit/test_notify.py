"""What systemd is told and what it passes; a socket of our own stands in for its end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.agent.notify import CLIENT, STARTING_PAUSE_S, Notifier, Passed, passed_sockets

MINE = {"LISTEN_FDS": "3", "LISTEN_PID": str(os.getpid())}


class Manager:
    """systemd's end."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.settimeout(1)
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "4000000"}

    def heard(self) -> str:
        return self.sock.recv(4096).decode()

    def silent(self) -> bool:
        self.sock.settimeout(0)
        try:
            return not self.sock.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(1)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.sock.close()


def test_the_watchdog_is_fed_at_half_time_once_we_are_ready(manager: Manager) -> None:
    notifier = Notifier(manager.environment)
    notifier.ready()
    assert manager.heard() == "READY=1"
    for now_s in (10.0, 11.0, 12.1):
        notifier.alive(now_s)
    assert [manager.heard(), manager.heard()] == ["WATCHDOG=1"] * 2
    assert manager.silent()


def test_a_start_that_goes_on_asks_for_more_time_now_and_then(manager: Manager) -> None:
    notifier = Notifier(manager.environment)
    for now_s in (10.0, 10.1, 10.0 + STARTING_PAUSE_S):
        notifier.alive(now_s)
    assert [manager.heard(), manager.heard()] == ["EXTEND_TIMEOUT_USEC=60000000"] * 2
    assert manager.silent()


def test_an_end_says_how_long_it_may_take(manager: Manager) -> None:
    Notifier(manager.environment).stopping(25.0)
    assert manager.heard() == "STOPPING=1\nEXTEND_TIMEOUT_USEC=25000000"


def test_the_status_is_one_harmless_line_and_said_when_it_changes(manager: Manager) -> None:
    notifier = Notifier(manager.environment)
    for text in ("serves", "serves", "refused: \x1b[2J\nWATCHDOG=1"):
        notifier.status(text)
    assert manager.heard() == "STATUS=serves"
    assert "\n" not in (line := manager.heard())
    assert "\x1b" not in line
    assert manager.silent()


def test_a_connection_is_left_with_systemd_by_name(manager: Manager) -> None:
    notifier = Notifier(manager.environment)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert notifier.keep(theirs.fileno())
        data, (descriptor,), _, _ = socket.recv_fds(manager.sock, 4096, 2)
        assert data.decode() == f"FDSTORE=1\nFDNAME={CLIENT}"
        with socket.socket(fileno=descriptor) as kept:
            kept.sendall(b"still open")
            assert ours.recv(100) == b"still open"
    notifier.kept_no_more()
    assert manager.heard() == f"FDSTOREREMOVE=1\nFDNAME={CLIENT}"


def test_without_systemd_nothing_is_sent_and_nothing_breaks(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}, {"WATCHDOG_USEC": "x"}):
        notifier = Notifier(environment)
        notifier.ready()
        notifier.alive(1.0)
        notifier.status("fine")
        assert notifier.watchdog_s is None
        assert not notifier.keep(0)


def test_only_what_was_passed_to_this_process_is_taken_and_clients_are_told_by_name() -> None:
    named = {**MINE, "LISTEN_FDNAMES": f"edge-agent.socket:{CLIENT}:{CLIENT}"}
    assert passed_sockets(named) == Passed((3,), (4, 5))
    assert passed_sockets(MINE) == Passed((3, 4, 5))
    assert passed_sockets({**named, "LISTEN_PID": "1"}) == Passed()
    assert passed_sockets({**named, "LISTEN_FDS": "-1"}) == Passed()
