"""Every link keeps the same promises: in memory, over mosquitto, over the embedded broker."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from edge_runtime.errors import InputError, TransferError
from edge_runtime.link import BrokerConfig, Link, Message, Will
from edge_runtime.link.memory import Fault, MemoryBroker, duplicate
from edge_runtime.link.mqtt import MqttLink
from tests.fakes.brokers import BrokerProcess, embedded, free_port, mosquitto
from tests.fakes.proxy import TcpProxy

WAIT_S = 15.0


class Seen:
    """What one link's handlers were told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.connections: list[tuple[bool, str]] = []

    def on_message(self, message: Message) -> None:
        self.messages.append(message)

    def on_connection(self, connected: bool, reason: str) -> None:
        self.connections.append((connected, reason))

    def payloads(self, topic: str) -> list[bytes]:
        return [m.payload for m in self.messages if m.topic == topic]


class Lab:
    """A broker and what a test may do to it; links are closed with the test."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.mqtt5 = True

    def link(
        self, name: str, *, will: Will | None = None, started: bool = True
    ) -> tuple[Link, Seen]:
        seen = Seen()
        link = self._make(name, seen, will)
        self.stack.callback(link.close)
        if started:
            link.start()
            link.wait_connected(WAIT_S)
        return link, seen

    def _make(self, name: str, seen: Seen, will: Will | None) -> Link:
        raise NotImplementedError

    def settle(self, done: Callable[[], bool]) -> None:
        """Let messages flow until `done`."""
        raise NotImplementedError

    def cut(self, name: str) -> None:
        """Break a link's connection without a goodbye."""
        raise NotImplementedError

    def restart(self) -> None:
        """The broker goes and comes back without its memory."""
        raise NotImplementedError

    def dead_link(self) -> Link:
        """A started link to a broker that is not there."""
        raise NotImplementedError


class MemoryLab(Lab):
    def __init__(self) -> None:
        super().__init__()
        self.broker = MemoryBroker()

    def _make(self, name: str, seen: Seen, will: Will | None) -> Link:
        return self.broker.link(
            name, seen.on_message, seen.on_connection, will=will, max_payload_bytes=256 << 10
        )

    def settle(self, done: Callable[[], bool]) -> None:
        self.broker.pump()
        assert done()

    def cut(self, name: str) -> None:
        self.broker.drop(name)

    def restart(self) -> None:
        self.broker.go_offline()
        self.broker.go_online(forget_retained=True)

    def dead_link(self) -> Link:
        broker = MemoryBroker()
        broker.go_offline()
        link = broker.link("dead", print)
        link.start()
        return link


class MqttLab(Lab):
    def __init__(self, broker: BrokerProcess) -> None:
        super().__init__()
        self.broker = broker
        self.mqtt5 = broker.mqtt5
        self.proxies: dict[str, TcpProxy] = {}

    def _config(self, port: int) -> BrokerConfig:
        return dataclasses.replace(
            BrokerConfig.parse(f"mqtt://127.0.0.1:{port}"),
            backoff_base_s=0.05,
            backoff_cap_s=0.5,
            max_payload_bytes=256 << 10,
        )

    def _make(self, name: str, seen: Seen, will: Will | None) -> Link:
        proxy = self.stack.enter_context(TcpProxy(self.broker.port))
        self.proxies[name] = proxy
        config = self._config(proxy.port)
        return MqttLink(config, name, seen.on_message, seen.on_connection, will=will)

    def settle(self, done: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    def cut(self, name: str) -> None:
        self.proxies[name].cut()

    def restart(self) -> None:
        self.broker.restart()

    def dead_link(self) -> Link:
        link = MqttLink(self._config(free_port()), "dead", print)
        link.start()
        self.stack.callback(link.close)
        return link


@pytest.fixture(scope="module")
def mosquitto_process() -> Iterator[BrokerProcess]:
    with mosquitto() as broker:
        yield broker


@pytest.fixture(scope="module")
def embedded_process() -> Iterator[BrokerProcess]:
    with embedded() as broker:
        yield broker


@pytest.fixture(params=["memory", pytest.param("mosquitto", marks=pytest.mark.system), "embedded"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    if request.param == "memory":
        made: Lab = MemoryLab()
    else:
        made = MqttLab(request.getfixturevalue(f"{request.param}_process"))
    with made.stack:
        yield made


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """Unique, because brokers are shared by the tests of this module."""
    return f"t/{os.urandom(4).hex()}"


def test_retained_message_is_delivered_on_subscribe(lab: Lab, topic: str) -> None:
    writer, _ = lab.link("writer")
    assert writer.publish(topic, b"state", retain=True)
    writer.flush(WAIT_S)
    reader, seen = lab.link("reader")
    reader.subscribe([topic])
    lab.settle(lambda: seen.payloads(topic) == [b"state"])
    assert seen.messages[0].retain


def test_live_message_is_delivered_without_the_retain_flag(lab: Lab, topic: str) -> None:
    reader, seen = lab.link("reader")
    reader.subscribe([f"{topic}/+/x"])
    writer, _ = lab.link("writer")
    lab.settle(lambda: True)
    _until_live(lab, writer, f"{topic}/a/x", seen)
    assert not seen.messages[-1].retain


def _until_live(lab: Lab, writer: Link, topic: str, seen: Seen) -> None:
    """A subscription takes effect a moment after `subscribe`: publish until it does."""
    for _ in range(200):
        writer.publish(topic, b"live")
        writer.flush(WAIT_S)
        try:
            lab.settle(lambda: True)
            if seen.payloads(topic):
                return
        finally:
            time.sleep(0.01)
    pytest.fail("nothing was delivered")


def test_retained_message_is_gone_after_an_empty_one(lab: Lab, topic: str) -> None:
    writer, _ = lab.link("writer")
    writer.publish(f"{topic}/a", b"old", retain=True)
    writer.publish(f"{topic}/b", b"kept", retain=True)
    writer.flush(WAIT_S)
    writer.publish(f"{topic}/a", b"", retain=True)
    writer.flush(WAIT_S)
    reader, seen = lab.link("reader")
    reader.subscribe([f"{topic}/a"])
    reader.subscribe([f"{topic}/b"])
    lab.settle(lambda: seen.payloads(f"{topic}/b") == [b"kept"])
    assert seen.payloads(f"{topic}/a") == []


def test_last_will_is_sent_when_the_connection_breaks(lab: Lab, topic: str) -> None:
    watcher, seen = lab.link("watcher")
    watcher.subscribe([topic])
    lab.settle(lambda: True)
    lab.link("device", will=Will(topic, b"offline"))
    lab.cut("device")
    lab.settle(lambda: b"offline" in seen.payloads(topic))


def test_last_will_is_not_sent_after_a_goodbye(lab: Lab, topic: str) -> None:
    device, _ = lab.link("device", will=Will(topic, b"offline"))
    device.publish(topic, b"online", retain=True)
    device.close(flush_s=WAIT_S)
    watcher, seen = lab.link("watcher")
    watcher.subscribe([topic])
    lab.settle(lambda: seen.payloads(topic) == [b"online"])


def test_subscriptions_survive_a_restart_of_the_broker(lab: Lab, topic: str) -> None:
    reader, seen = lab.link("reader")
    reader.subscribe([topic])
    lab.settle(lambda: True)
    lab.restart()
    writer, _ = lab.link("writer")
    writer.publish(topic, b"after", retain=True)
    writer.flush(WAIT_S)
    lab.settle(lambda: b"after" in seen.payloads(topic))
    assert [up for up, _ in seen.connections] == [True, False, True]


def test_message_published_during_an_outage_arrives_after_it(lab: Lab, topic: str) -> None:
    writer, seen_by_writer = lab.link("writer")
    reader, seen = lab.link("reader")
    reader.subscribe([topic])
    lab.settle(lambda: True)
    lab.restart()
    for number in range(5):
        assert writer.publish(f"{topic}/{number}", b"%d" % number, retain=True)
    writer.flush(WAIT_S)
    reader.subscribe([f"{topic}/#"])
    lab.settle(lambda: {m.payload for m in seen.messages} >= {b"0", b"1", b"2", b"3", b"4"})
    assert seen_by_writer.connections[0] == (True, "")


def test_window_of_exact_topics_brings_every_chunk_whole(lab: Lab, topic: str) -> None:
    chunks = {f"{topic}/{index}": os.urandom(128 << 10) for index in range(96)}
    writer, _ = lab.link("writer")
    for name, chunk in chunks.items():
        assert writer.publish(name, chunk, retain=True, wait_s=WAIT_S)
    writer.flush(WAIT_S)
    reader, seen = lab.link("reader")
    names = list(chunks)
    for start in range(0, len(names), 32):
        window = names[start : start + 32]
        reader.subscribe(window)
        wanted = set(window)
        lab.settle(lambda wanted=wanted: wanted <= {m.topic for m in seen.messages})  # type: ignore[misc]
        reader.unsubscribe(window)
    assert {m.topic: m.payload for m in seen.messages} == chunks
    assert len(seen.messages) == len(chunks)


def test_thousand_retained_messages_are_acknowledged_within_the_bounds(
    lab: Lab, topic: str
) -> None:
    writer, _ = lab.link("writer")
    for number in range(1000):
        assert writer.publish(f"{topic}/{number}", b"x" * 16384, retain=True, wait_s=WAIT_S)
    writer.flush(WAIT_S)
    assert writer.stats().sent == 1000
    assert writer.stats().waiting == 0


def test_subscribing_again_brings_the_retained_message_again(lab: Lab, topic: str) -> None:
    writer, _ = lab.link("writer")
    writer.publish(topic, b"state", retain=True)
    writer.flush(WAIT_S)
    reader, seen = lab.link("reader")
    reader.subscribe([topic])
    lab.settle(lambda: len(seen.payloads(topic)) == 1)
    reader.subscribe([topic])
    lab.settle(lambda: len(seen.payloads(topic)) == 2)


def test_payload_above_the_limit_is_dropped_counted_and_said_once(
    lab: Lab, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    writer, _ = lab.link("writer")
    for number in range(3):
        writer.publish(f"{topic}/{number}", bytes((256 << 10) + 1), retain=True)
    writer.publish(f"{topic}/3", b"fine", retain=True)
    writer.flush(WAIT_S)
    reader, seen = lab.link("reader")
    reader.subscribe([f"{topic}/{number}" for number in range(4)])
    lab.settle(lambda: [m.payload for m in seen.messages] == [b"fine"])
    lab.settle(lambda: reader.stats().dropped_in == 3)
    assert [r.message for r in caplog.records].count("message dropped") == 1


def test_failing_handler_costs_neither_the_connection_nor_the_next_message(
    lab: Lab, topic: str
) -> None:
    writer, _ = lab.link("writer")
    writer.publish(f"{topic}/1", b"bad", retain=True)
    writer.publish(f"{topic}/2", b"good", retain=True)
    writer.flush(WAIT_S)
    reader, seen = lab.link("reader")

    def on_message(message: Message) -> None:
        if message.payload == b"bad":
            raise ValueError("bug")
        Seen.on_message(seen, message)

    reader._on_message = on_message  # type: ignore[attr-defined]
    reader.subscribe([f"{topic}/1", f"{topic}/2"])
    lab.settle(lambda: seen.payloads(f"{topic}/2") == [b"good"])
    lab.settle(lambda: reader.stats().handler_errors == 1)
    assert reader.stats().connected


def test_handler_may_publish_and_subscribe(lab: Lab, topic: str) -> None:
    server, _ = lab.link("server", started=False)

    def answer(message: Message) -> None:
        server.publish(f"{topic}/answer", message.payload.upper(), retain=True)
        server.subscribe([f"{topic}/more"])

    server._on_message = answer  # type: ignore[attr-defined]
    server.subscribe([f"{topic}/ask"])
    server.start()
    server.wait_connected(WAIT_S)
    client, seen = lab.link("client")
    client.subscribe([f"{topic}/answer"])
    client.publish(f"{topic}/ask", b"question", retain=True)
    lab.settle(lambda: b"QUESTION" in seen.payloads(f"{topic}/answer"))


def test_handler_that_waits_is_told_so(lab: Lab, topic: str) -> None:
    errors: list[BaseException] = []
    reader, _ = lab.link("reader", started=False)

    def impatient(_message: Message) -> None:
        for wait in (reader.flush, reader.wait_connected):
            try:
                wait(1)
            except RuntimeError as error:
                errors.append(error)

    reader._on_message = impatient  # type: ignore[attr-defined]
    reader.subscribe([topic])
    reader.start()
    reader.wait_connected(WAIT_S)
    reader.publish(topic, b"x", retain=True)
    lab.settle(lambda: len(errors) >= 2)


def test_response_topic_and_correlation_travel_where_the_broker_speaks_mqtt_5(
    lab: Lab, topic: str
) -> None:
    writer, _ = lab.link("writer")
    writer.publish(topic, b"ask", retain=True, response_topic="r/1", correlation=b"\x00\x01")
    writer.flush(WAIT_S)
    reader, seen = lab.link("reader")
    reader.subscribe([topic])
    lab.settle(lambda: len(seen.messages) == 1)
    found = (seen.messages[0].response_topic, seen.messages[0].correlation)
    assert found == (("r/1", b"\x00\x01") if lab.mqtt5 else (None, None))


def test_unreachable_broker_is_named_within_the_time_given(lab: Lab) -> None:
    link = lab.dead_link()
    started_s = time.monotonic()
    with pytest.raises(TransferError, match=rf"broker {link.address}: not connected within 0\.5 s"):
        link.wait_connected(0.5)
    assert time.monotonic() - started_s < 2


def test_unreachable_broker_fails_a_flush_and_says_how_much_is_left(lab: Lab, topic: str) -> None:
    link = lab.dead_link()
    link.publish(f"{topic}/1", b"x")
    link.publish(f"{topic}/2", b"x")
    with pytest.raises(TransferError, match=r"2 messages not acknowledged within 0\.3 s"):
        link.flush(0.3)


def test_only_the_last_state_of_a_retained_topic_waits_for_the_broker(lab: Lab, topic: str) -> None:
    link = lab.dead_link()
    for number in range(5000):
        assert link.publish(topic, b"%d" % number, retain=True)
    assert link.stats().waiting == 1


def test_publish_beyond_the_bound_is_refused_and_counted(lab: Lab, topic: str) -> None:
    link = lab.dead_link()
    accepted = [link.publish(topic, b"x") for _ in range(1003)]
    assert accepted == [True] * 1000 + [False] * 3
    assert link.stats().dropped_out == 3


def test_message_of_an_ended_subscription_is_passed_over(lab: Lab, topic: str) -> None:
    link, seen = lab.link("reader")
    writer, _ = lab.link("writer")
    link.subscribe([f"{topic}/+"])
    writer.publish(f"{topic}/1", b"x", retain=True)
    writer.flush(WAIT_S)
    lab.settle(lambda: len(seen.messages) >= 1)
    link.unsubscribe([f"{topic}/+"])
    link.subscribe([f"{topic}/end"])
    writer.publish(f"{topic}/2", b"x", retain=True)
    writer.publish(f"{topic}/end", b"x", retain=True)
    writer.flush(WAIT_S)
    lab.settle(lambda: f"{topic}/end" in {m.topic for m in seen.messages})
    assert seen.payloads(f"{topic}/2") == []


@pytest.mark.parametrize("bad", ["", "a/+/b", "a/#", "a\0b", "a" * 70000, "\ud800"])
def test_bad_topic_is_refused_before_it_is_sent(lab: Lab, bad: str) -> None:
    link, _ = lab.link("writer", started=False)
    with pytest.raises(InputError):
        link.publish(bad, b"x")


@pytest.mark.parametrize("bad", ["", "a/#/b", "a+/b", "a/b#", "a\0b"])
def test_bad_filter_is_refused_before_it_is_sent(lab: Lab, bad: str) -> None:
    link, _ = lab.link("reader", started=False)
    with pytest.raises(InputError):
        link.subscribe([bad])


def test_publish_after_close_is_our_own_mistake(lab: Lab, topic: str) -> None:
    link, _ = lab.link("writer")
    link.close()
    link.close()
    with pytest.raises(RuntimeError):
        link.publish(topic, b"x")


def test_duplicates_arrive_as_two_messages() -> None:
    broker = MemoryBroker()
    broker.faults.append(Fault(duplicate, "t/#"))
    seen = Seen()
    link = broker.link("reader", seen.on_message)
    link.subscribe(["t/1"])
    link.start()
    broker.pump()
    link.publish("t/1", b"x")
    broker.pump()
    assert seen.payloads("t/1") == [b"x", b"x"]


def test_publishers_in_many_threads_lose_nothing(lab: Lab, topic: str) -> None:
    writer, _ = lab.link("writer")

    def publish(thread: int) -> None:
        for number in range(100):
            writer.publish(f"{topic}/{thread}/{number}", b"x", retain=True, qos=1)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.flush(WAIT_S)
    assert writer.stats().sent == 800


def test_nothing_listens_on_a_port_that_was_just_free() -> None:
    """Guards the tests of unreachable brokers."""
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", free_port()), timeout=1):
        pass
