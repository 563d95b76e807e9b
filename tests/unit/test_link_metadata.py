"""Asking a broker for one file of metadata, and knowing when it has none."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from edge_runtime.errors import TransferError
from edge_runtime.link import BrokerConfig, Message
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.link.metadata import GRACE_S, TIMEOUT_S, Asking, Reader
from edge_runtime.link.mqtt import MqttLink, connector
from edge_runtime.messages.topics import Topics
from tests.fakes.brokers import embedded, free_port, mosquitto
from tests.fakes.signed import publish_retained

TOPICS = Topics("t")
FILE, TIME = TOPICS.metadata("2.root.json"), TOPICS.metadata("timestamp.json")


class Desk:
    """Somebody who asks. What the broker sends waits in `inbox` until it is handed on."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.broker = MemoryBroker()
        self.publisher = self.broker.link("publisher", lambda _message: None)
        self.publisher.start()
        publish_retained(self.publisher, TOPICS, files)
        self.inbox: list[Message] = []
        self.link = self.broker.link("desk", self.inbox.append)
        self.link.start()
        self.broker.pump()
        self.asking = Asking(self.link, TOPICS)
        self.answers: list[bytes | None] = []
        self.failures: list[str] = []
        self.now_s = 1000.0

    def ask(self, name: str = "2.root.json") -> None:
        self.asking.ask(name, self.answers.append, self.failures.append, self.now_s)
        self.broker.pump()

    def hear(self, count: int = 100) -> None:
        """Hand on the next `count` messages."""
        heard, self.inbox[:] = self.inbox[:count], self.inbox[count:]
        for message in heard:
            self.asking.heard(message, self.now_s)
        self.broker.pump()

    def wait(self, seconds: float) -> float | None:
        self.now_s += seconds
        due_s = self.asking.tick(self.now_s)
        self.broker.pump()
        return due_s


def test_a_file_that_the_broker_keeps_is_the_answer() -> None:
    desk = Desk({"2.root.json": b"root", "timestamp.json": b"time"})
    desk.ask()
    desk.hear()
    assert (desk.answers, desk.failures) == ([b"root"], [])
    assert desk.link.subscribed == set()
    assert desk.wait(100) is None
    assert len(desk.answers) == 1


def test_a_timestamp_without_the_file_means_that_there_is_none() -> None:
    desk = Desk({"timestamp.json": b"time"})
    desk.ask()
    desk.hear()
    assert desk.answers == []
    assert desk.wait(GRACE_S / 2) == pytest.approx(desk.now_s + GRACE_S / 2)
    desk.wait(GRACE_S)
    assert (desk.answers, desk.failures) == ([None], [])
    assert desk.link.subscribed == set()


def test_a_file_may_come_a_moment_after_the_timestamp() -> None:
    """Some brokers answer the filters of a packet in no order."""
    desk = Desk({"2.root.json": b"root", "timestamp.json": b"time"})
    desk.ask()
    desk.inbox.reverse()
    desk.hear(1)
    desk.wait(GRACE_S / 2)
    desk.hear(1)
    assert desk.answers == [b"root"]


def test_silence_is_no_answer() -> None:
    desk = Desk({})
    desk.ask()
    desk.hear()
    assert desk.wait(TIMEOUT_S - 1) is not None
    desk.wait(1)
    assert desk.answers == []
    assert desk.failures == ["2.root.json: broker memory:1883 sent nothing for 15 s"]


def test_the_timestamp_itself_needs_no_other_to_follow() -> None:
    desk = Desk({"timestamp.json": b"time"})
    desk.ask("timestamp.json")
    desk.hear()
    assert desk.answers == [b"time"]


def test_no_timestamp_at_all_is_no_answer_either() -> None:
    desk = Desk({"2.root.json": b"root"})
    desk.ask("timestamp.json")
    desk.hear()
    desk.wait(TIMEOUT_S)
    assert desk.failures == ["timestamp.json: broker memory:1883 sent nothing for 15 s"]


def test_the_timestamp_behind_one_answer_does_not_end_the_next_question() -> None:
    """Over a slow link it comes when the next question is under way: the answer would be None."""
    desk = Desk({"2.root.json": b"two", "3.root.json": b"three", "timestamp.json": b"time"})
    desk.ask("2.root.json")
    desk.hear(1)
    assert desk.answers == []
    desk.hear(1)
    assert desk.answers == [b"two"]
    assert desk.inbox == []
    desk.ask("3.root.json")
    desk.hear()
    assert desk.answers == [b"two", b"three"]


def test_a_file_counts_even_if_its_timestamp_never_comes() -> None:
    desk = Desk({"2.root.json": b"root"})
    desk.ask()
    desk.hear()
    desk.wait(TIMEOUT_S)
    assert (desk.answers, desk.failures) == ([b"root"], [])


def test_a_broker_that_repeats_the_timestamp_cannot_hold_a_question_for_ever() -> None:
    desk = Desk({"timestamp.json": b"time"})
    desk.ask()
    for _ in range(3):
        desk.asking.heard(Message(TIME, b"time", retain=True), desk.now_s)
        desk.wait(GRACE_S / 2)
    assert desk.answers == [None]


def test_a_timestamp_published_just_now_says_nothing_of_the_file() -> None:
    desk = Desk({})
    desk.ask()
    desk.asking.heard(Message(TIME, b"time", retain=False), desk.now_s)
    desk.wait(GRACE_S * 2)
    assert desk.answers == []


def test_a_file_published_just_now_is_an_answer() -> None:
    desk = Desk({"timestamp.json": b"time"})
    desk.ask()
    desk.publisher.publish(FILE, b"fresh", retain=True)
    desk.broker.pump()
    desk.hear()
    assert desk.answers == [b"fresh"]


def test_what_nobody_asked_for_changes_nothing() -> None:
    desk = Desk({"2.root.json": b"root", "timestamp.json": b"time"})
    desk.asking.heard(Message(FILE, b"root", retain=True), desk.now_s)
    desk.ask("3.root.json")
    desk.asking.heard(Message(FILE, b"root", retain=True), desk.now_s)
    desk.asking.heard(Message(TOPICS.metadata("3.root.json"), b""), desk.now_s)
    assert (desk.answers, desk.failures) == ([], [])


def test_a_new_question_takes_the_place_of_the_old() -> None:
    desk = Desk({"2.root.json": b"two", "timestamp.json": b"time"})
    desk.ask("3.root.json")
    desk.inbox.clear()
    desk.ask("2.root.json")
    desk.hear()
    assert desk.answers == [b"two"]
    assert desk.link.subscribed == set()


def test_an_answer_may_ask_the_next_question() -> None:
    desk = Desk({"2.root.json": b"two", "3.root.json": b"three", "timestamp.json": b"time"})

    def next_question(data: bytes | None) -> None:
        desk.answers.append(data)
        desk.ask("3.root.json")

    desk.broker.pump()
    desk.asking.ask("2.root.json", next_question, desk.failures.append, desk.now_s)
    desk.broker.pump()
    for message in list(desk.inbox):
        desk.inbox.remove(message)
        desk.asking.heard(message, desk.now_s)
    assert desk.asking.tick(desk.now_s) is not None
    desk.hear()
    assert desk.answers == [b"two", b"three"]


def test_a_stopped_question_is_never_answered() -> None:
    desk = Desk({"2.root.json": b"root", "timestamp.json": b"time"})
    desk.ask()
    desk.asking.stop()
    desk.hear()
    assert desk.wait(100) is None
    assert (desk.answers, desk.failures) == ([], [])
    assert desk.link.subscribed == set()


@pytest.mark.parametrize("name", ["a/b", "#", "", "x" * 400])
def test_a_name_that_is_none_fails_at_once(name: str) -> None:
    desk = Desk({})
    desk.ask(name)
    assert desk.answers == []
    assert len(desk.failures) == 1
    assert desk.failures[0].startswith("metadata file ")


def test_a_connection_that_breaks_in_the_middle_costs_nothing_but_time() -> None:
    desk = Desk({"2.root.json": b"root", "timestamp.json": b"time"})
    desk.broker.go_offline()
    desk.ask()
    desk.broker.go_online()
    desk.broker.pump()
    desk.hear()
    assert desk.answers == [b"root"]


# Over real brokers.


@pytest.fixture(scope="module", params=["mosquitto", "embedded"])
def broker_url(request: pytest.FixtureRequest) -> Iterator[str]:
    with {"mosquitto": mosquitto, "embedded": embedded}[request.param]() as broker:
        config = BrokerConfig.parse(broker.url)
        with closing(MqttLink(config, "publisher", lambda _message: None)) as link:
            link.start()
            link.wait_connected(15)
            files = {"2.root.json": b"root" * 100, "timestamp.json": b"time"}
            publish_retained(link, TOPICS, files)
        yield broker.url


@contextmanager
def reader(url: str, timeout_s: float = 15.0) -> Iterator[Reader]:
    config = dataclasses.replace(BrokerConfig.parse(url), connect_timeout_s=1.0)
    with Reader(connector(config), TOPICS, timeout_s=timeout_s) as made:
        yield made


def test_a_reader_waits_for_each_file_in_turn(broker_url: str) -> None:
    with reader(broker_url) as made:
        for _ in range(3):
            assert made.read("2.root.json", 1000) == b"root" * 100
            assert made.read("3.root.json", 1000) is None
            assert made.read("timestamp.json", 1000) == b"time"


def test_a_reader_cuts_what_is_too_long_one_byte_beyond(broker_url: str) -> None:
    with reader(broker_url) as made:
        assert made.read("2.root.json", 400) == b"root" * 100
        assert made.read("2.root.json", 10) == b"rootrootroo"


def test_a_reader_says_that_a_name_is_none(broker_url: str) -> None:
    with reader(broker_url) as made, pytest.raises(TransferError, match="metadata file"):
        made.read("../x", 1000)


def test_a_reader_without_a_broker_names_it() -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    with (
        pytest.raises(TransferError, match=r"broker 127\.0\.0\.1:\d+: not connected within 0.3 s"),
        reader(url, timeout_s=0.3),
    ):
        pass


def test_a_reader_of_a_broker_that_keeps_nothing_names_the_file(broker_url: str) -> None:
    config = BrokerConfig.parse(broker_url)
    with (
        Reader(connector(config), Topics("elsewhere"), timeout_s=0.3) as made,
        pytest.raises(TransferError, match=r"^2\.root\.json: broker .* sent nothing for 0\.3 s$"),
    ):
        made.read("2.root.json", 1000)
