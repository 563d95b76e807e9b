"""The table, its record, and the document that is drawn from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.messages.fleet import BundleRef, Desired, Refusal
from edge_runtime.update import lifecycle as on
from edge_runtime.update.diagram import drawn, main, mermaid
from edge_runtime.update.lifecycle import TABLE, Action, Event, State, step
from edge_runtime.update.reconcile import next_event, since_last_boot, without_lost_previous
from edge_runtime.update.record import MAX_REASON, Record, advance
from tests.fakes.fleet import bundle

DOCUMENT = Path(__file__).parents[2] / "docs" / "lifecycle.md"
A, B, C = (BundleRef("demo", f"{n}.0.0", str(n) * 64) for n in (1, 2, 3))
MADE = bundle("1.0.0", size=20_000)
OURS = MADE.release.ref


def test_the_way_forward_is_as_documented() -> None:
    events: list[Event] = [
        on.Wanted(A),
        on.Authenticated(),
        on.ManifestHeld(),
        on.ChunksHeld(7),
        on.Verified(),
        on.Passed(),
        on.Activated(1.5),
        on.TrialPassed(),
    ]
    record, states = Record(), []
    for event in events:
        record, _ = advance(record, event, 32)
        states.append(record.state.value)
    assert states == [
        "authenticating", "fetching_manifest", "fetching", "verifying", "testing", "activating",
        "trial", "idle",
    ]  # fmt: skip
    assert record == Record(active=A, good=True, fetched_bytes=7, update_s=1.5)


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.IDLE, on.Passed()),
        (State.IDLE, on.Activated(0.0)),
        (State.FETCHING, on.Passed()),
        (State.ACTIVATING, on.Wanted(A)),
        (State.TRIAL, on.Verified()),
    ],
)
def test_an_impossible_pair_is_our_own_mistake(state: State, event: Event) -> None:
    with pytest.raises(RuntimeError, match=f"{type(event).__name__} cannot happen in {state.name}"):
        step(state, event)


def test_every_state_can_be_booted_into_condemned_in_and_left() -> None:
    for state in State:
        assert (state, on.Booted) in TABLE
        assert (state, on.Condemned) in TABLE
        assert any(then is not state for (at, _), (then, _) in TABLE.items() if at is state)


def test_every_state_can_be_reached_from_idle() -> None:
    reached = {State.IDLE}
    for _ in State:
        reached |= {then for (state, _), (then, _) in TABLE.items() if state in reached}
    assert reached == set(State)


def test_an_action_that_can_cause_the_next_event_stands_last() -> None:
    causes = {Action.FETCH_MANIFEST, Action.FETCH, Action.VERIFY}
    for _, actions in TABLE.values():
        assert not causes & set(actions[:-1])


def test_only_a_boot_starts_the_active_bundle_that_a_row_did_not_change() -> None:
    for (_, event), (_, actions) in TABLE.items():
        if Action.START_ACTIVE in actions:
            assert event in (on.Booted, on.Condemned, on.Refused)


def test_a_bundle_on_trial_is_never_kept_to_fall_back_on() -> None:
    trial = Record(State.ACTIVATING, active=B, previous=A, candidate=C, good=False)
    record, _ = advance(trial, on.Activated(1.0), 32)
    assert (record.active, record.previous) == (C, A)


def test_going_back_to_the_previous_bundle_leaves_none_to_fall_back_on() -> None:
    trial = Record(State.ACTIVATING, active=B, previous=A, candidate=A, good=False)
    record, _ = advance(trial, on.Activated(1.0), 32)
    assert (record.active, record.previous) == (A, None)


def test_activating_a_bundle_forgives_its_earlier_refusal() -> None:
    refused = (Refusal(B.manifest_sha256, 0, "slow"), Refusal(C.manifest_sha256, 0, "worse"))
    record = Record(State.ACTIVATING, active=A, candidate=B, refused=refused)
    assert advance(record, on.Activated(1.0), 32)[0].refused == refused[1:]


def test_a_refusal_carries_the_attempt_and_a_bounded_reason() -> None:
    record = Record(State.TESTING, Desired(1, MADE.release, attempt=4), candidate=OURS)
    after, _ = advance(record, on.Refused("x" * 10_000), 32)
    assert after.refused[0].attempt == 4
    assert len(after.refused[0].reason) == MAX_REASON
    assert next_event(after) is None


def test_refusals_are_bounded_and_the_oldest_goes_first() -> None:
    old = tuple(Refusal(f"{n:064x}", 0, "") for n in range(3))
    record = Record(State.TESTING, candidate=A, active=B, refused=old)
    after, _ = advance(record, on.Refused("slow"), 3)
    assert after.refused == (*old[1:], Refusal(A.manifest_sha256, 0, "slow", A.name, A.version))


def test_nothing_desired_known_means_nothing_to_do() -> None:
    assert next_event(Record(active=A)) is None


def test_what_is_desired_and_active_is_left_alone_under_any_name() -> None:
    renamed = BundleRef("other", "9.9.9", OURS.manifest_sha256)
    assert next_event(Record(desired=Desired(1, MADE.release), active=renamed)) is None


def test_a_swap_is_finished_before_another_desired_state_counts() -> None:
    record = Record(State.ACTIVATING, Desired(2, None), active=A, candidate=B)
    assert next_event(record) is None
    after, _ = advance(record, on.Activated(1.0), 32)
    assert next_event(after) == on.Unwanted()


def test_a_higher_attempt_lifts_a_refusal_and_the_same_does_not() -> None:
    refused = (Refusal(OURS.manifest_sha256, 1, "slow"),)
    for attempt, event in ((0, None), (1, None), (2, on.Wanted(OURS))):
        desired = Desired(1, MADE.release, attempt)
        assert next_event(Record(desired=desired, refused=refused)) == event


def test_what_was_refused_under_one_name_may_be_wanted_under_another() -> None:
    """Nobody signs names: a good digest under a wrong one must not bar the right one."""
    refused = (Refusal(OURS.manifest_sha256, 0, "not signed", "other", "1.0.0"),)
    record = Record(desired=Desired(1, MADE.release), refused=refused)
    assert next_event(record) == on.Wanted(OURS)


def test_a_bundle_that_brings_the_board_down_while_it_is_verified_is_not_tried_for_ever() -> None:
    record = Record(State.VERIFYING, candidate=A, boots=3)
    (event,) = since_last_boot(record, lambda _bundle: None, 3)
    assert isinstance(event, on.Refused)


def test_a_device_that_lost_both_bundles_gives_up_both_without_blame() -> None:
    record, lost = without_lost_previous(Record(active=B, previous=A), lambda _: "chunks are lost")
    assert lost == "demo 1.0.0: chunks are lost"
    for event in since_last_boot(record, lambda _bundle: "chunks are lost", 3):
        record, _ = advance(record, event, 32)
    assert (record.active, record.previous, record.refused) == (None, None, ())


def test_the_document_is_drawn_from_the_table_as_it_is() -> None:
    assert main([str(DOCUMENT), "--check"]) == 0, (
        "run: python -m edge_runtime.update.diagram docs/lifecycle.md"
    )


def test_a_stale_document_is_noticed_and_mended(tmp_path: Path) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    stale = tmp_path / "lifecycle.md"
    stale.write_text(text.replace("TESTING --> ACTIVATING", "TESTING --> IDLE"), encoding="utf-8")
    assert main([str(stale), "--check"]) == 1
    assert main([str(stale)]) == 0
    assert stale.read_text(encoding="utf-8") == text


def test_a_document_without_markers_is_not_touched() -> None:
    with pytest.raises(ValueError, match="expected the markers"):
        drawn("# nothing here")


def test_the_picture_shows_every_state() -> None:
    picture = mermaid()
    assert all(state.name in picture for state in State)
