"""Who answers the door while no worker serves, and how little a client can make of that."""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Iterator

import pytest

from edge_runtime.agent.doorman import HOLD_S, MAX_HEAD_BYTES, MAX_VISITORS, VISIT_S, Doorman
from edge_runtime.agent.listener import Listener


class Door:
    def __init__(self) -> None:
        self.now_s = 50.0
        self.selector = selectors.DefaultSelector()
        self.man = Doorman("127.0.0.1", 0, self.selector, lambda: self.now_s)
        self.clients: list[socket.socket] = []

    def knock(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.man.port), timeout=5)
        self.clients.append(client)
        client.sendall(data)
        return client

    def turn(self, times: int = 60) -> None:
        for _ in range(times):
            self.man.watch(self.now_s)
            for key, mask in self.selector.select(0.001):
                key.data(mask)

    def ask(self, data: bytes) -> tuple[int, bytes]:
        client = self.knock(data)
        self.turn(6)
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
        return int(head.split()[1]), body


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    made.man.answer()
    yield made
    made.man.close()
    for client in made.clients:
        client.close()
    made.selector.close()


@pytest.mark.parametrize("path", [b"/v2/health/live", b"/v2/health/live/", b"/v2/health/live?x=1"])
def test_the_agent_is_live(door: Door, path: bytes) -> None:
    assert door.ask(b"GET " + path + b" HTTP/1.1\r\n\r\n") == (200, b'{"live":true}')
    assert door.ask(b"HEAD " + path + b" HTTP/1.1\r\n\r\n") == (200, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v2/health/ready HTTP/1.1\r\n\r\n",
        b"POST /v2/health/live HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"\r\n\r\n",
        b"\0" * MAX_HEAD_BYTES,
        b"GET /" + b"x" * MAX_HEAD_BYTES,
    ],
)
def test_everything_else_is_one_sentence(door: Door, data: bytes) -> None:
    status, body = door.ask(data)
    assert (status, json.loads(body)) == (503, {"error": "no bundle serves on this device now"})


def test_who_says_nothing_is_parted_with_and_too_many_wait_outside(door: Door) -> None:
    for _ in range(MAX_VISITORS):
        door.knock()
    door.turn()
    late = door.knock(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
    door.turn(5)
    late.settimeout(0.05)
    with pytest.raises(TimeoutError):
        late.recv(100)
    assert door.selector.select(0) == [], "the loop does not spin"
    door.now_s += VISIT_S
    door.turn(5)
    assert late.recv(100).startswith(b"HTTP/1.1 200")
    assert door.clients[0].recv(1) == b""


def test_a_worker_takes_over_who_waits_and_who_was_let_in_is_answered(door: Door) -> None:
    inside = door.knock(b"GET /v2/health/live HT")
    door.turn(5)
    door.man.listen()
    door.knock()
    door.turn(5)
    inside.sendall(b"TP/1.1\r\n\r\n")
    door.turn(5)
    assert inside.recv(100).startswith(b"HTTP/1.1 200")
    with socket.socket(fileno=door.man.fileno()) as listening:
        worker, _ = listening.accept()
        worker.close()
        listening.detach()
    door.man.refuse()
    assert door.ask(b"GET /v2 HTTP/1.1\r\n\r\n")[0] == 503


def test_a_connection_that_a_worker_leaves_behind_is_answered(door: Door) -> None:
    door.man.listen()
    client = door.knock(b"POST /v2/models/tiny/infer HTTP/1.1\r\n\r\n")
    with socket.socket(fileno=door.man.fileno()) as listening:
        worker, _ = listening.accept()
        listening.detach()
    door.man.turn_away(worker.detach())
    door.turn(5)
    assert client.recv(100).startswith(b"HTTP/1.1 503")


def test_after_the_end_nothing_is_watched(door: Door) -> None:
    door.knock()
    door.turn(3)
    door.man.close()
    door.man.refuse()
    assert not door.selector.get_map()


@pytest.fixture
def held() -> Iterator[Door]:
    """As after a restart under systemd: the socket listens, and the bundle is loading."""
    made = Door()
    Listener.listen(made.man)
    made.man.hold()
    yield made
    made.man.close()
    for client in made.clients:
        client.close()
    made.selector.close()


def test_after_a_restart_a_client_waits_for_who_served_it(held: Door) -> None:
    held.knock(b"GET /v2 HTTP/1.1\r\n\r\n")
    held.turn(5)
    assert not held.selector.get_map(), "nobody is let in"
    held.man.listen()
    held.now_s += 2 * HOLD_S
    held.turn(5)
    with socket.socket(fileno=held.man.fileno()) as listening:
        worker, _ = listening.accept()
        listening.detach()
    with worker:
        assert worker.recv(100).startswith(b"GET /v2 ")


def test_but_not_for_ever_and_not_for_what_failed(held: Door) -> None:
    client = held.knock(b"GET /v2 HTTP/1.1\r\n\r\n")
    assert held.man.watch(held.now_s) == held.now_s + HOLD_S
    held.now_s += HOLD_S
    held.turn(5)
    assert client.recv(100).startswith(b"HTTP/1.1 503")
    held.man.hold()
    held.man.refuse()
    assert held.ask(b"GET /v2 HTTP/1.1\r\n\r\n")[0] == 503
