"""One bundle for two boards: each fetches, keeps and serves its own part, and becomes another."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.bundle.files import FileEntry
from edge_runtime.fleet.publish import Publication, publish
from edge_runtime.fleet.repository import read_release
from edge_runtime.profile import DeviceProfile
from tests.fakes.bundles import BOARDS, noise
from tests.fakes.fleet import (
    PI,
    PROFILE,
    QUICK,
    Bundle,
    Device,
    Fleet,
    bundle,
    for_boards,
    journal,
)
from tests.fakes.operators import operator
from tests.scenario.test_update_power_cuts import Cutter, PowerCut
from tests.unit.test_delta import stepped

OLDER = replace(PROFILE, engines=PROFILE.engines[:1])
"""The PC before an update of its agent: it knew only the first engine."""
LITERT, ORT, ON_PI = (file for _, _, file in BOARDS.values())


def version(name: str, seed: int = 0) -> Bundle:
    models = {LITERT: noise(90_000, 20), ORT: noise(200_000, 21), ON_PI: noise(300_000, 22)}
    if seed:
        models = {file: stepped(data, seed) for file, data in models.items()}
    return for_boards(name, models)


V1, V2 = version("1.0.0"), version("2.0.0", seed=3)


def chunks(entries: Iterable[FileEntry]) -> set[str]:
    return {chunk.sha256 for entry in entries for chunk in entry.chunks}


def size(entries: Iterable[FileEntry]) -> int:
    return sum({c: c.size_bytes for entry in entries for c in entry.chunks}.values())


def stored(device: Device) -> set[str]:
    return {path.name for path in (device.state / "chunks").glob("*/*")}


def needed(made: Bundle, profile: DeviceProfile) -> set[str]:
    return chunks((made.release.manifest, *made.entries(profile.name)))


def update(fleet: Fleet, device: Device, made: Bundle) -> None:
    fleet.update(device, made.for_board(device.profile.name))


def become(device: Device, profile: DeviceProfile) -> None:
    device.power_cut()
    device.profile = profile
    device.boot()


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_each_board_fetches_its_own_model_and_what_all_share_once(fleet: Fleet) -> None:
    pc, pi = fleet.add("pc"), fleet.add("pi", profile=PI)
    for device in (pc, pi):
        update(fleet, device, V1)
        assert device.serving == V1.digest
        assert stored(device) <= needed(V1, device.profile)
        wanted = size((V1.release.manifest, *V1.entries(device.profile.name)))
        assert device.status.fetched_bytes == wanted
        crossed = fleet.broker.delivered_bytes[device.name]
        assert wanted <= crossed < wanted + 5_000
    assert (pc.host.variant, pi.host.variant) == ("pc-litert", "pi-ort")
    own = chunks([V1.manifest.file(ON_PI)])
    assert own.isdisjoint(stored(pc))
    assert own <= stored(pi)


def test_the_model_of_another_board_need_not_be_on_the_broker(fleet: Fleet) -> None:
    pc = fleet.add("pc")
    for digest in needed(V1, PROFILE):
        fleet.put(f"edge/v1/repo/chunk/{digest}", V1.chunks[digest])
    fleet.deploy(pc, V1)
    fleet.pass_time(QUICK.trial_s + 1)
    assert (pc.serving, pc.status.state) == (V1.digest, "idle")


def test_the_disk_needs_room_for_the_board_s_own_files_alone(fleet: Fleet) -> None:
    pc = fleet.add("pc")
    fleet.publish(V1)
    whole = QUICK.disk_margin_bytes + size(V1.entries(PROFILE.name))
    pc.free_bytes = whole - 1
    fleet.deploy(pc, V1)
    fleet.settle()
    assert "the disk lacks 1" in pc.status.reason
    pc.free_bytes = whole
    fleet.pass_time(QUICK.wait_s * 2)
    assert pc.serving == V1.digest


def test_a_restart_misses_nothing_of_other_boards(fleet: Fleet) -> None:
    pc = fleet.add("pc")
    update(fleet, pc, V1)
    fleet.broker.go_offline()
    (pc.state / "journal.json").unlink()
    pc.reboot()
    fleet.settle()
    assert pc.serving == V1.digest
    assert "files-missing" not in pc.host.kinds()
    pc.reboot()
    fleet.pass_time(QUICK.trial_s + 1)
    assert (pc.serving, journal(pc)["good"]) == (V1.digest, True)


def test_a_rollback_to_the_bundle_before_fetches_nothing(fleet: Fleet) -> None:
    pi = fleet.add("pi", profile=PI)
    update(fleet, pi, V1)
    fleet.publish(V2)
    fleet.deploy(pi, V2.for_board(PI.name))
    fleet.settle()
    assert pi.serving == V2.digest
    assert stored(pi) <= needed(V1, PI) | needed(V2, PI)
    crossed = fleet.broker.delivered_bytes["pi"]
    pi.crash()
    fleet.settle()
    assert pi.serving == V1.digest
    assert fleet.broker.delivered_bytes["pi"] == crossed


def test_a_bundle_given_by_hand_is_kept_for_this_board_alone(fleet: Fleet) -> None:
    pi = fleet.add("pi", profile=PI)
    fleet.broker.go_offline()
    pi.free_bytes = QUICK.disk_margin_bytes + size(V1.entries(PI.name))
    pi.driver.install(V1, fleet.now_s)
    fleet.pass_time(QUICK.trial_s + 1)
    assert (pi.serving, pi.status.state) == (V1.digest, "idle")
    assert stored(pi) == chunks(V1.entries(PI.name))


# Another profile after an update of the agent, or of the configuration.


def test_a_new_engine_s_files_are_fetched_while_the_old_variant_serves(fleet: Fleet) -> None:
    pc = fleet.add("pc", profile=OLDER)
    update(fleet, pc, V1)
    assert chunks([V1.manifest.file(ORT)]).isdisjoint(stored(pc))
    served = len(pc.host.served)
    become(pc, PROFILE)
    assert pc.serving == V1.digest
    assert pc.host.kinds().count("files-missing") == 1
    fleet.settle()
    assert needed(V1, PROFILE) >= stored(pc) >= chunks(V1.entries(PROFILE.name))
    fleet.pass_time(QUICK.trial_s + 1)
    assert (pc.serving, pc.status.state) == (V1.digest, "idle")
    assert None not in pc.host.served[served:]
    assert pc.status.refused == ()
    calls = len(pc.host.calls)
    fleet.pass_time(3600)
    assert len(pc.host.calls) == calls, "it comes to rest"
    pc.reboot()
    assert "files-missing" not in pc.host.kinds()


def test_the_bundle_to_fall_back_on_outlives_that(fleet: Fleet) -> None:
    pc = fleet.add("pc", profile=OLDER)
    update(fleet, pc, V1)
    update(fleet, pc, V2)
    become(pc, PROFILE)
    fleet.pass_time(QUICK.trial_s + 1)
    assert pc.status.previous == V1.release.ref
    assert (pc.status.active, pc.status.state) == (V2.release.ref, "idle")
    assert chunks(V2.entries(PROFILE.name)) <= stored(pc)


def test_without_a_network_the_old_variant_goes_on_serving(fleet: Fleet) -> None:
    pc = fleet.add("pc", profile=OLDER)
    update(fleet, pc, V1)
    fleet.broker.go_offline()
    become(pc, PROFILE)
    for _ in range(5):
        fleet.pass_time(3600)
        assert pc.serving == V1.digest
        pc.reboot()
    pc.crash()
    fleet.pass_time(QUICK.restart_max_s)
    assert (pc.serving, pc.status.refused) == (V1.digest, ())
    fleet.broker.go_online()
    fleet.pass_time(QUICK.wait_max_s + QUICK.trial_s)
    assert chunks(V1.entries(PROFILE.name)) <= stored(pc)
    assert (pc.serving, pc.status.state) == (V1.digest, "idle")


def test_without_a_network_the_files_may_be_brought_by_hand(fleet: Fleet) -> None:
    pc = fleet.add("pc", profile=OLDER)
    fleet.broker.go_offline()
    pc.driver.install(V1, fleet.now_s)
    fleet.pass_time(QUICK.trial_s + 1)
    become(pc, PROFILE)
    fleet.pass_time(3600)
    assert (pc.serving, pc.status.state) == (V1.digest, "fetching")
    pc.driver.install(V1, fleet.now_s)
    fleet.pass_time(QUICK.trial_s + 1)
    assert (pc.serving, pc.status.state) == (V1.digest, "idle")
    assert chunks(V1.entries(PROFILE.name)) == stored(pc)


def test_what_comes_and_fails_leaves_the_variant_that_serves(fleet: Fleet) -> None:
    pc = fleet.add("pc", profile=OLDER)
    update(fleet, pc, V1)
    pc.flaws.hang.add(V1.digest)
    become(pc, PROFILE)
    fleet.pass_time(QUICK.test_timeout_s + 1)
    assert (pc.serving, pc.status.state) == (V1.digest, "idle")
    assert [refusal.manifest_sha256 for refusal in pc.status.refused] == [V1.digest]
    calls = len(pc.host.calls)
    fleet.pass_time(3600)
    assert (pc.serving, len(pc.host.calls)) == (V1.digest, calls)


def test_a_bundle_that_crashes_before_its_files_came_is_not_blamed(fleet: Fleet) -> None:
    pc = fleet.add("pc", profile=OLDER)
    update(fleet, pc, V1)
    update(fleet, pc, V2)
    fleet.broker.go_offline()
    become(pc, PROFILE)
    for _ in range(QUICK.max_starts):
        pc.crash()
        fleet.pass_time(QUICK.restart_max_s)
    assert (pc.serving, pc.status.refused) == (V1.digest, ())
    fleet.broker.go_online()
    fleet.pass_time(QUICK.wait_max_s + QUICK.trial_s)
    assert pc.serving == V2.digest


def test_a_board_that_is_another_one_fetches_what_that_one_runs(fleet: Fleet) -> None:
    device = fleet.add("d")
    update(fleet, device, V1)
    become(device, PI)
    fleet.pass_time(QUICK.trial_s + 1)
    assert (device.serving, device.host.variant) == (V1.digest, "pi-ort")
    assert device.status.refused == ()
    device.reboot()  # What the other board needed goes with the next pruning.
    assert stored(device) <= needed(V1, PI)


def test_a_bundle_that_is_not_for_the_new_profile_is_refused_with_the_reason(fleet: Fleet) -> None:
    device = fleet.add("d")
    update(fleet, device, bundle("1.0.0", size=100_000))
    fleet.update(device, bundle("2.0.0", size=100_000))
    become(device, PI)
    fleet.pass_time(3600)
    (refusal,) = device.status.refused
    assert "made for profile generic-x86_64, this device is raspberry-pi-5" in refusal.reason
    assert (device.serving, device.status.active, device.status.state) == (None, None, "idle")
    assert device.host.calls.count("start_active") == 0
    update(fleet, device, V1)
    assert device.serving == V1.digest


def test_power_cuts_while_more_is_fetched_end_with_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    before = Fleet(base)
    update(before, before.add("a", profile=OLDER), V1)
    at = 0
    while True:
        at += 1
        fleet = Fleet(tmp_path / str(at))
        shutil.copytree(base, fleet.folder)
        fleet.publish(V1)
        with monkeypatch.context() as patch:
            device = fleet.add("a", profile=OLDER)
            cutter = Cutter(patch, fleet.folder)
            cutter.at = at
            try:
                become(device, PROFILE)
                fleet.deploy(device, V1)
                fleet.pass_time(QUICK.trial_s + 1)
            except PowerCut:
                device.power_cut()
            else:
                break
        fleet.broker.go_offline()
        device.boot()
        fleet.settle()
        assert device.serving == V1.digest, f"after a cut at point {at}"
        fleet.broker.go_online()
        fleet.deploy(device, V1)
        fleet.pass_time(QUICK.trial_s + 1)
        assert (device.serving, device.status.state) == (V1.digest, "idle")
        assert chunks(V1.entries(PROFILE.name)) <= stored(device), f"after a cut at point {at}"
        assert device.status.refused == ()
        shutil.rmtree(fleet.folder)
    assert at > 10


# Published by the fleet's own code.


def put(fleet: Fleet, made: Bundle) -> Publication:
    with operator(fleet.broker) as connection:
        return publish(connection, made)


def deploy(fleet: Fleet, device: Device, made: Bundle) -> None:
    """The release that the broker has for the device's profile."""
    with operator(fleet.broker) as connection:
        found = read_release(connection, "demo", made.manifest.version, device.profile.name)
    assert found is not None
    wanted = made.for_board(device.profile.name)
    wanted.release = found
    fleet.deploy(device, wanted)
    fleet.pass_time(QUICK.trial_s + 1)


def test_a_retrained_bundle_is_fetched_by_each_board_s_own_delta(fleet: Fleet) -> None:
    pc, pi = fleet.add("pc"), fleet.add("pi", profile=PI)
    put(fleet, V1)
    for device in (pc, pi):
        deploy(fleet, device, V1)
    made = put(fleet, V2)
    assert [len(release.deltas) for release in made.releases] == [1, 1]
    for device in (pc, pi):
        before = fleet.broker.delivered_bytes[device.name]
        deploy(fleet, device, V2)
        assert (device.serving, device.status.state) == (V2.digest, "idle")
        plain = size(V2.entries(device.profile.name))
        assert device.status.fetched_bytes < 0.4 * plain
        crossed = fleet.broker.delivered_bytes[device.name] - before
        assert crossed < device.status.fetched_bytes + 10_000
        assert stored(device) <= needed(V1, device.profile) | needed(V2, device.profile) | {
            chunk.sha256
            for release in made.releases
            for ref in release.deltas
            for chunk in ref.index.chunks
        }
