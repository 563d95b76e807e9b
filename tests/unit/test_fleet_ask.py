"""Asking a device's model over the broker."""

from __future__ import annotations

import pytest

from edge_runtime.errors import InputError, TransferError, UntrustedError
from edge_runtime.fleet.ask import ask
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.messages.fleet import InferResult, Online, to_bytes
from tests.fakes.messages import RELEASE
from tests.fakes.operators import FakeDevice, operator


def answered(payload: bytes | None) -> MemoryBroker:
    broker = MemoryBroker()
    FakeDevice(broker, "d1", answer=lambda _asked: payload, active=RELEASE.ref)
    return broker


def test_each_text_is_answered() -> None:
    broker = MemoryBroker()
    FakeDevice(broker, "d1")
    with operator(broker) as connection:
        found = ask(connection, "d1", ["one", "zwei ü"], 5.0)
    assert [result["text"] for result in found.results] == ["one", "zwei ü"]


def test_why_there_is_no_answer_comes_through() -> None:
    reason = InferResult(error="no bundle serves on this device now")
    with operator(answered(to_bytes(reason))) as connection:
        assert ask(connection, "d1", ["one"], 5.0) == reason


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (to_bytes(InferResult(({"label": "a"},))), "answered with 1 results for 2 texts"),
        (b"garbage", "not valid JSON"),
    ],
)
def test_an_answer_that_is_none_is_not_believed(payload: bytes, says: str) -> None:
    with operator(answered(payload)) as connection, pytest.raises(UntrustedError, match=says):
        ask(connection, "d1", ["one", "two"], 5.0)


def test_silence_is_explained_by_what_the_broker_knows() -> None:
    broker = answered(None)
    FakeDevice(broker, "empty", answer=lambda _asked: None)
    away = FakeDevice(broker, "away", answer=lambda _asked: None)
    away.say("online", to_bytes(Online(False, "b1")))
    for device, why in {
        "d1": "it is online",
        "empty": "it is online but has no bundle",
        "away": "it is offline",
        "never": "it has never been on this broker",
    }.items():
        with operator(broker) as connection, pytest.raises(TransferError) as error:
            ask(connection, device, ["one"], 0.05)
        assert str(error.value) == f"device {device}: no answer within 0.05 s; {why}"


@pytest.mark.parametrize(
    ("device", "texts", "says"),
    [
        ("d1", [], "expected at least one text"),
        ("d1", ["x" * 200_000], "at most 131072 bytes"),
        ("d1", ["x"] * 65, "65 entries"),
        ("d1", ["x" * 70_000], "at most 65536 characters"),
        ("d1", ["\udcff"], "not valid Unicode"),
        ("+", ["x"], "wildcard"),
        ("a/b", ["x"], "device id"),
    ],
)
def test_a_question_that_cannot_be_asked_is_not_sent(
    device: str, texts: list[str], says: str
) -> None:
    broker = MemoryBroker()
    FakeDevice(broker, "d1")
    with operator(broker) as connection, pytest.raises(InputError, match=says):
        ask(connection, device, texts, 5.0)
