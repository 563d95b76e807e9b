"""What the MQTT link does about servers that misbehave, without a broker."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from edge_runtime.errors import TransferError
from edge_runtime.link import BrokerConfig, Message
from edge_runtime.link.backoff import Backoff
from edge_runtime.link.mqtt import MqttLink

CONNACK5 = bytes([0x20, 3, 0, 0, 0])
CONNACK4 = bytes([0x20, 2, 0, 0])


class Server:
    """Answers every connection with `answer(connection, number)`, then reads until its end."""

    def __init__(self, answer: Callable[[socket.socket, int], None]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.accepted_s: list[float] = []
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted_s.append(time.monotonic())
            threading.Thread(
                target=self._one, args=(connection, len(self.accepted_s)), daemon=True
            ).start()

    def _one(self, connection: socket.socket, number: int) -> None:
        try:
            connection.recv(65536)
            self._answer(connection, number)
            while connection.recv(65536):
                pass
        except OSError:
            pass
        finally:
            connection.close()


Serve = Callable[..., tuple[Server, MqttLink]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    closing: list[Callable[[], None]] = []

    def start(
        answer: Callable[[socket.socket, int], None], **options: object
    ) -> tuple[Server, MqttLink]:
        server = Server(answer)
        config = dataclasses.replace(
            BrokerConfig.parse(f"mqtt://127.0.0.1:{server.port}"),
            **{"backoff_base_s": 0.02, "backoff_cap_s": 0.1, "connect_timeout_s": 0.3, **options},  # type: ignore[arg-type]
        )
        link = MqttLink(config, "client", lambda message: None, rng=random.Random(1))
        closing.extend([link.close, server.close])
        link.start()
        return server, link

    yield start
    for close in closing:
        close()


def until(done: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


GARBAGE = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x20\xff\xff\xff\xff\xff",
    b"\x20\x00",
    b"\x20\x03\x00\x00\x7f",
    b"\x20\x04\x00\x00\x01\xff",
    CONNACK5 + b"\x30\x01\x00",
    CONNACK5 + b"\x32\x02\x00\x09",
    CONNACK5 + b"\x30\x05\x00\x01a\x7f\x01",
    CONNACK5 + b"\x40\x01\x00",
    CONNACK5 + b"\x90\x00",
    CONNACK5 + b"\xf0\x00",
    random.Random(7).randbytes(2000),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda g: g[:12].hex())
@pytest.mark.parametrize("version", ["auto", "5", "3.1.1"])
def test_garbage_costs_the_connection_and_never_the_link(
    serve: Serve, garbage: bytes, version: str
) -> None:
    server, link = serve(lambda c, n: c.sendall(garbage), version=version)
    until(lambda: len(server.accepted_s) >= 3)
    assert link._thread is not None
    assert link._thread.is_alive()


def test_silent_server_is_given_up_in_time_and_named(serve: Serve) -> None:
    server, link = serve(lambda c, n: None, version="5")
    with pytest.raises(TransferError) as caught:
        link.wait_connected(1.0)
    assert f"broker 127.0.0.1:{server.port}" in str(caught.value)
    assert "no answer to an MQTT connect within 0.3 s" in str(caught.value)
    assert len(server.accepted_s) >= 2


@pytest.mark.parametrize("silence", ["closes", "stays silent", "refuses"])
def test_old_server_is_spoken_to_in_the_old_version(serve: Serve, silence: str) -> None:
    def answer(connection: socket.socket, number: int) -> None:
        if number > 1:
            connection.sendall(CONNACK4)
        elif silence == "closes":
            connection.shutdown(socket.SHUT_RDWR)
        elif silence == "refuses":
            connection.sendall(bytes([0x20, 2, 0, 1]))

    _, link = serve(answer)
    link.wait_connected(5)
    assert link.stats().connections == 1


def test_version_that_was_asked_for_is_never_changed(serve: Serve) -> None:
    server, link = serve(lambda c, n: c.sendall(bytes([0x20, 2, 0, 1])), version="5")
    with pytest.raises(TransferError, match="Unsupported protocol version"):
        link.wait_connected(0.5)
    assert len(server.accepted_s) >= 2


def test_refused_login_is_told_without_the_password(serve: Serve) -> None:
    _, link = serve(
        lambda c, n: c.sendall(bytes([0x20, 3, 0, 0x86, 0])), username="u", password="s3cret"
    )
    with pytest.raises(TransferError, match="refused: Bad user name or password") as caught:
        link.wait_connected(0.5)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("version", "connack"), [("5", CONNACK5), ("3.1.1", CONNACK4)])
def test_packet_that_would_fill_memory_is_given_up_before_it_arrived(
    serve: Serve, version: str, connack: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    header = connack + b"\x30\xff\xff\xff\x7f" + bytes(100)
    _, link = serve(lambda c, n: c.sendall(header), version=version)
    until(lambda: link.stats().connections >= 2)
    reasons = [getattr(record, "reason", "") for record in caplog.records]
    assert any("packet of 268435455 bytes, at most 4194304" in reason for reason in reasons)


def test_topic_that_is_no_text_is_dropped_and_counted(serve: Serve) -> None:
    packet = b"\x30\x06\x00\x02\xff\xfe\x00x"
    _, link = serve(lambda c, n: c.sendall(CONNACK5 + packet), version="5")
    until(lambda: link.stats().dropped_in == 1)
    assert link.stats().connected


def test_outage_is_logged_once_and_its_end_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def answer(connection: socket.socket, number: int) -> None:
        if number < 8:
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(CONNACK5)

    _, link = serve(answer, version="5")
    link.wait_connected(5)
    until(lambda: any(r.message == "broker connected" for r in caplog.records))
    assert [r.message for r in caplog.records] == ["broker unreachable", "broker connected"]


def test_attempts_are_spread_and_grow_apart(serve: Serve) -> None:
    """No attempt comes before the waits that `Backoff` drew for this seed are over.

    A loaded machine only makes it later, so there is no bound but a generous one on that side.
    """
    started_s = time.monotonic()
    server, _ = serve(
        lambda c, n: c.shutdown(socket.SHUT_RDWR),
        version="5",
        backoff_base_s=0.02,
        backoff_cap_s=0.32,
    )
    backoff = Backoff(base_s=0.02, cap_s=0.32, rng=random.Random(1))
    waits_s = [backoff.next_s() for _ in range(13)]
    until(lambda: len(server.accepted_s) > len(waits_s), timeout_s=30)
    assert max(waits_s) > 4 * max(waits_s[:2])
    for waited_s, accepted_s in zip(
        itertools.accumulate(waits_s), server.accepted_s[1:], strict=False
    ):
        assert accepted_s - started_s >= waited_s


def test_idle_link_sleeps(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is woken at most every ten seconds; what the rest of this process does is its own."""
    _, link = serve(lambda c, n: c.sendall(CONNACK5), version="5", connect_timeout_s=10.0)
    link.wait_connected(5)
    woken: list[float] = []
    clear = link.waker.clear

    def count() -> None:
        woken.append(time.monotonic())
        clear()

    monkeypatch.setattr(link.waker, "clear", count)
    time.sleep(1.5)
    assert len(woken) <= 3  # The end of the handshake may be among them.
    link.publish("a", b"", qos=0)
    until(lambda: len(woken) > 0)


def test_close_during_a_hanging_connect_returns_soon(serve: Serve) -> None:
    _, link = serve(lambda c, n: None, connect_timeout_s=30.0, version="5")
    time.sleep(0.1)
    started_s = time.monotonic()
    link.close()
    assert time.monotonic() - started_s < 1.0


def test_host_that_does_not_exist_is_an_outage_like_any_other() -> None:
    config = BrokerConfig.parse("mqtt://no-such-host.invalid")
    link = MqttLink(config, "client", lambda message: None)
    link.start()
    with pytest.raises(TransferError, match=r"broker no-such-host.invalid:1883"):
        link.wait_connected(1.0)
    link.close()


def test_closed_link_leaves_no_thread_and_no_descriptor(serve: Serve) -> None:
    received: list[Message] = []
    _, link = serve(lambda c, n: c.sendall(CONNACK5), version="5")
    link.wait_connected(5)
    link.close()
    assert link._thread is not None
    assert not link._thread.is_alive()
    assert link.waker.fileno() == -1
    assert received == []
