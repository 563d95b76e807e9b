"""What was accepted is kept until it is acknowledged; what does not fit is refused."""

from __future__ import annotations

import threading
import time

import pytest

from edge_runtime.errors import InputError, TransferError
from edge_runtime.link.outbox import Outbox, Outgoing


def outbox(messages: int = 4, size: int = 1000) -> Outbox:
    return Outbox(max_messages=messages, max_bytes=size)


def taken(box: Outbox, count: int = 99) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    while len(found) < count and (item := box.take(99)) is not None:
        found.append((item[0], item[1].topic))
    return found


def test_messages_leave_in_order_within_the_window() -> None:
    box = outbox()
    for topic in "abc":
        assert box.offer(Outgoing(topic, b""))
    first = box.take(2)
    assert first is not None
    assert first[1].topic == "a"
    assert box.take(2) is not None
    assert box.take(2) is None
    box.acknowledge(first[0])
    third = box.take(2)
    assert third is not None
    assert third[1].topic == "c"


def test_unacknowledged_messages_leave_again_first_and_in_order() -> None:
    box = outbox()
    for topic in "abcd":
        box.offer(Outgoing(topic, b""))
    tokens = {topic: token for token, topic in taken(box, 3)}
    box.acknowledge(tokens["b"])
    box.rewind()
    assert [topic for _, topic in taken(box)] == ["a", "c", "d"]


def test_late_acknowledgement_of_a_lost_connection_counts_for_nothing() -> None:
    box = outbox()
    box.offer(Outgoing("a", b""))
    ((token, _),) = taken(box)
    box.rewind()
    box.acknowledge(token)
    assert (len(box), box.sent) == (1, 0)


def test_message_of_quality_zero_does_not_survive_its_connection() -> None:
    box = outbox()
    box.offer(Outgoing("a", b"x", qos=0))
    taken(box)
    box.rewind()
    assert len(box) == 0
    assert box.wait_empty(0)


def test_retained_state_replaces_an_older_one_that_still_waits() -> None:
    box = outbox()
    box.offer(Outgoing("a", b"1", retain=True))
    box.offer(Outgoing("b", b"1"))
    box.offer(Outgoing("a", b"2", retain=True))
    assert [topic for _, topic in taken(box)] == ["b", "a"]


def test_retained_state_in_flight_does_not_come_back_after_a_newer_one() -> None:
    box = outbox()
    box.offer(Outgoing("a", b"old", retain=True))
    taken(box)
    box.offer(Outgoing("a", b"new", retain=True))
    box.rewind()
    item = box.take(9)
    assert item is not None
    assert item[1].payload == b"new"
    assert box.take(9) is None


def test_two_states_of_a_topic_in_flight_leave_again_as_the_newer_one() -> None:
    box = outbox()
    for payload in (b"1", b"2"):
        box.offer(Outgoing("a", payload, retain=True))
        taken(box)
    box.rewind()
    item = box.take(9)
    assert item is not None
    assert item[1].payload == b"2"
    assert len(box) == 1


def test_bytes_are_bounded_too_and_come_free() -> None:
    box = outbox(size=100)
    assert box.offer(Outgoing("a", bytes(60)))
    assert not box.offer(Outgoing("b", bytes(60)))
    assert box.dropped == 1
    ((token, _),) = taken(box)
    box.acknowledge(token)
    assert box.offer(Outgoing("b", bytes(60)))


def test_message_larger_than_the_outbox_is_refused_with_both_sizes() -> None:
    with pytest.raises(InputError, match=r"1001 bytes, the outbox holds at most 1000"):
        outbox().offer(Outgoing("a", bytes(1000)))


def test_publisher_is_held_back_until_there_is_room() -> None:
    box = outbox(messages=1)
    box.offer(Outgoing("a", b""))

    def later() -> None:
        time.sleep(0.05)
        for token, _ in taken(box):
            box.acknowledge(token)

    threading.Thread(target=later).start()
    assert box.offer(Outgoing("b", b""), wait_s=5)


def test_closing_wakes_a_publisher_that_waits() -> None:
    box = outbox(messages=1)
    box.offer(Outgoing("a", b""))
    threading.Timer(0.05, box.close).start()
    with pytest.raises(RuntimeError, match="closed"):
        box.offer(Outgoing("b", b""), wait_s=5)


def test_forbidden_topics_are_named_once() -> None:
    box = outbox()
    box.offer(Outgoing("secret/topic", b""))
    ((token, _),) = taken(box)
    box.acknowledge(token, forbidden=True)
    assert (box.refused, box.sent) == (1, 0)
    with pytest.raises(TransferError, match="refused to accept secret/topic"):
        box.raise_forbidden("h:1")
    box.raise_forbidden("h:1")
