"""Watching: one notice for each message, whatever is in it."""

from __future__ import annotations

import json

import pytest

from edge_runtime.errors import InputError
from edge_runtime.fleet.watch import Notice, notice_of, watch
from edge_runtime.link.base import Message
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.messages.fleet import Event, Online, to_bytes
from edge_runtime.text import json_line
from tests.fakes.messages import REPORTED, TELEMETRY
from tests.fakes.operators import TOPICS, keep, operator

EVENT = Event("b1", 8, 1.7e9, "bundle-refused", "why", {"cosine": 0.07})


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("online", Online(True, "b1")),
        ("reported", REPORTED),
        ("telemetry", TELEMETRY),
        ("event", EVENT),
    ],
)
def test_what_a_device_says_is_a_notice(kind: str, said: object) -> None:
    message = Message(TOPICS.device("d", kind), to_bytes(said), retain=True)
    found = notice_of(TOPICS, message)
    assert found == Notice("d", kind, said, retained=True)  # type: ignore[arg-type]
    value = json.loads(json_line(found.as_json()))
    assert (value["device"], value["kind"], value["retained"]) == ("d", kind, True)
    assert set(value["message"]) >= {"boot_id"}


@pytest.mark.parametrize(
    "message",
    [
        Message("other/topic", b"x"),
        Message(TOPICS.device("d", "command"), b"x"),
        Message(TOPICS.device("d", "infer/r"), b"x"),
        Message(TOPICS.device("d", "online"), b""),
    ],
)
def test_anything_else_is_passed_over(message: Message) -> None:
    assert notice_of(TOPICS, message) is None


@pytest.mark.parametrize("payload", [b"\xff", b"{}", b"[" * 100, b"x" * 200_000])
@pytest.mark.parametrize("kind", ["online", "reported", "telemetry", "event"])
def test_garbage_is_a_notice_that_says_why(kind: str, payload: bytes) -> None:
    found = notice_of(TOPICS, Message(TOPICS.device("d", kind), payload))
    assert found is not None
    assert found.message is None
    assert found.unreadable
    assert found.as_json()["message"] is None


def test_what_the_broker_had_kept_comes_first_and_the_news_after() -> None:
    broker = MemoryBroker()
    keep(broker, TOPICS.device("d", "online"), to_bytes(Online(True)))
    device = broker.link("device", lambda _message: None)
    device.start()
    notices: list[Notice] = []
    with operator(broker) as connection:
        for found in watch(connection, seconds=1.0):
            if found is not None:
                notices.append(found)
                if len(notices) == 1:
                    device.publish(TOPICS.device("d", "event"), to_bytes(EVENT))
            if len(notices) == 2:
                break
    assert [(n.kind, n.retained) for n in notices] == [("online", True), ("event", False)]


def test_one_device_is_watched_alone_and_the_time_is_kept() -> None:
    broker = MemoryBroker()
    for device in ("a", "b"):
        keep(broker, TOPICS.device(device, "online"), to_bytes(Online(True)))
    with operator(broker) as connection:
        found = [notice for notice in watch(connection, "a", seconds=0.1) if notice]
        with pytest.raises(InputError, match="device id"):
            next(watch(connection, "a/b"))
    assert [notice.device for notice in found] == ["a"]
