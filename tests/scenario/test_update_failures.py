"""Bundles that fail: what a device serves then, what it remembers, and what it never does again."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.update.policy import Policy
from tests.fakes.fleet import QUICK, Bundle, Device, Fleet, bundle, journal

V1 = bundle("1.0.0")
V2 = bundle("2.0.0")
V3 = bundle("3.0.0")
V4 = bundle("4.0.0", size=60_000, backbone=4)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


@pytest.fixture
def device(fleet: Fleet) -> Device:
    """Serves V1, marked good; V2 and V3 are published."""
    device = fleet.add("a")
    fleet.update(device, V1)
    fleet.publish(V2)
    fleet.publish(V3)
    return device


def test_a_refused_bundle_is_not_tried_again_until_the_operator_says_so(
    fleet: Fleet, device: Device
) -> None:
    device.flaws.fail.add(V2.digest)
    fleet.deploy(device, V2)
    fleet.settle()
    device.flaws.fail.clear()
    device.reboot()
    fleet.deploy(device, V2)
    fleet.pass_time(7200)
    assert device.serving == V1.digest
    assert device.host.calls.count("start_candidate") == 0
    assert "cosine 0.07" in device.status.reason
    fleet.deploy(device, V2, attempt=1)
    fleet.settle()
    assert device.serving == V2.digest
    assert device.status.refused == ()


def test_a_device_may_be_sent_from_a_refused_bundle_to_a_mended_one(
    fleet: Fleet, device: Device
) -> None:
    device.flaws.fail.add(V2.digest)
    fleet.deploy(device, V2)
    fleet.settle()
    fleet.update(device, V3)
    assert device.serving == V3.digest
    assert device.status.reason == ""
    fleet.deploy(device, V2)
    fleet.settle()
    assert device.serving == V3.digest
    assert "cosine 0.07" in device.status.reason


def test_a_self_test_without_an_answer_is_refused(fleet: Fleet, device: Device) -> None:
    device.flaws.hang.add(V2.digest)
    fleet.deploy(device, V2)
    fleet.settle()
    assert device.status.state == "testing"
    fleet.pass_time(QUICK.test_timeout_s + 1)
    assert device.status.state == "idle"
    assert "did not end within 600 s" in device.status.reason
    assert device.host.candidate is None
    assert device.serving == V1.digest


def test_a_candidate_under_test_gives_way_to_another(fleet: Fleet, device: Device) -> None:
    device.flaws.hang.add(V2.digest)
    fleet.deploy(device, V2)
    fleet.settle()
    fleet.deploy(device, V3)
    fleet.settle()
    assert device.serving == V3.digest


def test_a_candidate_that_dies_in_the_swap_is_refused(fleet: Fleet, device: Device) -> None:
    device.flaws.die_in_swap.add(V2.digest)
    fleet.deploy(device, V2)
    fleet.settle()
    assert device.serving == V1.digest
    assert device.status.refused[0].manifest_sha256 == V2.digest


def test_an_active_bundle_that_keeps_crashing_gives_way_to_the_previous(
    fleet: Fleet, device: Device
) -> None:
    fleet.deploy(device, V2)
    fleet.pass_time(QUICK.trial_s + 1)
    for _ in range(QUICK.max_starts):
        device.crash()
        fleet.pass_time(5)
    assert device.serving == V1.digest
    assert device.status.refused[0].manifest_sha256 == V2.digest


def test_rare_crashes_are_forgiven(fleet: Fleet, device: Device) -> None:
    fleet.deploy(device, V2)
    fleet.pass_time(QUICK.trial_s + 1)
    for _ in range(3 * QUICK.max_starts):
        device.crash()
        fleet.pass_time(QUICK.stable_s + 10)
    assert device.serving == V2.digest


def test_with_nothing_to_go_back_to_restarts_grow_rare_and_never_end(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    device.flaws.fail.add(V1.digest)
    device.crash()
    fleet.pass_time(3600)
    starts = device.host.calls.count("start_active")
    assert 40 < starts < 100
    device.flaws.fail.clear()
    fleet.pass_time(2 * QUICK.restart_max_s)
    assert device.serving == V1.digest


def test_an_update_rescues_a_device_whose_only_bundle_crashes(fleet: Fleet) -> None:
    device = fleet.add("a")
    fleet.update(device, V1)
    device.flaws.fail.add(V1.digest)
    device.crash()
    fleet.pass_time(300)
    fleet.update(device, V2)
    assert device.serving == V2.digest


def test_desiring_another_bundle_ends_a_trial_and_keeps_the_last_good_one(
    fleet: Fleet, device: Device
) -> None:
    fleet.deploy(device, V2)
    fleet.settle()
    assert device.status.state == "trial"
    fleet.deploy(device, V3)
    fleet.settle()
    assert device.serving == V3.digest
    assert device.status.previous == V1.release.ref
    device.crash()
    fleet.settle()
    assert device.serving == V1.digest


def test_a_trial_goes_on_after_an_update_that_interrupted_it_was_refused(
    fleet: Fleet, device: Device
) -> None:
    fleet.deploy(device, V2)
    fleet.settle()
    device.flaws.fail.add(V3.digest)
    fleet.deploy(device, V3)
    fleet.settle()
    assert device.status.state == "trial"
    device.crash()
    fleet.settle()
    assert device.serving == V1.digest


def test_a_bundle_that_takes_the_board_down_in_its_trial_is_given_up(
    fleet: Fleet, device: Device
) -> None:
    fleet.deploy(device, V2)
    fleet.settle()
    for _ in range(QUICK.max_boots):
        device.reboot()
        assert device.serving == V2.digest
        fleet.pass_time(10)
    device.reboot()
    assert device.serving == V1.digest
    assert "the device restarted" in device.status.refused[0].reason


def test_a_bundle_that_takes_the_board_down_in_its_self_test_is_given_up(
    fleet: Fleet, device: Device
) -> None:
    device.flaws.hang.add(V2.digest)
    fleet.deploy(device, V2)
    fleet.settle()
    for _ in range(QUICK.max_boots):
        device.reboot()
        assert device.host.candidate == V2.digest
    device.reboot()
    assert device.host.candidate is None
    assert device.serving == V1.digest
    assert device.status.refused[0].manifest_sha256 == V2.digest


def test_restarts_of_a_device_whose_bundle_is_good_mean_nothing(
    fleet: Fleet, device: Device
) -> None:
    for _ in range(10):
        device.reboot()
        fleet.settle()
    assert device.serving == V1.digest
    assert device.status.refused == ()


def test_a_bundle_that_lost_chunks_is_fetched_again_and_not_refused(
    fleet: Fleet, device: Device
) -> None:
    fleet.update(device, V2)
    next(iter((device.state / "chunks").glob("*/*"))).unlink()
    for path in (device.state / "chunks").glob("*/*"):
        path.unlink()
        break
    device.reboot()
    fleet.settle()
    assert device.serving == V2.digest
    assert device.status.refused == ()


def test_a_bundle_spoiled_on_disk_is_fetched_again(fleet: Fleet, device: Device) -> None:
    fleet.update(device, V2)
    chunk = V2.manifest.file("model.onnx").chunks[0]
    path = device.state / "chunks" / chunk.sha256[:2] / chunk.sha256
    path.write_bytes(bytes(chunk.size_bytes))
    device.reboot()
    fleet.pass_time(10)
    assert device.serving == V2.digest
    assert device.status.refused == ()


def spoil_manifest(device: Device, made: Bundle) -> None:
    """One bit of it turns over on the disk."""
    path = device.state / "manifests" / f"{made.digest}.json"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def stored(device: Device) -> set[str]:
    return {path.name for path in (device.state / "chunks").glob("*/*")}


def test_a_previous_bundle_that_is_spoiled_does_not_stop_pruning(
    fleet: Fleet, device: Device
) -> None:
    fleet.update(device, V2)
    assert device.status.previous == V1.release.ref
    spoil_manifest(device, V1)
    device.flaws.fail.add(V3.digest)  # Its chunks are what pruning is to free.
    fleet.deploy(device, V3)
    fleet.settle()
    assert set(V3.chunks) - set(V2.chunks) <= stored(device)
    device.free_bytes = 0  # The next update needs room.
    fleet.publish(V4)
    fleet.deploy(device, V4)
    fleet.settle()
    assert stored(device) & set(V3.chunks) <= set(V2.chunks) | set(V4.chunks)
    assert device.status.previous is None
    assert journal(device)["previous"] is None
    assert device.host.kinds().count("previous-lost") == 1
    assert device.serving == V2.digest


def test_a_previous_bundle_that_is_spoiled_is_forgotten_at_boot(
    fleet: Fleet, device: Device
) -> None:
    fleet.update(device, V2)
    spoil_manifest(device, V1)
    device.reboot()
    fleet.settle()
    assert (device.serving, device.status.previous) == (V2.digest, None)
    assert journal(device)["previous"] is None
    assert "previous-lost" in device.host.kinds()
    fleet.update(device, V3)
    assert device.serving == V3.digest
    assert device.status.previous == V2.release.ref
    assert stored(device) <= set(V2.chunks) | set(V3.chunks)


def test_no_bundle_is_given_up_for_a_previous_one_that_is_spoiled(
    fleet: Fleet, device: Device
) -> None:
    fleet.deploy(device, V2)
    fleet.settle()
    assert device.status.state == "trial"
    spoil_manifest(device, V1)
    device.crash()
    fleet.pass_time(QUICK.restart_max_s)
    assert (device.serving, device.status.previous) == (V2.digest, None)
    assert device.status.refused == ()


def test_with_both_bundles_spoiled_the_active_one_is_fetched_again(
    fleet: Fleet, device: Device
) -> None:
    fleet.update(device, V2)
    spoil_manifest(device, V1)
    spoil_manifest(device, V2)
    device.reboot()
    assert not device.serving
    fleet.pass_time(QUICK.trial_s + 1)
    assert (device.serving, device.status.previous) == (V2.digest, None)
    assert device.status.refused == ()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\0" * 4096, b'{"format":2}'])
def test_a_spoiled_journal_starts_from_the_bundles_on_disk(
    fleet: Fleet, device: Device, content: bytes
) -> None:
    fleet.update(device, V2)
    device.power_cut()
    (device.state / "journal.json").write_bytes(content)
    device.boot()
    assert device.serving in (V1.digest, V2.digest)
    assert "journal-lost" in device.host.kinds()
    fleet.settle()
    fleet.pass_time(61)
    assert device.serving == V2.digest
    assert journal(device)["state"] == "idle"


def test_a_spoiled_journal_and_a_half_fetched_bundle_never_meet(
    fleet: Fleet, device: Device
) -> None:
    fleet.broker.retained.pop(
        next(
            topic for topic in fleet.broker.retained if V2.manifest.file("head.txt").sha256 in topic
        )
    )
    fleet.deploy(device, V2)
    fleet.settle()
    assert device.status.state == "fetching"
    device.power_cut()
    (device.state / "journal.json").write_bytes(b"torn")
    device.boot()
    assert device.serving == V1.digest


def test_many_refusals_are_bounded(fleet: Fleet) -> None:
    device = fleet.add("a", Policy(max_refusals=2))
    made = [bundle(f"1.0.{n}", size=30_000, profile="raspberry-pi-5") for n in range(4)]
    for each in made:
        fleet.publish(each)
        fleet.deploy(device, each)
        fleet.settle()
    refused = [refusal.manifest_sha256 for refusal in device.status.refused]
    assert refused == [each.digest for each in made[-2:]]
