"""A whole fleet takes updates over a broker: what reaches whom, and what crosses the wire."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.link.memory import Fault, corrupt, duplicate, lose, reorder
from edge_runtime.messages.fleet import Desired
from tests.fakes.fleet import QUICK, TOPICS, Bundle, Fleet, bundle

V1 = bundle("1.0.0")
V2 = bundle("2.0.0")
V3 = bundle("3.0.0", backbone=9)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_an_update_reaches_every_device(fleet: Fleet) -> None:
    devices = [fleet.add(f"device-{n}") for n in range(8)]
    fleet.publish(V1)
    for device in devices:
        fleet.deploy(device, V1)
    fleet.settle()
    assert {device.serving for device in devices} == {V1.digest}
    assert {device.status.state for device in devices} == {"trial"}
    fleet.pass_time(61)
    assert {device.status.state for device in devices} == {"idle"}
    fleet.publish(V2)
    for device in devices:
        fleet.deploy(device, V2)
    fleet.settle()
    assert {device.serving for device in devices} == {V2.digest}
    assert all(device.status.previous == V1.release.ref for device in devices)
    assert fleet.broker.dropped == 0


def test_only_missing_chunks_cross_the_wire(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    before = fleet.broker.delivered_bytes["a"]
    fleet.publish(V2)
    desired = fleet.deploy(device, V2)
    fleet.settle()
    new = sum(len(data) for sha256, data in V2.chunks.items() if sha256 not in V1.chunks)
    assert device.serving == V2.digest
    assert device.status.fetched_bytes == new
    crossed = fleet.broker.delivered_bytes["a"] - before
    assert crossed == new + len(desired.to_bytes())
    assert new < 0.35 * V2.manifest.size_bytes


def test_repeating_a_desired_state_changes_nothing(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.publish(V1)
    desired = fleet.deploy(device, V1)
    fleet.settle()
    fleet.pass_time(61)
    calls, statuses = len(device.host.calls), len(device.host.statuses)
    written = (device.state / "journal.json").stat().st_mtime_ns
    for _ in range(3):
        device.driver.desired(desired.to_bytes(), fleet.now_s)
        fleet.settle()
    assert len(device.host.calls) == calls
    assert len(device.host.statuses) == statuses
    assert (device.state / "journal.json").stat().st_mtime_ns == written


def test_a_new_revision_of_the_same_bundle_is_only_reported(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    calls = len(device.host.calls)
    fleet.deploy(device, V1)
    fleet.settle()
    assert device.status.revision == 2
    assert len(device.host.calls) == calls


def half_fetched(fleet: Fleet) -> None:
    """A device that serves V1 and hangs in the fetch of V3, whose last chunks nobody published."""
    device = fleet.add("a")
    fleet.update(device, V1)
    chunks = list(V3.chunks.items())
    for digest, data in chunks[: len(chunks) // 2]:
        fleet.put(TOPICS.chunk(digest), data)
    fleet.deploy(device, V3)
    fleet.settle()
    assert device.status.state == "fetching"
    assert device.status.progress is not None
    assert 0 < device.status.progress.chunks_held < device.status.progress.chunks_needed


def test_a_fetch_is_cancelled_by_desiring_the_active_bundle(fleet: Fleet) -> None:
    half_fetched(fleet)
    device = fleet.devices[0]
    fleet.deploy(device, V1)
    fleet.settle()
    assert device.status.state == "idle"
    assert device.status.progress is None
    assert device.wanted == set()
    assert device.serving == V1.digest
    assert device.host.kinds()[-1] == "update-withdrawn"


def test_a_fetch_gives_way_to_another_bundle(fleet: Fleet) -> None:
    half_fetched(fleet)
    device = fleet.devices[0]
    fleet.publish(V2)
    fleet.deploy(device, V2)
    fleet.settle()
    assert device.serving == V2.digest
    assert device.wanted == set()


def test_chunks_published_late_are_taken_as_they_come(fleet: Fleet) -> None:
    half_fetched(fleet)
    fleet.publish(V3)
    fleet.settle()
    assert fleet.devices[0].serving == V3.digest


def test_a_chunk_that_nobody_has_stalls_the_update_and_not_the_device(fleet: Fleet) -> None:
    half_fetched(fleet)
    device = fleet.devices[0]
    fleet.pass_time(120)
    assert "update-stalled" in device.host.kinds()
    assert "nothing came" in device.status.reason
    assert device.serving == V1.digest
    assert device.status.refused == ()
    fleet.publish(V3)
    fleet.pass_time(120)
    assert device.serving == V3.digest


def test_a_new_word_of_the_operator_ends_the_wait_after_a_stall(fleet: Fleet) -> None:
    half_fetched(fleet)
    device = fleet.devices[0]
    while device.status.state != "waiting":
        fleet.pass_time(1)
    fleet.publish(V3)
    fleet.settle()
    assert device.serving == V1.digest
    fleet.deploy(device, V3)
    fleet.pass_time(0)
    assert device.serving == V3.digest


def test_no_time_runs_against_a_fetch_while_the_broker_is_away(fleet: Fleet) -> None:
    half_fetched(fleet)
    fleet.broker.go_offline()
    fleet.pass_time(24 * 3600)
    assert fleet.devices[0].status.state == "fetching"
    fleet.broker.go_online()
    fleet.publish(V3)
    fleet.settle()
    assert fleet.devices[0].serving == V3.digest


@pytest.mark.parametrize("effect", [lose, duplicate, corrupt, reorder])
def test_an_update_survives_a_broker_that_harms_chunks(fleet: Fleet, effect: object) -> None:
    device = fleet.add("a")
    chunks = TOPICS.chunk("+")
    fleet.broker.faults.append(Fault(effect, chunks, times=7))  # type: ignore[arg-type]
    fleet.publish(V1)
    fleet.deploy(device, V1)
    fleet.pass_time(300)
    assert device.serving == V1.digest
    assert device.status.fetched_bytes == sum(len(data) for data in V1.chunks.values())


def test_the_queue_of_the_broker_is_never_filled(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, queue_limit=QUICK.window + 1)  # and the desired state
    device = fleet.add("a")
    large = bundle("1.0.0", size=4_000_000)
    fleet.publish(large)
    fleet.deploy(device, large)
    fleet.settle()
    assert device.serving == large.digest
    assert device.most_wanted == QUICK.window
    assert fleet.broker.dropped == 0


def test_desiring_nothing_ends_serving_and_frees_the_disk(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    fleet.deploy(device, None)
    fleet.settle()
    assert device.serving is None
    assert device.status.active is None
    assert list((device.state / "chunks").glob("*/*")) == []
    assert list((device.state / "manifests").iterdir()) == []
    fleet.deploy(device, V1)
    fleet.settle()
    assert device.serving == V1.digest


def test_what_only_an_older_bundle_needed_is_removed_once_the_new_one_is_good(
    fleet: Fleet,
) -> None:
    device = fleet.add("a")
    for made in (V1, V2, V3):
        fleet.update(device, made)
    held = {path.name for path in (device.state / "chunks").glob("*/*")}
    needed = {
        chunk.sha256 for made in (V2, V3) for entry in made.manifest.files for chunk in entry.chunks
    }
    assert held == needed
    assert len(list((device.state / "manifests").iterdir())) == 2


def test_a_manifest_that_is_not_the_desired_one_is_refused(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    liar = Desired.from_bytes(
        Desired(9, V2.release).to_bytes().replace(b'"version":"2.0.0"', b'"version":"2.0.1"')
    )
    fleet.publish(V2)
    fleet.put(TOPICS.device("a", "desired"), liar.to_bytes())
    fleet.settle()
    assert device.serving == V1.digest
    assert "the desired state calls it demo 2.0.1" in device.status.reason


def test_a_full_disk_is_reported_and_the_update_tried_later(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    device.free_bytes = 1000
    fleet.publish(V3)
    fleet.deploy(device, V3)
    fleet.settle()
    assert device.status.state == "waiting"
    assert "the disk lacks" in device.status.reason
    assert device.serving == V1.digest
    device.free_bytes = 1 << 40
    fleet.pass_time(60)
    assert device.serving == V3.digest


def test_a_local_bundle_takes_the_same_path(fleet: Fleet) -> None:
    device = fleet.add("a")
    device.driver.install(V1, fleet.now_s)
    fleet.settle()
    assert device.serving == V1.digest
    assert device.status.state == "trial"
    assert device.status.revision == 0


def test_a_local_bundle_never_overrules_the_operator(fleet: Fleet) -> None:
    device = fleet.add("a")
    device.driver.install(V1, fleet.now_s)
    fleet.settle()
    fleet.update(device, V2)
    device.reboot()
    device.driver.install(V1, fleet.now_s)
    fleet.settle()
    assert device.serving == V2.digest
    assert "install-ignored" in device.host.kinds()


def test_a_local_bundle_saves_the_network_what_the_operator_desires(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.deploy(device, V1)
    fleet.settle()
    device.driver.install(V1, fleet.now_s)
    fleet.put(TOPICS.chunk(V1.release.manifest.chunks[0].sha256), b"")
    publish_manifest_only(fleet, V1)
    fleet.settle()
    assert device.serving == V1.digest


def publish_manifest_only(fleet: Fleet, made: Bundle) -> None:
    for chunk in made.release.manifest.chunks:
        fleet.put(TOPICS.chunk(chunk.sha256), made.chunks[chunk.sha256])
