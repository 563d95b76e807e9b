"""The flows: what happens between an operator and a device, told once for every world.

`ALL` is run in memory by `tests/scenario/test_flows.py` and with real processes on a real broker
by `tests/system/test_flows.py`. Each flow begins in a world whose device was never powered on.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from edge_runtime.fleet.rollout import Outcome
from tests.fakes.tiny import TROUBLE
from tests.flows.world import PATIENT, QUICK, Made, World, changed

Flow = Callable[[World], None]


def a_first_bundle_is_installed_and_serves(world: World) -> None:
    v1 = world.bundle("1.0.0")
    world.boot()
    world.until("the device is online", lambda: world.device.online)
    assert world.serves() is None
    publication = world.publish(v1)
    assert publication.sent_bytes == sum(v1.chunks.values())
    plan = world.deploy(v1)
    assert plan.warnings == ()
    assert world.outcome(plan) == (Outcome.SERVING, "")
    assert world.until_serves(v1).fetched_bytes == sum(v1.chunks.values())
    row = world.device
    assert row.online is True
    assert row.reported == world.reported
    assert row.reported is not None
    assert row.reported.profile == "generic-x86_64"
    assert row.reported.accelerator is not None
    assert row.reported.refused == ()
    for kind in ("update-started", "bundle-activated", "bundle-good"):
        assert world.told(kind) == ["tiny 1.0.0"]


def a_new_head_costs_only_its_own_chunks_and_no_request(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0")
    world.run_first(v1)
    new = v2.without(v1)
    assert sum(new.values()) < 0.1 * v2.manifest.size_bytes
    with world.asking() as client, world.measured(new.values()):
        assert world.publish(v2).sent_bytes == sum(new.values())
        world.deploy(v2)
        reported = world.until_serves(v2)
    assert reported.fetched_bytes == sum(new.values())
    assert reported.previous == v1.release.ref
    assert client.sent > 0
    assert client.failures == []


def repeating_a_desired_state_changes_nothing(world: World) -> None:
    v1 = world.bundle("1.0.0")
    world.run_first(v1)
    said, told, workers = world.reported, len(world.events), world.workers_started()
    plan = world.deploy(v1)
    assert not plan.changed
    for _ in range(3):
        world.desire(plan.desired.to_bytes())
    # The device works messages off in their order: once it tells of this one, it saw the others.
    world.desire(b"{]")
    world.until("it has seen them all", lambda: world.told("desired-invalid"))
    assert len(world.events) == told + 1
    assert world.reported == said
    assert world.workers_started() == workers


def an_offline_device_catches_up_with_the_last_desired_state_only(world: World) -> None:
    v1, v2, v3 = (world.bundle(f"{n}.0.0", backbone=n) for n in (1, 2, 3))
    world.run_first(v1)
    world.go_offline()
    world.until("the broker tells that it is offline", lambda: world.device.online is False)
    for made in (v2, v3):
        world.publish(made)
        assert "is offline" in world.deploy(made).warnings[0]
    assert world.serves() == v1
    with world.measured(v3.without(v1).values()):
        world.go_online()
        world.until_serves(v3)
    assert world.told("update-started") == ["tiny 1.0.0", "tiny 3.0.0"]
    assert world.device.online is True


def a_fetch_gives_way_to_another_bundle(world: World) -> None:
    v1, v2, v3 = world.bundle("1.0.0"), world.bundle("2.0.0", backbone=2), world.bundle("3.0.0")
    world.run_first(v1)
    world.fetch_partly(v2, held=v1)
    world.publish(v3)
    assert world.outcome(world.deploy(v3)) == (Outcome.SERVING, "")
    world.until_serves(v3)
    assert "tiny 2.0.0" not in world.told("bundle-activated")


def a_fetch_is_cancelled_by_desiring_what_serves(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0", backbone=2)
    world.run_first(v1)
    workers = world.workers_started()
    world.fetch_partly(v2, held=v1)
    world.deploy(v1)
    world.until("it is idle", lambda: world.said(state="idle", progress=None))
    assert world.told("update-withdrawn") == ["tiny 2.0.0"]
    assert world.serves() == v1
    assert world.workers_started() == workers


def a_bundle_that_fails_its_self_test_is_refused_and_remembered(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0", passes=False)
    world.run_first(v1)
    world.publish(v2)
    with world.asking() as client:
        outcome, reason = world.outcome(world.deploy(v2))
    assert outcome is Outcome.REFUSED
    assert "golden" in reason
    assert "cosine" in reason
    assert client.failures == []
    assert world.serves() == v1
    assert len(world.told("bundle-refused")) == 1
    world.power_cut()
    world.boot()
    world.until_serves(v1)
    plan = world.deploy(v2)
    assert not plan.changed
    assert "--retry" in plan.warnings[0]
    assert world.outcome(plan)[0] is Outcome.REFUSED
    assert world.workers_started() == 1


def a_refused_bundle_is_tried_again_when_the_operator_says_so(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0")
    world.run_first(v1)
    world.publish(v2)
    world.make_unfit(v2)
    assert world.outcome(world.deploy(v2))[0] is Outcome.REFUSED
    assert world.outcome(world.deploy(v2, retry=True))[0] is Outcome.REFUSED
    world.mend()
    assert world.outcome(world.deploy(v2))[0] is Outcome.REFUSED
    workers = world.workers_started()
    assert world.outcome(world.deploy(v2, retry=True)) == (Outcome.SERVING, "")
    assert world.until_serves(v2).refused == ()
    assert world.workers_started() == workers + 1


def a_bundle_for_another_profile_is_refused_before_it_is_fetched(world: World) -> None:
    v1 = world.bundle("1.0.0")
    other = world.bundle("2.0.0", backbone=2, profile="raspberry-pi-5")
    world.run_first(v1)
    world.publish(other)
    with world.measured([]):
        plan = world.deploy(other)
        outcome, reason = world.outcome(plan)
    assert "has profile generic-x86_64" in plan.warnings[0]
    assert outcome is Outcome.REFUSED
    assert "made for profile raspberry-pi-5, this device is generic-x86_64" in reason
    assert world.serves() == v1


def a_spoiled_chunk_is_never_installed(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0")
    world.run_first(v1, changed(QUICK, chunk_timeout_s=0.3))
    workers = world.workers_started()
    world.publish(v2)
    spoiled = next(digest for digest in v2.without(v1) if digest in v2.files)
    world.spoil(spoiled, b"\0" * v2.files[spoiled])
    world.deploy(v2)
    world.until("the update stalls", lambda: world.told("update-stalled"))
    assert "spoiled" in world.told("update-stalled")[0]
    assert spoiled in world.told("update-stalled")[0]
    assert world.serves() == v1
    assert world.workers_started() == workers
    assert world.device.reported is not None
    assert world.device.reported.refused == ()
    assert world.publish(v2).again
    world.until_serves(v2)


def a_power_cut_in_a_fetch_costs_no_chunk_twice(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0", backbone=2)
    world.run_first(v1)
    late = world.fetch_partly(v2, held=v1)
    world.power_cut()
    world.until("the broker tells that it is offline", lambda: world.device.online is False)
    with world.measured(late.values()):
        world.boot()
        world.until("the old bundle serves", lambda: world.serves() == v1)
        world.publish(v2)
        reported = world.until_serves(v2)
    assert reported.fetched_bytes == sum(late.values())
    assert reported.previous == v1.release.ref


def a_power_cut_in_a_swap_ends_in_a_bundle_that_serves(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0")
    world.run_first(v1)
    world.publish(v2)
    world.hold_swap(v2)
    world.deploy(v2)
    world.until("the swap is under way", lambda: world.said(state="activating"))
    world.power_cut()
    world.boot()
    assert world.until("a bundle serves", world.serves) in (v1, v2)
    assert world.until_serves(v2).refused == ()


def a_crash_in_the_trial_rolls_back(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0")
    world.run_first(v1, changed(QUICK, trial_s=2.0))
    world.publish(v2)
    plan = world.deploy(v2)
    world.until_serves(v2, state="trial")
    world.crash()
    reported = world.until_serves(v1)
    assert reported.refused[0].manifest_sha256 == v2.digest
    assert reported.previous is None
    assert len(world.told("rolled-back")) == 1
    outcome, reason = world.outcome(plan)
    assert (outcome, "signal" in reason) == (Outcome.REFUSED, True)


def a_bundle_that_fails_requests_in_its_trial_rolls_back(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0", fault="fails")
    world.run_first(v1)
    restart(world, v1)
    world.publish(v2)
    with world.asking() as others, world.asking(TROUBLE) as client:
        plan = world.deploy(v2)
        world.until("it is told", lambda: world.told("rolled-back"))
        reported = world.until_serves(v1)
    (text,) = world.told("rolled-back")
    assert re.fullmatch(r"tiny 2\.0\.0: \d+ of \d+ requests failed, at most 10 % allowed", text)
    # What failed is what the bundle failed; the way back costs nobody a request.
    assert client.failures != []
    assert [f for f in client.failures if "the model refuses this input" not in f] == []
    assert others.failures == []
    assert reported.refused[0].manifest_sha256 == v2.digest
    assert reported.previous is None
    assert world.outcome(plan) == (Outcome.REFUSED, reported.refused[0].reason)
    stays_refused(world, v1, v2)


def a_bundle_that_slows_requests_in_its_trial_rolls_back(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0", fault="slow")
    world.run_first(v1)
    restart(world, v1)
    world.publish(v2)
    with world.asking(TROUBLE) as client:
        world.until("v1 was asked often", lambda: client.sent > 40)
        plan = world.deploy(v2)
        world.until("it is told", lambda: world.told("rolled-back"))
        reported = world.until_serves(v1)
    (text,) = world.told("rolled-back")
    assert "tiny 2.0.0: the median of" in text
    assert "more than 3 times the p95 of the bundle before it" in text
    assert client.failures == []
    assert reported.refused[0].manifest_sha256 == v2.digest
    assert world.outcome(plan) == (Outcome.REFUSED, reported.refused[0].reason)
    stays_refused(world, v1, v2)


def a_board_that_goes_down_again_and_again_in_a_trial_rolls_back(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0")
    world.run_first(v1)
    restart(world, v1)
    world.publish(v2)
    plan = world.deploy(v2)
    world.until_serves(v2, state="trial")
    for _ in range(PATIENT.max_boots):
        world.power_cut()
        world.boot(PATIENT)
        world.until_serves(v2, state="trial")
    assert world.told("rolled-back") == []
    world.power_cut()
    world.boot(PATIENT)
    reported = world.until_serves(v1)
    reason = f"the device restarted {PATIENT.max_boots + 1} times while it was tried"
    assert [(r.manifest_sha256, r.reason) for r in reported.refused] == [(v2.digest, reason)]
    world.until("it is told", lambda: world.told("rolled-back"))
    assert world.told("rolled-back") == [f"tiny 2.0.0: {reason}"]
    assert world.outcome(plan) == (Outcome.REFUSED, reason)
    stays_refused(world, v1, v2)


def restart(world: World, made: Made) -> None:
    """With bounds that leave a trial its time; `made` serves again, and is good."""
    world.power_cut()
    world.boot(PATIENT)
    world.until_serves(made)


def stays_refused(world: World, made: Made, refused: Made) -> None:
    """After a power cut `made` serves, and `refused` is not even tried."""
    world.power_cut()
    world.boot()
    reported = world.until_serves(made)
    assert reported.refused[0].manifest_sha256 == refused.digest
    plan = world.deploy(refused)
    assert not plan.changed
    assert "--retry" in plan.warnings[0]
    assert world.outcome(plan)[0] is Outcome.REFUSED
    assert world.workers_started() == 1


def a_crash_after_the_trial_is_only_a_restart(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0")
    world.run_first(v1)
    world.update(v2)
    world.crash()
    world.until("the crash is told", lambda: world.told("worker-failed"))
    reported = world.until_serves(v2)
    assert reported.refused == ()
    assert reported.previous == v1.release.ref


def a_broker_that_lost_everything_in_a_fetch_is_made_up_for(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0", backbone=2)
    world.run_first(v1)
    late = world.fetch_partly(v2, held=v1)
    with world.asking() as client:
        world.stop_broker()
        world.until("the client has asked meanwhile", lambda: client.sent > 3)
        world.start_broker()
        world.until("the device is back", lambda: world.device.online)
        world.until("it says what it serves", lambda: world.device.reported)
        assert world.publish(v2).sent_bytes == sum(v2.chunks.values())
        assert world.deploy(v2).changed
        reported = world.until_serves(v2)
    assert reported.fetched_bytes == sum(v2.without(v1).values())
    assert client.failures == []
    assert len(late) > 0


def an_unreadable_desired_state_is_told_and_ignored(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0")
    world.run_first(v1)
    said, workers = world.reported, world.workers_started()
    world.desire(b'{"format":1,"revision":"two"}')
    world.until("it is told", lambda: world.told("desired-invalid"))
    assert world.reported == said
    assert world.serves() == v1
    assert world.workers_started() == workers
    assert world.device.unreadable != ()
    world.update(v2)
    assert world.device.unreadable == ()


def desiring_nothing_ends_serving(world: World) -> None:
    v1 = world.bundle("1.0.0")
    world.run_first(v1)
    world.desire_nothing()
    world.until("nothing serves", lambda: world.serves() is None)
    world.until("it says so", lambda: world.said(active=None, previous=None, accelerator=None))
    assert world.told("bundle-removed") == ["tiny 1.0.0"]
    world.power_cut()
    world.boot()
    world.until("it is back", lambda: world.said(active=None, state="idle"))
    assert world.serves() is None
    # The disk was freed, so everything comes again.
    with world.measured(v1.chunks.values()):
        world.deploy(v1)
        world.until_serves(v1)


def going_back_to_the_previous_bundle_fetches_nothing(world: World) -> None:
    v1, v2 = world.bundle("1.0.0"), world.bundle("2.0.0", backbone=2)
    world.run_first(v1)
    world.update(v2)
    with world.asking() as client, world.measured([]):
        world.deploy(v1)
        reported = world.until_serves(v1)
    assert reported.fetched_bytes == 0
    assert client.failures == []
    assert world.told("bundle-activated") == ["tiny 1.0.0", "tiny 2.0.0", "tiny 1.0.0"]


ALL: tuple[Flow, ...] = (
    a_first_bundle_is_installed_and_serves,
    a_new_head_costs_only_its_own_chunks_and_no_request,
    repeating_a_desired_state_changes_nothing,
    an_offline_device_catches_up_with_the_last_desired_state_only,
    a_fetch_gives_way_to_another_bundle,
    a_fetch_is_cancelled_by_desiring_what_serves,
    a_bundle_that_fails_its_self_test_is_refused_and_remembered,
    a_refused_bundle_is_tried_again_when_the_operator_says_so,
    a_bundle_for_another_profile_is_refused_before_it_is_fetched,
    a_spoiled_chunk_is_never_installed,
    a_power_cut_in_a_fetch_costs_no_chunk_twice,
    a_power_cut_in_a_swap_ends_in_a_bundle_that_serves,
    a_crash_in_the_trial_rolls_back,
    a_bundle_that_fails_requests_in_its_trial_rolls_back,
    a_bundle_that_slows_requests_in_its_trial_rolls_back,
    a_board_that_goes_down_again_and_again_in_a_trial_rolls_back,
    a_crash_after_the_trial_is_only_a_restart,
    a_broker_that_lost_everything_in_a_fetch_is_made_up_for,
    an_unreadable_desired_state_is_told_and_ignored,
    desiring_nothing_ends_serving,
    going_back_to_the_previous_bundle_fetches_nothing,
)
