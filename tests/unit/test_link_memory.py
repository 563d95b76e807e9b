"""The broker of the scenario tests has a real broker's habits, and no clock."""

from __future__ import annotations

import pytest

from edge_runtime.link import Message, Will
from edge_runtime.link.memory import (
    Effect,
    Fault,
    MemoryBroker,
    MemoryLink,
    corrupt,
    duplicate,
    lose,
    reorder,
)


def connected(broker: MemoryBroker, name: str, *topics: str) -> tuple[MemoryLink, list[Message]]:
    seen: list[Message] = []
    link = broker.link(name, seen.append)
    link.subscribe(topics)
    link.start()
    broker.pump()
    return link, seen


def test_nothing_moves_before_the_pump() -> None:
    broker = MemoryBroker()
    link, seen = connected(broker, "a", "t")
    link.publish("t", b"x")
    assert seen == []
    assert broker.pump() == 1
    assert [m.payload for m in seen] == [b"x"]


def test_same_calls_give_the_same_order() -> None:
    def run() -> list[str]:
        broker = MemoryBroker()
        order: list[str] = []
        links = []
        for name in "abc":
            link = broker.link(name, lambda m, name=name: order.append(f"{name}{m.topic}"))  # type: ignore[misc]
            link.subscribe(["#"])
            link.start()
            links.append(link)
        broker.pump()
        for number, link in enumerate(links):
            link.publish(str(number), b"")
        broker.pump()
        return order

    assert run() == run()
    assert len(run()) == 9


def test_wildcard_flood_of_retained_messages_loses_what_the_queue_cannot_hold() -> None:
    broker = MemoryBroker(queue_limit=1000)
    writer, _ = connected(broker, "writer")
    for number in range(1500):
        writer.publish(f"chunk/{number}", b"x", retain=True, wait_s=1)
    writer.flush(1)
    _, seen = connected(broker, "reader", "chunk/#")
    assert len(seen) == 1000
    assert broker.dropped == 500


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        (lose, [b"2", b"3"]),
        (duplicate, [b"1", b"1", b"2", b"3"]),
        (corrupt, [bytes([ord("1") ^ 0xFF]), b"2", b"3"]),
    ],
)
def test_fault_strikes_as_often_as_asked(effect: Effect, expected: list[bytes]) -> None:
    broker = MemoryBroker()
    link, seen = connected(broker, "a", "t/#")
    broker.faults.append(Fault(effect, "t/+", times=1))
    for number in (1, 2, 3):
        link.publish(f"t/{number}", b"%d" % number)
    broker.pump()
    assert [m.payload for m in seen] == expected


def test_reordered_message_overtakes_the_one_before_it() -> None:
    broker = MemoryBroker()
    link, seen = connected(broker, "a", "t/#")
    broker.faults.append(Fault(reorder, "t/2"))
    for number in (1, 2, 3):
        link.publish(f"t/{number}", b"")
    broker.pump()
    assert [m.topic for m in seen] == ["t/2", "t/1", "t/3"]


def test_fault_may_strike_one_client_only() -> None:
    broker = MemoryBroker()
    link, seen = connected(broker, "a", "t")
    _, other = connected(broker, "b", "t")
    broker.faults.append(Fault(lose, client_id="b", times=9))
    link.publish("t", b"")
    broker.pump()
    assert (len(seen), len(other)) == (1, 0)


def test_killed_client_does_not_come_back_and_its_will_is_sent() -> None:
    broker = MemoryBroker()
    _, seen = connected(broker, "watcher", "t")
    victim = broker.link("victim", print, will=Will("t", b"gone"))
    victim.start()
    broker.pump()
    broker.kill("victim")
    broker.pump()
    assert [m.payload for m in seen] == [b"gone"]
    assert not victim.stats().connected
    assert broker.retained["t"].payload == b"gone"


def test_second_client_of_the_same_name_throws_the_first_out() -> None:
    broker = MemoryBroker()
    told: list[tuple[bool, str]] = []
    first = broker.link("same", print, lambda up, why: told.append((up, why)))
    first.start()
    broker.pump()
    second, _ = connected(broker, "same")
    assert second.stats().connected
    assert told[-1] == (False, "session taken over")


def test_links_that_answer_each_other_for_ever_are_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge_runtime.link.memory.MAX_ROUNDS", 100)
    broker = MemoryBroker()
    link = broker.link("a", lambda m: void(link.publish("t", b"")))

    def void(_: object) -> None:
        return None

    link.subscribe(["t"])
    link.start()
    link.publish("t", b"")
    with pytest.raises(RuntimeError, match="still busy"):
        broker.pump()


def test_pump_in_a_handler_is_our_own_mistake() -> None:
    broker = MemoryBroker()
    link = broker.link("a", lambda m: void(broker.pump()))

    def void(_: object) -> None:
        return None

    link.subscribe(["t"])
    link.start()
    link.publish("t", b"")
    broker.pump()
    assert link.stats().handler_errors == 1


def test_bytes_delivered_are_counted_for_each_client() -> None:
    broker = MemoryBroker()
    link, _ = connected(broker, "a", "t")
    link.publish("t", b"12345")
    broker.pump()
    assert broker.delivered_bytes == {"a": 5}


def test_broker_that_is_offline_is_an_outage_from_the_first_attempt() -> None:
    broker = MemoryBroker()
    broker.go_offline()
    told: list[tuple[bool, str]] = []
    link = broker.link("a", print, lambda up, why: told.append((up, why)))
    link.start()
    broker.pump()
    broker.pump()
    assert told == [(False, "connection refused")]
    broker.go_online()
    broker.pump()
    assert told[-1] == (True, "")
