"""The trial's verdict: in numbers, sure of itself, and never against what is no worse."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.messages.fleet import BundleRef
from edge_runtime.telemetry import Histogram
from edge_runtime.update.policy import Policy
from edge_runtime.update.trial import NOISE_MS, READING, Health, Trial, judge

POLICY = Policy()
BOUND = Policy(trial_p95_ms=250.0)
NOTHING = Health()
V1 = BundleRef("demo", "1.0.0", "1" * 64)
V2 = BundleRef("demo", "2.0.0", "2" * 64)
V3 = BundleRef("demo", "3.0.0", "3" * 64)

HEALTH = st.builds(
    lambda requests, share, p50_ms, more: Health(
        requests, int(share * requests), p50_ms, p50_ms * more
    ),
    st.integers(0, 500),
    st.floats(0, 1),
    st.floats(0.01, 1e5),
    st.floats(1, 100),
)
DURATIONS = st.lists(st.floats(0.01, 1e5), min_size=20, max_size=200)


def health(requests: int = 100, failed: int = 0, *, p50_ms: float = 5.0, p95_ms: float) -> Health:
    return Health(requests, failed, p50_ms, p95_ms)


def exact_p95(values: list[float]) -> float:
    return sorted(values)[math.ceil(len(values) * 0.95) - 1]


def measured(values: list[float]) -> Health:
    """What a worker's histogram says of these durations."""
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return Health(len(values), 0, histogram.percentile(50), histogram.percentile(95))


@pytest.mark.parametrize("over", [False, True])
def test_failures_above_the_ratio_are_told_in_numbers_at_any_time(over: bool) -> None:
    found = judge(Health(40, 12, 1.0, 2.0), NOTHING, POLICY, over=over)
    assert found == "12 of 40 requests failed, at most 10 % allowed"


def test_a_bundle_that_answers_nothing_has_no_speed_but_is_given_up() -> None:
    assert judge(Health(20, 20), NOTHING, BOUND, over=True) == (
        "20 of 20 requests failed, at most 10 % allowed"
    )


@pytest.mark.parametrize(
    ("requests", "failed"), [(0, 0), (19, 19), (20, 2), (40, 4), (1000, 100)], ids=str
)
def test_few_requests_or_few_failures_are_borne(requests: int, failed: int) -> None:
    assert judge(Health(requests, failed, 1.0, 2.0), NOTHING, POLICY, over=True) is None


def test_a_ratio_of_one_bears_everything() -> None:
    policy = Policy(trial_error_ratio=1.0)
    assert judge(Health(500, 500), NOTHING, policy, over=True) is None


def test_failures_that_the_bundle_before_had_as_well_are_no_reason_to_go_back() -> None:
    failing = Health(40, 12, 1.0, 2.0)
    assert judge(failing, Health(100, 30, 1.0, 2.0), POLICY, over=True) is None
    assert judge(failing, Health(100, 29, 1.0, 2.0), POLICY, over=True) is not None
    # Two of three tell nothing of how it was.
    assert judge(failing, Health(3, 2, 1.0, 2.0), POLICY, over=True) is not None


def test_a_p95_above_the_bound_is_told_in_numbers_at_the_end() -> None:
    slow = health(p95_ms=310.0)
    assert judge(slow, NOTHING, BOUND, over=False) is None
    assert judge(slow, NOTHING, BOUND, over=True) == (
        "the p95 of 100 requests is 310 ms, a p95 of at most 250 ms is allowed"
    )
    assert judge(slow, NOTHING, POLICY, over=True) is None


def test_a_median_above_the_bound_needs_no_end() -> None:
    slow = health(30, p50_ms=310.0, p95_ms=400.0)
    assert judge(slow, NOTHING, BOUND, over=False) == (
        "the median of 30 requests is 310 ms, a p95 of at most 250 ms is allowed"
    )


def test_a_bundle_much_slower_than_the_one_before_is_told_in_numbers() -> None:
    found = judge(health(p95_ms=400.0), health(p95_ms=40.0), POLICY, over=True)
    assert found == (
        "the p95 of 100 requests is 400 ms, "
        "more than 3 times the p95 of the bundle before it, 40 ms"
    )


def test_a_slow_bundle_that_is_faster_than_the_one_before_stays() -> None:
    assert judge(health(p95_ms=310.0), health(p95_ms=400.0), BOUND, over=True) is None
    assert judge(health(p95_ms=310.0), health(p95_ms=300.0), BOUND, over=True) is not None


@pytest.mark.parametrize(("now", "before"), [(19, 500), (500, 19)])
def test_speed_is_compared_only_where_both_were_asked_enough(now: int, before: int) -> None:
    slow, fast = health(now, p95_ms=400.0), health(before, p95_ms=4.0)
    assert judge(slow, fast, POLICY, over=True) is None


def test_only_answers_count_where_speed_is_judged() -> None:
    slow = health(22, 2, p95_ms=400.0)
    assert judge(slow, health(p95_ms=4.0), POLICY, over=True) is not None
    slow = health(21, 2, p95_ms=400.0)
    assert judge(slow, health(p95_ms=4.0), POLICY, over=True) is None


def test_a_few_milliseconds_more_are_the_boards_noise() -> None:
    small = health(p95_ms=0.5)
    assert judge(health(p95_ms=0.5 + NOISE_MS), small, POLICY, over=True) is None
    assert judge(health(p95_ms=1.0 + NOISE_MS), small, POLICY, over=True) is not None


@given(DURATIONS, st.booleans())
def test_no_bundle_within_the_bound_is_given_up_for_how_a_histogram_rounds(
    values: list[float], over: bool
) -> None:
    policy = Policy(trial_p95_ms=exact_p95(values))
    assert judge(measured(values), NOTHING, policy, over=over) is None


@given(DURATIONS)
def test_a_bundle_clearly_above_the_bound_is_given_up(values: list[float]) -> None:
    policy = Policy(trial_p95_ms=exact_p95(values) / (1.01 * READING**2))
    assert judge(measured(values), NOTHING, policy, over=True) is not None


@given(DURATIONS, DURATIONS, st.booleans())
def test_no_bundle_within_the_allowed_slowdown_is_given_up_for_how_a_histogram_rounds(
    values: list[float], before: list[float], over: bool
) -> None:
    slowdown = exact_p95(values) / exact_p95(before)
    policy = Policy(trial_slowdown=max(slowdown, 1.0))
    assert judge(measured(values), measured(before), policy, over=over) is None


@given(HEALTH, st.booleans())
def test_a_bundle_as_good_as_the_one_before_is_never_given_up(same: Health, over: bool) -> None:
    policy = Policy(trial_p95_ms=1.0, trial_slowdown=1.0, trial_error_ratio=0.001)
    if same.requests - same.failed >= policy.trial_min_requests or same.p95_ms is None:
        assert judge(same, same, policy, over=over) is None


@given(HEALTH, HEALTH, st.booleans())
def test_fewer_failures_and_more_speed_never_turn_a_verdict_bad(
    now: Health, before: Health, over: bool
) -> None:
    if judge(now, before, BOUND, over=over) is None and now.p50_ms and now.p95_ms:
        better = dataclasses.replace(
            now, failed=now.failed // 2, p50_ms=now.p50_ms / 2, p95_ms=now.p95_ms / 2
        )
        answered = now.requests - now.failed
        if answered >= BOUND.trial_min_requests:  # Else more answers make it the first judgement.
            assert judge(better, before, BOUND, over=over) is None


def test_the_replaced_bundle_is_remembered_past_the_swap() -> None:
    trial = Trial(POLICY)
    trial.counted(V1, None, health(p95_ms=4.0))
    trial.counted(V2, V1, health(p95_ms=400.0))
    assert trial.fault(V2, V1, over=True) is not None


def test_what_the_bundle_before_the_replaced_one_counted_is_forgotten() -> None:
    trial = Trial(POLICY)
    trial.counted(V1, None, health(p95_ms=4.0))
    trial.counted(V2, V1, health(p95_ms=4.0))
    trial.counted(V3, V2, health(p95_ms=400.0))
    assert trial.fault(V3, V2, over=True) is not None
    assert trial.fault(V3, V1, over=True) is None


def test_a_bundle_that_has_told_nothing_has_no_fault() -> None:
    trial = Trial(POLICY)
    trial.counted(V1, None, Health(40, 40))
    assert trial.fault(V2, V1, over=True) is None


def test_the_first_word_against_a_bundle_is_said_once() -> None:
    trial = Trial(POLICY)
    assert [trial.first_word(b) for b in (V1, V1, V2, V2, V1)] == [True, False, True, False, True]
