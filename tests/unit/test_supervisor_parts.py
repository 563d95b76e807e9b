"""What the supervisor is made of, each part by itself; its processes are in tests/system."""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from edge_runtime.agent.asks import MAX_UNDER_WAY, Asks
from edge_runtime.agent.channel import MAX_WAITING_BYTES, Channel, ChannelClosed
from edge_runtime.agent.config import AgentConfig, ApiConfig, TelemetryConfig
from edge_runtime.agent.inbox import Allowance, Inbox
from edge_runtime.agent.listener import Listener
from edge_runtime.agent.logs import Line
from edge_runtime.agent.reporting import Reporting
from edge_runtime.agent.supervisor import Supervisor
from edge_runtime.bundle.files import MAX_CHUNK_BYTES
from edge_runtime.errors import InputError
from edge_runtime.link import BrokerConfig, Message
from edge_runtime.messages.fleet import (
    Event,
    InferRequest,
    InferResult,
    Online,
    Reported,
    Telemetry,
    to_bytes,
)
from edge_runtime.messages.topics import Topics
from edge_runtime.messages.worker import Answer, Ask, Connection, Drain, Serve, to_frame
from edge_runtime.profile import load_profile
from edge_runtime.update.driver import Policy, Status

TOPICS = Topics()


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    channel = Channel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


def test_frames_and_descriptors_pass_through_a_channel(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    with socket.create_server(("127.0.0.1", 0)) as passed:
        channel.send(Serve())
        channel.send(Connection(), os.dup(passed.fileno()))
        data, descriptors, _, _ = socket.recv_fds(theirs, 4096, 4)
        assert data == to_frame(Serve()) + to_frame(Connection())
        with socket.socket(fileno=descriptors[0]) as received:
            assert received.getsockname() == passed.getsockname()
        socket.send_fds(theirs, [to_frame(Connection())], [passed.fileno()])
        ((frame, descriptor),) = channel.receive()
        assert isinstance(frame, Connection)
        assert descriptor is not None
        os.close(descriptor)


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", b"\0\0\0\2{}", b"\0\0\0\4null", to_frame(Connection())],
    ids=["too large", "no kind", "no object", "no descriptor"],
)
def test_a_worker_that_talks_nonsense_is_cut_off(
    pair: tuple[Channel, socket.socket], data: bytes
) -> None:
    channel, theirs = pair
    theirs.sendall(data)
    with pytest.raises(ChannelClosed, match="frame"):
        list(channel.receive())


def test_a_worker_that_does_not_read_holds_nobody_up(pair: tuple[Channel, socket.socket]) -> None:
    channel, _ = pair
    ask = Ask("1", ("x" * 60_000,) * 10)
    channel.send(ask)
    channel.send(ask)
    assert channel.wants_write
    for _ in range(MAX_WAITING_BYTES // 600_000 - 2):
        channel.send(ask)
    with pytest.raises(ChannelClosed, match="does not read"):
        _send_twice(channel, ask)


def _send_twice(channel: Channel, ask: Ask) -> None:
    channel.send(ask)
    channel.send(ask)


def test_the_end_of_a_worker_ends_its_channel(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    theirs.sendall(to_frame(Drain()))
    theirs.close()
    assert [frame for frame, _ in channel.receive()] == [Drain()]
    with pytest.raises(ChannelClosed):
        list(channel.receive())


def test_the_port_is_taken_at_once_and_clients_are_refused_until_it_listens() -> None:
    listener = Listener("127.0.0.1", 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", listener.port), timeout=1)
    listener.listen()
    socket.create_connection(("127.0.0.1", listener.port), timeout=1).close()
    with pytest.raises(InputError, match=f"port {listener.port}: cannot be used"):
        Listener("127.0.0.1", listener.port)
    port = listener.port
    listener.refuse()
    assert listener.port == port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    listener.close()


@pytest.mark.parametrize("by_number", [True, False], ids=["by number", "any free port"])
def test_nobody_takes_the_port_while_it_does_not_listen(by_number: bool) -> None:
    port = 0
    if by_number:
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
    listener = Listener("127.0.0.1", port)
    for _ in range(2):
        for host in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(OSError, match="in use"):
                take(host, listener.port)
        listener.listen()
        client = socket.create_connection(("127.0.0.1", listener.port), timeout=1)
        listener.refuse()
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
    listener.close()
    take("127.0.0.1", listener.port)


def test_a_worker_that_is_not_gone_yet_keeps_no_client_waiting() -> None:
    listener = Listener("127.0.0.1", 0)
    listener.listen()
    with socket.socket(fileno=os.dup(listener.fileno())):
        listener.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", listener.port), timeout=1)
        listener.listen()
        socket.create_connection(("127.0.0.1", listener.port), timeout=1).close()
    listener.close()


def take(host: str, port: int) -> None:
    """As almost every server does."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((host, port))
        other.listen()


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "a" * 300])
def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        Listener(host, 0)


def test_calls_from_other_threads_arrive_in_order_and_strangers_are_bounded() -> None:
    inbox = Inbox()
    seen: list[int] = []

    def put_three() -> None:
        for number in range(3):
            inbox.put(partial(seen.append, number))

    thread = threading.Thread(target=put_three)
    thread.start()
    thread.join()
    few = Allowance(4, 100)
    taken = [inbox.put(lambda: seen.append(9), within=few, size_bytes=1) for _ in range(5)]
    assert taken == [True] * 4 + [False]
    assert inbox.put(lambda: None, within=Allowance(1, 1)), "each kind has its own account"
    for call in inbox.take():
        call()
    assert seen == [0, 1, 2] + [9] * 4
    assert inbox.put(lambda: None, within=few, size_bytes=100)
    assert not inbox.put(lambda: None, within=few, size_bytes=1)
    inbox.close()


def readable(inbox: Inbox) -> bool:
    return bool(select.select([inbox], [], [], 0)[0])


def test_work_that_brings_new_work_has_one_turn_at_a_time() -> None:
    inbox = Inbox()
    made = 0

    def work() -> None:
        nonlocal made
        made += 1
        if made < 1000:
            inbox.put(work)

    inbox.put(work)
    inbox.put(work)
    for turn in range(1, 4):
        for call in inbox.take():
            call()
        assert made == 2 * turn
        assert readable(inbox)
    inbox.close()


def test_a_turn_ends_in_time_and_what_is_left_wakes_the_loop_again() -> None:
    now_s = 0.0
    inbox = Inbox(lambda: now_s)
    seen: list[int] = []

    def work(number: int) -> None:
        nonlocal now_s
        now_s += 0.04
        seen.append(number)

    for number in range(5):
        inbox.put(partial(work, number))
    for call in inbox.take(0.1):
        call()
    assert seen == [0, 1, 2]
    assert readable(inbox)
    for call in inbox.take(0.1):
        call()
    assert seen == [0, 1, 2, 3, 4]
    assert not readable(inbox)
    inbox.close()


def test_a_call_that_fails_takes_nothing_from_those_after_it() -> None:
    inbox = Inbox()
    seen: list[int] = []
    inbox.put(partial(seen.__delitem__, 0))
    inbox.put(partial(seen.append, 1))
    with pytest.raises(IndexError):
        take_once(inbox)
    assert readable(inbox)
    take_once(inbox)
    assert seen == [1]
    inbox.close()


def take_once(inbox: Inbox) -> None:
    for call in inbox.take():
        call()


class ChunkLink:
    """A link that a test delivers messages through, as the broker's thread does."""

    address = "fake"

    def __init__(self) -> None:
        self.deliver: Callable[[Message], None]

    def connect(self, _id: str, on_message: Callable[[Message], None], *_: Any, **__: Any) -> Any:
        self.deliver = on_message
        return self


@pytest.mark.parametrize("size_bytes", [MAX_CHUNK_BYTES, 4 * MAX_CHUNK_BYTES])
def test_chunks_without_end_fill_no_memory_while_the_loop_is_busy(
    tmp_path: Path, size_bytes: int
) -> None:
    link = ChunkLink()
    config = AgentConfig(
        "d",
        "generic-x86_64",
        tmp_path,
        "none",
        broker=BrokerConfig("b", 1883),
        api=ApiConfig(port=0),
        update=Policy(window=4),
    )
    supervisor = Supervisor(config, "1", cast(Any, link.connect))
    assert supervisor.port
    tracemalloc.start()
    try:
        for number in range(200):
            topic = TOPICS.chunk(f"{number:064x}")
            link.deliver(Message(topic, bytes([number]) * size_bytes))
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 10 * MAX_CHUNK_BYTES


def test_of_calls_with_one_name_only_the_latest_is_made() -> None:
    inbox = Inbox()
    seen: list[int] = []
    for number in range(3):
        inbox.put_latest("desired", partial(seen.append, number))
        inbox.put(partial(seen.append, 10 + number))
    for call in inbox.take():
        call()
    inbox.put_latest("desired", partial(seen.append, 3))
    for call in inbox.take():
        call()
    assert seen == [2, 10, 11, 12, 3]
    inbox.close()


class FakeLink:
    """Keeps what is published."""

    address = "fake"

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.correlations: list[bytes | None] = []
        self.full = False

    def publish(self, topic: str, payload: bytes, **options: Any) -> bool:
        if self.full:
            return False
        self.sent.append((topic, payload))
        self.correlations.append(options.get("correlation"))
        return True

    def close(self, flush_s: float = 0.0) -> None:
        pass

    def results(self) -> list[tuple[str, InferResult]]:
        return [(topic, InferResult.from_bytes(payload)) for topic, payload in self.sent]


def asks(link: FakeLink, *, serving: bool = True) -> tuple[Asks, list[Ask]]:
    asked: list[Ask] = []

    def ask(question: Ask) -> bool:
        asked.append(question)
        return serving

    return Asks(TOPICS, link, ask), asked  # type: ignore[arg-type]


def request(**changed: Any) -> Message:
    payload = changed.pop("payload", to_bytes(InferRequest(("hello",))))
    return Message(TOPICS.infer("d", "r1"), payload, **changed)


def test_an_answer_goes_to_the_request_s_result_or_to_its_response_topic() -> None:
    link = FakeLink()
    made, asked = asks(link)
    made.receive(request())
    made.receive(request(response_topic="my/answers", correlation=b"7"))
    for question in asked:
        made.answered(Answer(question.id, ({"label": "mail"},)))
    made.answered(Answer(asked[0].id, ({"label": "again"},)))
    assert [topic for topic, _ in link.sent] == [TOPICS.infer_result("d", "r1"), "my/answers"]
    assert link.correlations == [None, b"7"]


@pytest.mark.parametrize(
    "topic", ["device/d/desired", "device/other/desired", "repo/chunk/x", "device/d/infer/x"]
)
def test_no_request_makes_a_device_steer_the_fleet(topic: str) -> None:
    link = FakeLink()
    made, asked = asks(link)
    made.receive(request(response_topic=f"{TOPICS.prefix}/{topic}"))
    ((answered_on, result),) = link.results()
    assert answered_on == TOPICS.infer_result("d", "r1")
    assert "response topic" in result.error
    assert asked == []


def test_every_request_that_cannot_be_served_gets_an_error() -> None:
    link = FakeLink()
    made, _ = asks(link, serving=False)
    made.receive(request())
    made.receive(request(payload=b"{"))
    made.receive(request(retain=True))
    made.receive(request(payload=to_bytes(InferRequest(()))))
    made.receive(Message(f"{TOPICS.prefix}/device/d/infer/bad.name", b"{}"))
    errors = [result.error for _, result in link.results()]
    parts = ("no bundle", "not valid JSON", "retained", "0 entries", "request name 'bad.name'")
    for part, error in zip(parts, errors, strict=True):
        assert part in error
    assert link.sent[-1][0].endswith("/infer/bad.name/result")


def test_requests_under_way_are_bounded() -> None:
    link = FakeLink()
    made, asked = asks(link)
    for _ in range(MAX_UNDER_WAY + 1):
        made.receive(request())
    assert len(asked) == MAX_UNDER_WAY
    assert "under way" in link.results()[0][1].error


def reporting(tmp_path: Path) -> tuple[Reporting, FakeLink]:
    config = AgentConfig(
        "d",
        "generic-x86_64",
        tmp_path,
        "none",
        broker=BrokerConfig("b", 1883),
        telemetry=TelemetryConfig(interval_s=10.0),
    )
    made, link = Reporting(config, load_profile("generic-x86_64"), "1", 100.0), FakeLink()
    made.link = link  # type: ignore[assignment]
    return made, link


def test_telemetry_and_events_wait_on_disk_until_the_broker_is_back(tmp_path: Path) -> None:
    made, link = reporting(tmp_path)
    made.event("crash", "first", {})
    for now_s in (100.0, 110.0, 111.0, 120.0):
        made.tick(now_s, {})
    assert link.sent == []
    made.connected(True)
    made.event("crash", "second", {})
    for step in range(5):
        made.tick(121.0 + step, {})
    events = [Event.from_bytes(p) for topic, p in link.sent if topic.endswith("/event")]
    telemetry = [Telemetry.from_bytes(p) for topic, p in link.sent if topic.endswith("/telemetry")]
    assert [event.text for event in events] == ["first", "second"]
    assert [message.sequence for message in telemetry] == [0, 1, 2]
    made.goodbye(0.0)
    assert link.sent[-1][0].endswith("/online")


def test_what_the_link_refuses_is_kept(tmp_path: Path) -> None:
    made, link = reporting(tmp_path)
    made.connected(True)
    link.full = True
    made.event("crash", "kept", {})
    link.full = False
    made.tick(200.0, {})
    assert any(b'"kept"' in payload for _, payload in link.sent)


def test_a_report_that_the_link_refuses_is_told_later(tmp_path: Path) -> None:
    made, link = reporting(tmp_path)
    link.full = True
    made.connected(True)
    status = Status(1, "idle", None, None, (), None, 0, 0.0, "", "none")
    made.report(status, None)
    assert made.tick(200.0, {}) == pytest.approx(200.0, abs=1.0)
    link.full = False
    made.tick(201.0, {})
    made.tick(202.0, {})
    reported = [p for topic, p in link.sent if topic.endswith("/reported")]
    online = [p for topic, p in link.sent if topic.endswith("/online")]
    assert [Reported.from_bytes(payload).revision for payload in reported] == [1]
    assert [Online.from_bytes(payload).online for payload in online] == [True]


def test_a_log_line_has_stable_keys_and_stays_one_line() -> None:
    record = logging.makeLogRecord(
        {"msg": "two\nlines", "levelname": "INFO", "pid": 5, "reason": "a b", "none": None}
    )
    line = Line("supervisor").format(record)
    assert line.endswith("info supervisor: two lines pid=5 reason='a b'")
