"""Reading what a broker keeps: all of it, or a warning; a lost line is never taken for silence."""

from __future__ import annotations

import functools
import logging
import time
from typing import Any

import pytest

from edge_runtime.errors import TransferError
from edge_runtime.fleet import connection as module
from edge_runtime.fleet.connection import Connection
from edge_runtime.link.base import Message
from edge_runtime.link.memory import Fault, MemoryBroker, MemoryLink, duplicate, lose
from tests.fakes.operators import TOPICS, StrictBroker, keep, operator

FENCES = TOPICS.prefix + "/fleet/fence/+"
ALL = TOPICS.device("+", "reported")


def filled(broker: MemoryBroker, count: int) -> MemoryBroker:
    for index in range(count):
        keep(broker, TOPICS.device(f"d{index}", "reported"), str(index).encode())
    return broker


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.2)
    monkeypatch.setattr(module, "FENCE_AGAIN_S", 0.05)


def test_everything_under_a_filter_is_read_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = filled(MemoryBroker(), 500)
    keep(broker, TOPICS.device("d1", "online"), b"other")
    with operator(broker) as connection:
        found = connection.retained([ALL])
        one = connection.retained([TOPICS.device("d7", "reported"), TOPICS.device("x", "reported")])
    assert len(found) == 500
    assert found[TOPICS.device("d42", "reported")] == b"42"
    assert one == {TOPICS.device("d7", "reported"): b"7"}
    assert caplog.messages == []


def test_nothing_asked_for_is_nothing_read() -> None:
    with operator(MemoryBroker()) as connection:
        assert connection.retained([]) == {}


def test_reading_does_not_wait_for_silence() -> None:
    with operator(filled(MemoryBroker(), 10)) as connection:
        started_s = time.monotonic()
        connection.retained([ALL])
    assert time.monotonic() - started_s < module.QUIET_S / 2


def test_a_topic_that_is_cleared_meanwhile_is_absent() -> None:
    broker = filled(MemoryBroker(), 2)
    clearing = Message(TOPICS.device("d1", "reported"), b"")
    broker.faults.append(Fault(lambda m: (m, clearing), TOPICS.device("d1", "reported")))
    with operator(broker) as connection:
        assert list(connection.retained([ALL])) == [TOPICS.device("d0", "reported")]


def test_messages_that_come_twice_are_read_once() -> None:
    broker = filled(MemoryBroker(), 3)
    broker.faults.append(Fault(duplicate, ALL, times=3))
    with operator(broker) as connection:
        assert len(connection.retained([ALL])) == 3


@pytest.mark.usefixtures("impatient")
def test_a_queue_that_overflows_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    broker = filled(MemoryBroker(queue_limit=100), 300)
    with operator(broker) as connection:
        found = connection.retained([ALL])
        connection.retained([ALL])
    assert 90 <= len(found) <= 100
    (said,) = caplog.messages
    assert "did not confirm that these are all" in said
    assert "max_queued_messages" in said


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("tell", [True, False])
def test_where_the_fence_is_forbidden_silence_ends_the_reading(
    tell: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with operator(filled(StrictBroker(FENCES), 3)) as connection:
        assert len(connection.retained([ALL], tell=tell)) == 3
    assert [FENCES in said for said in caplog.messages] == [True] * tell


@pytest.mark.usefixtures("impatient")
def test_a_lost_fence_is_put_up_again_but_does_not_vouch_for_what_came_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "QUIET_S", 30.0)
    broker = filled(MemoryBroker(), 3)
    broker.faults.append(Fault(lose, FENCES))
    with operator(broker) as connection:
        started_s = time.monotonic()
        assert len(connection.retained([ALL])) == 3
    assert time.monotonic() - started_s < 5
    assert len(caplog.messages) == 1


def test_a_broker_that_is_away_is_named_with_the_reason() -> None:
    broker = MemoryBroker()
    broker.go_offline()
    with pytest.raises(TransferError, match=r"memory:1883: not connected .*connection refused"):
        Connection(broker.link, TOPICS, timeout_s=0.1).__enter__()


def test_a_line_lost_while_reading_is_an_error_and_not_silence() -> None:
    broker = filled(MemoryBroker(), 3)

    def cut(_message: Message) -> tuple[Message, ...]:
        broker.go_offline()
        return ()

    broker.faults.append(Fault(cut, FENCES))
    with operator(broker) as connection, pytest.raises(TransferError, match="not connected"):
        connection.retained([ALL])


def test_a_line_that_comes_back_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    names: list[str] = []

    def connect(client_id: str, *arguments: Any, **options: Any) -> MemoryLink:
        names.append(client_id)
        return broker.link(client_id, *arguments, **options)

    broker = filled(MemoryBroker(), 3)
    with Connection(connect, TOPICS) as connection:
        broker.drop(names[0])
        assert len(connection.retained([ALL])) == 3
        broker.drop(names[0])
        assert len(connection.retained([ALL])) == 3
    assert set(caplog.messages) == {"broker unreachable"}


def test_what_is_not_acknowledged_is_an_error_that_names_the_broker() -> None:
    broker = MemoryBroker()
    connect = functools.partial(broker.link, max_outbound_messages=2)
    with Connection(connect, TOPICS, timeout_s=0.1) as connection:
        broker.go_offline()
        topic = TOPICS.device("d1", "desired")
        connection.send("desired", topic, b"1")
        connection.send("desired", TOPICS.device("d2", "desired"), b"2")
        with pytest.raises(TransferError, match=r"memory:1883: acknowledged nothing for 0\.1 s"):
            connection.send("desired", TOPICS.device("d3", "desired"), b"3")
        with pytest.raises(TransferError, match="2 messages not acknowledged"):
            connection.settle()
        broker.go_online()
        connection.settle()
    assert broker.retained[topic].payload == b"1"


def test_what_is_sent_is_kept_as_its_kind_says() -> None:
    broker = MemoryBroker()
    with operator(broker) as connection:
        connection.send("desired", TOPICS.device("d", "desired"), b"kept")
        connection.send("infer", TOPICS.infer("d", "r"), b"gone")
        connection.settle()
    assert list(broker.retained) == [TOPICS.device("d", "desired")]


def test_the_library_s_warnings_are_the_library_s(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with operator(filled(StrictBroker(), 1)) as connection:
        connection.retained([ALL])
    assert all(record.name.startswith("edge_runtime.") for record in caplog.records)
