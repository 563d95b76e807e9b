"""Rolling out: what each device is to be told, what came of it, and what it cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from edge_runtime.errors import InputError, TransferError
from edge_runtime.fleet import connection as module
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.inventory import Device, read_devices
from edge_runtime.fleet.rollout import (
    Outcome,
    Plan,
    Verdict,
    as_json,
    cost,
    deploy,
    follow,
    plan,
    serves,
    verdict,
)
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.messages.fleet import (
    Desired,
    Online,
    Progress,
    Refusal,
    Release,
    Reported,
    to_bytes,
)
from tests.fakes.messages import RELEASE
from tests.fakes.operators import (
    IDLE,
    TOPICS,
    FakeDevice,
    StrictBroker,
    keep,
    nothing,
    operator,
    refuse,
)

OTHER = dataclasses.replace(RELEASE, version="2.0.0", manifest=RELEASE.manifest)
PI = dataclasses.replace(RELEASE, profile="raspberry-pi-5")
REFUSED = (Refusal(RELEASE.manifest.sha256, 2, "cosine 0.07"),)
ON = Device("d", online=True, reported=IDLE)


def said(**changed: object) -> Reported:
    return dataclasses.replace(IDLE, **changed)  # type: ignore[arg-type]


def roll_out(
    connection: Connection, release: Release, ids: Sequence[str], *, retry: bool = False
) -> list[Plan]:
    """The same release to all of them."""
    plans = [plan(device, release, retry=retry) for device in read_devices(connection, ids)]
    deploy(connection, plans)
    return plans


# What a device is to be told.


def test_a_new_device_is_told_in_revision_one_with_a_warning() -> None:
    made = plan(Device("d"), RELEASE)
    assert made.desired == Desired(1, RELEASE, 0)
    assert made.changed
    assert made.warnings == ("has never been on this broker; the desired state waits for it",)


def test_the_same_release_again_changes_nothing() -> None:
    device = dataclasses.replace(ON, desired=Desired(7, RELEASE, 2))
    made = plan(device, RELEASE)
    assert (made.desired, made.changed, made.warnings) == (Desired(7, RELEASE, 2), False, ())


def test_another_release_raises_the_revision_and_starts_at_attempt_none() -> None:
    device = dataclasses.replace(ON, desired=Desired(7, OTHER, 2))
    assert plan(device, RELEASE).desired == Desired(8, RELEASE, 0)


def test_the_revision_never_goes_back_where_the_desired_state_was_lost() -> None:
    device = dataclasses.replace(ON, reported=said(revision=41))
    assert plan(device, RELEASE).desired.revision == 42


def test_a_retry_raises_the_attempt_above_what_was_refused() -> None:
    device = Device("d", True, said(refused=REFUSED), Desired(7, RELEASE, 0))
    made = plan(device, RELEASE, retry=True)
    assert made.desired == Desired(8, RELEASE, 3)
    assert made.warnings == ()
    assert plan(ON, RELEASE, retry=True).desired.attempt == 1


def test_without_retry_a_refused_bundle_is_warned_of() -> None:
    (warning,) = plan(dataclasses.replace(ON, reported=said(refused=REFUSED)), RELEASE).warnings
    assert warning == ("has refused this bundle before (cosine 0.07); --retry makes it try again")


@pytest.mark.parametrize(
    ("device", "warning"),
    [
        (Device("d", online=False), "is offline; the desired state waits for it"),
        (Device("d", online=True, unreadable=("x is y",)), "says what cannot be read: x is y"),
        (
            Device("d", online=True, reported=said(profile="raspberry-pi-5")),
            "has profile raspberry-pi-5, the bundle is made for generic-x86_64",
        ),
    ],
)
def test_what_may_go_wrong_is_said_before(device: Device, warning: str) -> None:
    assert plan(device, RELEASE).warnings == (warning,)


# What came of it.

WANTED = Desired(3, RELEASE, 1)


@pytest.mark.parametrize(
    ("reported", "outcome", "reason"),
    [
        (None, Outcome.WAITING, "it has not reported anything"),
        (
            said(revision=2, active=RELEASE.ref),
            Outcome.WAITING,
            "it has not seen its new desired state",
        ),
        (said(revision=3, active=RELEASE.ref, state="trial"), Outcome.SERVING, ""),
        (
            said(revision=3, refused=(Refusal(RELEASE.manifest.sha256, 1, "too slow"),)),
            Outcome.REFUSED,
            "too slow",
        ),
        (
            said(revision=3, refused=(Refusal(RELEASE.manifest.sha256, 0, "of before"),)),
            Outcome.WAITING,
            "idle",
        ),
        (
            said(revision=3, state="fetching_manifest", progress=Progress(1, 2, 3)),
            Outcome.WAITING,
            "fetching manifest, 1 of 2 chunks",
        ),
        (
            said(revision=3, state="waiting", reason="no chunk came"),
            Outcome.WAITING,
            "no chunk came",
        ),
        (
            said(revision=3, state="waiting", reason="no chunk came", progress=Progress(1, 2, 3)),
            Outcome.WAITING,
            "1 of 2 chunks (no chunk came)",
        ),
        (said(revision=3, state="waiting"), Outcome.WAITING, ""),
    ],
)
def test_a_report_is_judged(reported: Reported | None, outcome: Outcome, reason: str) -> None:
    assert verdict(WANTED, reported) == Verdict(outcome, reason)


def test_a_device_that_should_run_nothing_is_there_when_it_runs_nothing() -> None:
    empty = Desired(3, None)
    assert verdict(empty, said(revision=3)).outcome is Outcome.SERVING
    assert verdict(empty, said(revision=3, active=RELEASE.ref)).outcome is Outcome.WAITING
    assert not serves(empty, None)


def test_the_cost_is_the_device_s_own_and_nothing_where_it_served_already() -> None:
    done = said(revision=3, active=RELEASE.ref, fetched_bytes=500, update_s=2.5)
    found = verdict(WANTED, done)
    assert cost(Plan(ON, WANTED, changed=True), found) == (500, 2.5)
    already = Plan(dataclasses.replace(ON, reported=done), WANTED, changed=False)
    assert cost(already, found) == (0, 0.0)
    # Of the update before: these figures are not of this one.
    waiting = said(revision=3, state="fetching", fetched_bytes=9_999, update_s=9.0)
    assert cost(Plan(ON, WANTED, changed=True), verdict(WANTED, waiting)) == (0, 0.0)
    halfway = dataclasses.replace(waiting, progress=Progress(1, 9, 70))
    assert cost(Plan(ON, WANTED, changed=True), verdict(WANTED, halfway)) == (70, 0.0)


def test_a_plan_nobody_followed_has_no_outcome() -> None:
    value = as_json(plan(Device("d"), RELEASE), None)
    assert (value["outcome"], value["fetched_bytes"], value["update_s"]) == (None, None, None)


# On a broker.


def test_devices_get_their_desired_state_and_are_followed_until_they_serve() -> None:
    broker = MemoryBroker()
    devices = [FakeDevice(broker, "d1"), FakeDevice(broker, "d2")]
    seen: list[tuple[str, Verdict]] = []
    with operator(broker) as connection:
        plans = roll_out(connection, RELEASE, ["d2", "d1", "d2"])
        found = follow(connection, plans, 5.0, lambda *change: seen.append(change))
    assert [made.device.id for made in plans] == ["d2", "d1"]
    assert [device.seen[-1] for device in devices] == [Desired(1, RELEASE)] * 2
    assert found == {"d1": Verdict(Outcome.SERVING), "d2": Verdict(Outcome.SERVING)}
    assert seen[-1][1].outcome is Outcome.SERVING
    assert as_json(plans[0], found["d2"]) == {
        "device": "d2",
        "profile": "generic-x86_64",
        "revision": 1,
        "attempt": 0,
        "changed": True,
        "warnings": [],
        "outcome": "serving",
        "reason": "",
        "fetched_bytes": 1234,
        "update_s": 2.5,
    }


def test_devices_get_the_releases_that_they_were_planned() -> None:
    broker = MemoryBroker()
    one, other = FakeDevice(broker, "d1"), FakeDevice(broker, "d2")
    with operator(broker) as connection:
        first, second = read_devices(connection, ["d1", "d2"])
        deploy(connection, [plan(first, RELEASE), plan(second, PI)])
    broker.pump()
    assert [device.seen for device in (one, other)] == [[Desired(1, RELEASE)], [Desired(1, PI)]]


def test_deploying_the_same_again_publishes_nothing() -> None:
    broker = MemoryBroker()
    device = FakeDevice(broker, "d1")
    with operator(broker) as connection:
        roll_out(connection, RELEASE, ["d1"])
        (again,) = roll_out(connection, RELEASE, ["d1"])
    assert not again.changed
    assert len(device.seen) == 1


def test_a_refusal_ends_the_wait_with_the_device_s_reason() -> None:
    broker = MemoryBroker()
    FakeDevice(broker, "d1", refuse)
    with operator(broker) as connection:
        found = follow(connection, roll_out(connection, RELEASE, ["d1"]), 30.0)
        assert found["d1"] == Verdict(Outcome.REFUSED, "cosine 0.07 below 0.99")
        again = follow(connection, roll_out(connection, RELEASE, ["d1"]), 30.0)
        assert again["d1"].outcome is Outcome.REFUSED
        (retried,) = roll_out(connection, RELEASE, ["d1"], retry=True)
        assert (retried.desired.revision, retried.desired.attempt) == (2, 1)


def test_a_device_that_takes_too_long_is_told_apart_from_one_that_is_away() -> None:
    broker = MemoryBroker()
    FakeDevice(broker, "busy", nothing)
    away = FakeDevice(broker, "away", nothing)
    away.say("online", to_bytes(Online(False, "b1")))
    with operator(broker) as connection:
        plans = roll_out(connection, RELEASE, ["busy", "away", "never"])
        found = follow(connection, plans, 0.3)
    assert {device: how.outcome for device, how in found.items()} == dict.fromkeys(
        ["busy", "away", "never"], Outcome.WAITING
    )
    assert found["busy"].reason == "fetching, 3 of 10 chunks"
    assert found["away"].reason == "it is offline; fetching, 3 of 10 chunks"
    assert found["never"].reason == "it has not reported anything"


def test_a_report_that_cannot_be_read_hides_no_other_device() -> None:
    broker = MemoryBroker()
    FakeDevice(broker, "good")
    keep(broker, TOPICS.device("evil", "reported"), b"garbage")
    keep(broker, TOPICS.device("evil", "online"), b"garbage")
    with operator(broker) as connection:
        found = follow(connection, roll_out(connection, RELEASE, ["evil", "good"]), 0.3)
    assert found["good"].outcome is Outcome.SERVING
    assert found["evil"].reason.startswith("what it reports cannot be read: reported: not valid")


@pytest.mark.parametrize("id", ["+", "#", "a/b"])
def test_nothing_is_published_where_one_device_is_misnamed(id: str) -> None:
    broker = MemoryBroker()
    device = FakeDevice(broker, "d1")
    with operator(broker) as connection, pytest.raises(InputError, match="device id"):
        roll_out(connection, RELEASE, ["d1", id])
    assert device.seen == []


def test_a_broker_that_forbids_without_a_word_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.1)
    broker = StrictBroker(TOPICS.device("+", "desired"))
    FakeDevice(broker, "d1")
    with operator(broker) as connection, pytest.raises(TransferError, match="right to deploy"):
        roll_out(connection, RELEASE, ["d1"])


def test_another_operator_who_was_later_is_no_fault() -> None:
    later = Desired(9, OTHER)

    class Racing(StrictBroker):
        def _route(self, sent: object) -> None:
            super()._route(sent)  # type: ignore[arg-type]
            keep(self, TOPICS.device("d1", "desired"), later.to_bytes())

    broker = Racing()
    with operator(broker) as connection:
        (made,) = roll_out(connection, OTHER, ["d1"])
    assert made.desired.revision < later.revision
