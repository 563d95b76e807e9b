"""Histograms add up, err by no more than they promise, and refuse what is none."""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import UntrustedError
from edge_runtime.telemetry.metrics import MAX_MS, MIN_MS, Histogram, Metrics, Outcome, Snapshot

DURATIONS = st.lists(st.floats(MIN_MS, MAX_MS), min_size=1, max_size=200)


def made(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(DURATIONS, st.sampled_from([50, 95, 99]))
def test_percentile_is_within_five_percent_of_the_exact_one(
    values: list[float], percent: int
) -> None:
    exact = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
    found = made(values).percentile(percent)
    assert found == pytest.approx(exact, rel=0.05)


@given(DURATIONS, DURATIONS)
def test_merging_equals_recording_everything_in_one(a: list[float], b: list[float]) -> None:
    merged = made(a)
    merged.merge(made(b))
    both = made(a + b)
    assert merged.as_json()["buckets"] == both.as_json()["buckets"]
    assert merged.percentile(95) == both.percentile(95)
    assert merged.mean_ms == pytest.approx(both.mean_ms)


@given(DURATIONS, DURATIONS, st.sampled_from([50, 95, 99]))
def test_what_came_since_is_what_was_recorded_since(
    a: list[float], b: list[float], percent: int
) -> None:
    earlier = made(a)
    later = earlier.copy()
    for value in b:
        later.record(value)
    since = later.since(earlier)
    assert since.as_json()["buckets"] == made(b).as_json()["buckets"]
    assert since.percentile(percent) == pytest.approx(made(b).percentile(percent), rel=0.05)
    assert since.mean_ms == pytest.approx(made(b).mean_ms, rel=1e-3, abs=1e-6 * sum(a + b))
    assert later.since(later).percentile(percent) is None


@given(DURATIONS)
def test_histogram_survives_its_json(values: list[float]) -> None:
    histogram = made(values)
    again = Histogram.from_json(json.loads(json.dumps(histogram.as_json())))
    assert again.count == histogram.count
    assert again.percentile(99) == pytest.approx(histogram.percentile(99), rel=1e-3)


def test_json_of_a_wide_histogram_stays_small() -> None:
    histogram = made([MIN_MS * 1.05**i for i in range(450)])
    assert len(json.dumps(histogram.as_json())) < 4096


def test_empty_histogram_has_no_percentiles_and_survives_its_json() -> None:
    empty = Histogram.from_json(Histogram().as_json())
    assert (empty.count, empty.percentile(50), empty.mean_ms, empty.max_ms) == (0, None, None, None)


def test_durations_out_of_range_count_as_the_nearest_in_range() -> None:
    histogram = made([-1.0, 0.0, 1e12, math.inf])
    assert histogram.count == 4
    assert histogram.max_ms == MAX_MS


def test_copy_is_independent() -> None:
    histogram = made([1.0])
    copy = histogram.copy()
    histogram.record(2.0)
    assert copy.count == 1


@pytest.mark.parametrize(
    "change",
    [
        {"base": 1.2},
        {"base": "1.1"},
        {"buckets": [[0]]},
        {"buckets": [[0, -1]]},
        {"buckets": [[0, 1.5]]},
        {"buckets": [[True, 1]]},
        {"buckets": [[100000, 1]]},
        {"buckets": [[0, 1]] * 1000},
        {"buckets": "x"},
        {"buckets": [[0, 2**60]]},
        {"sum_ms": -1},
        {"sum_ms": None},
        {"min_ms": 5, "max_ms": 1},
        {"max_ms": 1e300},
    ],
    ids=str,
)
def test_malformed_histogram_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UntrustedError, match="latency"):
        Histogram.from_json({**made([1.0, 2.0]).as_json(), **change}, "latency")


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(UntrustedError):
        Histogram.from_json(value)


def test_nan_is_our_own_mistake() -> None:
    with pytest.raises(RuntimeError):
        Histogram().record(math.nan)


def test_metrics_count_requests_of_many_threads() -> None:
    metrics = Metrics()

    def work() -> None:
        for number in range(500):
            outcome = Outcome.ANSWERED if number % 10 else Outcome.FAILED
            metrics.record(latency_ms=2.0, queue_wait_ms=0.1, outcome=outcome)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = metrics.snapshot()
    assert (snapshot.requests, snapshot.errors) == (4000, 400)
    assert snapshot.latency.count == snapshot.queue_wait.count == 4000


def test_each_outcome_counts_where_it_belongs() -> None:
    metrics = Metrics()
    for outcome in Outcome:
        metrics.record(latency_ms=8.0, queue_wait_ms=3.0, outcome=outcome)
    s = metrics.snapshot()
    assert (s.requests, s.errors, s.failed) == (4, 2, 1)
    assert (s.latency.count, s.work.count) == (4, 1)
    assert s.work.percentile(95) == pytest.approx(5.0)


def test_snapshot_does_not_change_with_later_requests() -> None:
    metrics = Metrics()
    metrics.record(latency_ms=1, queue_wait_ms=0)
    snapshot = metrics.snapshot()
    metrics.record(latency_ms=1, queue_wait_ms=0)
    assert snapshot.requests == snapshot.latency.count == 1


def test_merged_snapshots_leave_their_parts_alone() -> None:
    one = Snapshot(1, 0, made([1.0]), made([0.1]), 0, made([0.9]))
    two = Snapshot(2, 1, made([2.0, 3.0]), made([0.1, 0.2]), 1, made([1.9]))
    both = one.merged(two)
    assert (both.requests, both.errors, both.latency.count) == (3, 1, 3)
    assert (both.failed, both.work.count) == (1, 2)
    assert (one.latency.count, two.latency.count) == (1, 2)


def test_snapshot_survives_a_heartbeat() -> None:
    one = Snapshot(2, 1, made([1.0]), made([0.1]), 1, made([0.9]))
    again = Snapshot.from_json(
        2, 1, one.latency.as_json(), one.queue_wait.as_json(), 1, one.work.as_json()
    )
    assert again == one
