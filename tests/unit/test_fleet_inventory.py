"""Devices as the broker knows them: what one of them says wrongly is its own row only."""

from __future__ import annotations

import pytest

from edge_runtime.errors import InputError
from edge_runtime.fleet.inventory import WINDOW, Device, devices_of, read_devices, read_inventory
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.messages.fleet import Desired, Online, to_bytes
from tests.fakes.messages import RELEASE, REPORTED
from tests.fakes.operators import TOPICS, keep, operator

DESIRED = Desired(4, RELEASE)


def fleet() -> MemoryBroker:
    broker = MemoryBroker()
    keep(broker, TOPICS.device("b", "online"), to_bytes(Online(True, "b1")))
    keep(broker, TOPICS.device("b", "reported"), to_bytes(REPORTED))
    keep(broker, TOPICS.device("b", "desired"), DESIRED.to_bytes())
    keep(broker, TOPICS.device("a", "online"), to_bytes(Online(False)))
    keep(broker, TOPICS.device("c", "desired"), DESIRED.to_bytes())
    return broker


A = Device("a", online=False)
B = Device("b", online=True, reported=REPORTED, desired=DESIRED)
C = Device("c", desired=DESIRED)


def test_every_device_is_listed_by_id() -> None:
    with operator(fleet()) as connection:
        assert read_inventory(connection) == (A, B, C)


def test_a_device_is_known_once_it_has_said_anything() -> None:
    assert (A.known, B.known, C.known) == (True, True, False)
    assert Device("d", unreadable=("garbage",)).known


def test_named_devices_come_once_in_the_order_given_known_or_not() -> None:
    with operator(fleet()) as connection:
        assert read_devices(connection, ["x", "b", "a", "b"]) == (Device("x"), B, A)
        assert read_devices(connection, []) == ()


def test_many_devices_are_asked_for_within_a_broker_s_queue() -> None:
    broker = fleet()
    ids = [f"d{index}" for index in range(3 * WINDOW)]
    for id in ids:
        for what, payload in [("online", Online(True)), ("reported", REPORTED)]:
            keep(broker, TOPICS.device(id, what), to_bytes(payload))
    with operator(broker) as connection:
        assert all(device.online for device in read_devices(connection, ids))
    assert broker.dropped == 0


@pytest.mark.parametrize("id", ["+", "#", "a/b", "", "a b"])
def test_what_is_no_device_id_reads_nothing(id: str) -> None:
    with operator(fleet()) as connection, pytest.raises(InputError, match="device id"):
        read_devices(connection, ["b", id])


@pytest.mark.parametrize("what", ["online", "reported", "desired"])
@pytest.mark.parametrize("payload", [b"\xff", b"[]", b'{"format": 9}', b"{}", b"x" * 150_000])
def test_garbage_of_one_device_is_its_row_and_hides_nobody_else(what: str, payload: bytes) -> None:
    broker = fleet()
    keep(broker, TOPICS.device("evil", what), payload)
    with operator(broker) as connection:
        *others, evil = read_inventory(connection)
    assert tuple(others) == (A, B, C)
    assert evil.id == "evil"
    assert len(evil.unreadable) == 1
    assert evil.known


def test_other_topics_are_no_devices() -> None:
    stray = {"other/topic": b"x", TOPICS.metadata("x.json"): b"x"}
    assert devices_of(TOPICS, stray) == ()


def test_a_device_for_scripts_says_what_is_and_what_should_be() -> None:
    value = B.as_json()
    assert value["online"] is True
    assert value["desired"] == {
        "name": "demo",
        "version": "1.0.0",
        "manifest_sha256": RELEASE.manifest.sha256,
    }
    assert value["desired_revision"] == 4
    reported = value["reported"]
    assert isinstance(reported, dict)
    assert reported["fetched_bytes"] == 196_608
    assert Device("x").as_json() == {
        "device": "x",
        "online": None,
        "reported": None,
        "desired": None,
        "desired_revision": None,
        "desired_agent": None,
        "unreadable": [],
    }
