"""A retrained model over the broker, published by the fleet's own code: by its delta, or anyhow."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from edge_runtime.fleet.publish import Publication, publish
from edge_runtime.fleet.repository import read_release
from edge_runtime.messages.fleet import Release
from tests.fakes.fleet import QUICK, TOPICS, Bundle, Device, Fleet
from tests.fakes.operators import operator
from tests.unit.test_delta import stepped
from tests.unit.test_rebuild import NEW, OLD, version

OTHER = version("1.2.0", stepped(NEW.files["model.onnx"], 5))


def put(fleet: Fleet, made: Bundle) -> Publication:
    with operator(fleet.broker) as connection:
        return publish(connection, made)


def named(release: Release) -> Bundle:
    """Any bundle, as that release: what a desired state says of it."""
    made = copy.copy(NEW)
    made.release = release
    return made


def deploy(fleet: Fleet, device: Device, release: Release) -> None:
    fleet.deploy(device, named(release))
    fleet.settle()


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet(tmp_path)
    device = fleet.add("a")
    deploy(fleet, device, put(fleet, OLD).release)
    fleet.pass_time(QUICK.trial_s + 1)
    assert device.serving == OLD.digest
    return fleet


def test_a_retrained_model_is_fetched_by_its_delta(fleet: Fleet) -> None:
    (device,) = fleet.devices
    made = put(fleet, NEW)
    assert len(made.release.deltas) == 1
    before = fleet.broker.delivered_bytes["a"]
    deploy(fleet, device, made.release)
    assert device.serving == NEW.digest
    assert device.status.fetched_bytes < 0.35 * made.sent_bytes
    crossed = fleet.broker.delivered_bytes["a"] - before
    assert crossed < device.status.fetched_bytes + 5_000
    fleet.pass_time(QUICK.trial_s + 1)
    assert device.status.state == "idle"


def test_a_device_that_is_two_releases_behind_has_a_delta_too(fleet: Fleet) -> None:
    (device,) = fleet.devices
    put(fleet, NEW)
    made = put(fleet, OTHER)
    assert len(made.release.deltas) == 2
    deploy(fleet, device, made.release)
    assert device.serving == OTHER.digest
    assert device.status.fetched_bytes < 0.5 * made.sent_bytes


def test_a_device_without_the_old_bundle_fetches_chunks_alone(fleet: Fleet) -> None:
    made = put(fleet, NEW)
    fresh = fleet.add("b")
    deploy(fleet, fresh, made.release)
    assert fresh.serving == NEW.digest
    assert fresh.status.fetched_bytes == sum(map(len, NEW.chunks.values()))


def test_blobs_that_the_broker_lost_cost_time_and_nothing_else(fleet: Fleet) -> None:
    (device,) = fleet.devices
    made = put(fleet, NEW)
    for topic in list(fleet.broker.retained):
        digest = TOPICS.chunk_of(topic)
        if digest and digest not in NEW.chunks and digest not in OLD.chunks:
            del fleet.broker.retained[topic]
    deploy(fleet, device, made.release)
    assert device.serving == OLD.digest
    fleet.pass_time(40.0)
    assert device.serving == NEW.digest


def test_power_cuts_at_every_message_end_in_the_new_bundle(fleet: Fleet) -> None:
    (device,) = fleet.devices
    made = put(fleet, NEW)
    fleet.deploy(device, named(made.release))
    cuts = 0
    while device.serving != NEW.digest and cuts < 200:
        fleet.broker.pump()
        device.work()
        cuts += 1
        if cuts % 3 == 0:
            device.reboot()
    fleet.settle()
    assert device.serving == NEW.digest
    assert cuts > 3


def test_publishing_again_finds_the_same_release(fleet: Fleet) -> None:
    put(fleet, NEW)
    again = put(fleet, NEW)
    assert again.again
    with operator(fleet.broker) as connection:
        found = read_release(connection, NEW.manifest.name, "1.1.0", NEW.manifest.profile)
    assert found is not None
    assert found.deltas == again.release.deltas
