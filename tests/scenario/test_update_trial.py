"""A bundle on trial that fails or slows requests gives way to the one before, and is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.update.policy import Policy
from edge_runtime.update.trial import Health
from tests.fakes.fleet import Bundle, Device, Fleet, bundle

V1 = bundle("1.0.0", size=60_000)
V2 = bundle("2.0.0", size=60_000)
V3 = bundle("3.0.0", size=60_000)
POLICY = Policy(trial_s=60.0, chunk_tries=3, wait_s=30.0)
WELL = Health(100, 1, 4.0, 9.0)
FAILING = Health(40, 12, 4.0, 9.0)
SLOW = Health(100, 0, 300.0, 400.0)
UNEVEN = Health(100, 0, 4.0, 400.0)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


@pytest.fixture
def device(fleet: Fleet) -> Device:
    """It runs V1, which is good and fast."""
    device = fleet.add("a", POLICY)
    fleet.update(device, V1)
    counts(fleet, device, V1, WELL)
    return device


def counts(fleet: Fleet, device: Device, made: Bundle, health: Health) -> None:
    """The worker of `made` tells what it counted."""
    device.driver.served(made.digest, health, fleet.now_s)
    fleet.settle()


def try_out(fleet: Fleet, device: Device, made: Bundle) -> None:
    """Until it is on trial."""
    fleet.publish(made)
    fleet.deploy(device, made)
    fleet.settle()
    assert (device.serving, device.status.state) == (made.digest, "trial")


def said(device: Device, kind: str) -> list[str]:
    return [text for found, text in device.host.events if found == kind]


def test_a_bundle_that_fails_too_often_is_given_up_at_once_and_the_numbers_are_told(
    fleet: Fleet, device: Device
) -> None:
    try_out(fleet, device, V2)
    counts(fleet, device, V2, FAILING)
    assert device.serving == V1.digest
    assert device.status.state == "idle"
    assert device.status.active == V1.release.ref
    reason = "12 of 40 requests failed, at most 10 % allowed"
    assert said(device, "rolled-back") == [f"demo 2.0.0: {reason}"]
    assert device.status.reason == reason
    (refusal,) = device.status.refused
    assert (refusal.manifest_sha256, refusal.reason) == (V2.digest, reason)


def test_what_was_given_up_in_its_trial_is_not_tried_again_after_a_reboot(
    fleet: Fleet, device: Device
) -> None:
    try_out(fleet, device, V2)
    counts(fleet, device, V2, FAILING)
    device.reboot()
    fleet.pass_time(1000)
    assert device.serving == V1.digest
    assert "start_candidate" not in device.host.calls
    assert device.status.refused[0].manifest_sha256 == V2.digest
    fleet.deploy(device, V2, attempt=1)  # The operator knows better.
    fleet.settle()
    assert device.serving == V2.digest


def test_a_bundle_that_is_slow_throughout_is_given_up_before_its_trial_is_over(
    fleet: Fleet, device: Device
) -> None:
    try_out(fleet, device, V2)
    counts(fleet, device, V2, SLOW)
    assert device.serving == V1.digest
    assert "the median of 100 requests is 300 ms" in said(device, "rolled-back")[0]
    assert (
        "more than 3 times the p95 of the bundle before it, 9 ms" in said(device, "rolled-back")[0]
    )


def test_a_bundle_that_is_slow_now_and_then_is_given_up_when_its_trial_is_over(
    fleet: Fleet, device: Device
) -> None:
    try_out(fleet, device, V2)
    counts(fleet, device, V2, UNEVEN)
    fleet.pass_time(POLICY.trial_s / 2)
    assert device.serving == V2.digest
    fleet.pass_time(POLICY.trial_s)
    assert device.serving == V1.digest
    assert "the p95 of 100 requests is 400 ms" in said(device, "rolled-back")[0]
    assert said(device, "bundle-good") == ["demo 1.0.0"]


def test_a_bundle_that_recovers_within_its_trial_stays(fleet: Fleet, device: Device) -> None:
    try_out(fleet, device, V2)
    counts(fleet, device, V2, UNEVEN)
    counts(fleet, device, V2, WELL)
    fleet.pass_time(POLICY.trial_s + 1)
    assert device.serving == V2.digest
    assert said(device, "bundle-good") == ["demo 1.0.0", "demo 2.0.0"]


def test_a_bundle_that_nobody_asks_passes_its_trial(fleet: Fleet, device: Device) -> None:
    try_out(fleet, device, V2)
    counts(fleet, device, V2, Health())
    fleet.pass_time(POLICY.trial_s + 1)
    assert device.status.state == "idle"
    assert device.serving == V2.digest


def test_once_it_is_good_a_bundle_is_not_given_up_for_its_numbers(
    fleet: Fleet, device: Device
) -> None:
    fleet.update(device, V2)
    counts(fleet, device, V2, FAILING)
    counts(fleet, device, V2, SLOW)
    fleet.pass_time(1000)
    assert device.serving == V2.digest
    assert device.status.refused == ()


def test_after_a_reboot_in_the_trial_only_the_comparison_is_gone(
    fleet: Fleet, device: Device
) -> None:
    try_out(fleet, device, V2)
    device.reboot()
    fleet.settle()
    counts(fleet, device, V2, SLOW)
    assert device.serving == V2.digest
    counts(fleet, device, V2, FAILING)
    assert device.serving == V1.digest


def test_an_operators_bound_on_speed_needs_no_comparison(fleet: Fleet, device: Device) -> None:
    device.policy = Policy(trial_s=60.0, trial_p95_ms=250.0)
    device.reboot()
    try_out(fleet, device, V2)
    counts(fleet, device, V2, UNEVEN)
    fleet.pass_time(POLICY.trial_s + 1)
    assert device.serving == V1.digest
    assert "at most 250 ms is allowed" in device.status.refused[0].reason


def test_where_there_is_nothing_to_go_back_to_it_is_told_once_and_the_bundle_goes_on(
    fleet: Fleet,
) -> None:
    device = fleet.add("a", POLICY)
    try_out(fleet, device, V1)
    for _ in range(5):
        counts(fleet, device, V1, FAILING)
        fleet.pass_time(1)
    assert said(device, "trial-failed") == [
        "demo 1.0.0: 12 of 40 requests failed, at most 10 % allowed; "
        "no bundle is here to go back to"
    ]
    fleet.pass_time(POLICY.trial_s)
    assert device.serving == V1.digest
    assert device.status.refused == ()
    assert device.host.calls.count("start_active") == 0
    assert len(said(device, "trial-failed")) == 1


def test_a_previous_bundle_that_is_damaged_is_not_gone_back_to(
    fleet: Fleet, device: Device
) -> None:
    try_out(fleet, device, V2)
    (device.state / "manifests" / f"{V1.digest}.json").unlink()
    counts(fleet, device, V2, FAILING)
    assert device.serving == V2.digest
    assert len(said(device, "previous-lost")) == len(said(device, "trial-failed")) == 1


def test_while_another_update_comes_in_a_bundle_on_trial_is_still_judged(
    fleet: Fleet, device: Device
) -> None:
    try_out(fleet, device, V2)
    fleet.deploy(device, V3)  # Nobody has published it yet.
    fleet.settle()
    assert device.status.state == "fetching_manifest"
    counts(fleet, device, V2, FAILING)
    assert device.serving == V1.digest
    assert device.status.state == "fetching_manifest"
    fleet.update(device, V3)
    assert device.serving == V3.digest
    assert device.status.previous == V1.release.ref


def test_a_swap_under_way_is_finished_before_anything_is_judged(
    fleet: Fleet, device: Device
) -> None:
    try_out(fleet, device, V2)
    device.flaws.never_drain.add(V3.digest)
    fleet.publish(V3)
    fleet.deploy(device, V3)
    fleet.settle()
    assert device.status.state == "activating"
    counts(fleet, device, V2, FAILING)
    assert device.status.active == V2.release.ref
    device.driver.activated(fleet.now_s)
    fleet.settle()
    assert device.status.active == V3.release.ref
    counts(fleet, device, V3, WELL)
    assert device.status.state == "trial"


def test_the_numbers_of_other_bundles_are_nobodys_fault(fleet: Fleet, device: Device) -> None:
    try_out(fleet, device, V2)
    counts(fleet, device, V1, FAILING)  # The last word of the worker that was replaced.
    counts(fleet, device, V3, FAILING)
    assert device.serving == V2.digest
    fleet.pass_time(POLICY.trial_s + 1)
    assert device.serving == V2.digest


def test_a_failure_of_the_board_itself_is_not_blamed_on_a_bundle(
    fleet: Fleet, device: Device
) -> None:
    counts(fleet, device, V1, FAILING)
    try_out(fleet, device, V2)
    counts(fleet, device, V2, FAILING)
    fleet.pass_time(POLICY.trial_s + 1)
    assert device.serving == V2.digest
    assert device.status.refused == ()


def test_a_bundle_is_not_given_up_for_what_fails_while_the_agent_itself_is_on_trial(
    fleet: Fleet, device: Device
) -> None:
    spared = True
    device.driver._spares = lambda: spared
    try_out(fleet, device, V2)
    counts(fleet, device, V2, FAILING)
    for _ in range(POLICY.max_starts + 1):
        device.driver.failed("the worker ended", fleet.now_s)
        fleet.settle()
        fleet.pass_time(POLICY.restart_max_s)
    assert device.status.active == V2.release.ref
    assert device.status.refused == ()
    spared = False
    counts(fleet, device, V2, FAILING)
    assert device.serving == V1.digest
