"""What was counted lately: the last minutes of a worker that may have run for months."""

from __future__ import annotations

import pytest

from edge_runtime.agent.health import Recent
from edge_runtime.telemetry import Metrics, Outcome
from edge_runtime.update.trial import Health

WINDOW_S = 60.0


@pytest.fixture
def recent() -> Recent:
    return Recent(WINDOW_S, 20)


def asked(
    metrics: Metrics, count: int, took_ms: float = 5.0, outcome: Outcome = Outcome.ANSWERED
) -> None:
    for _ in range(count):
        metrics.record(latency_ms=took_ms, queue_wait_ms=0.0, outcome=outcome)


def test_a_worker_that_was_asked_nothing_has_counted_nothing(recent: Recent) -> None:
    assert recent.heard(1, Metrics().snapshot(), 0.0) == Health()


def test_only_what_was_the_bundles_to_answer_is_its_health(recent: Recent) -> None:
    metrics = Metrics()
    asked(metrics, 30)
    asked(metrics, 5, 0.0, Outcome.WRONG)
    asked(metrics, 5, 0.0, Outcome.TURNED_AWAY)
    asked(metrics, 10, 900.0, Outcome.FAILED)
    assert recent.heard(1, metrics.snapshot(), 0.0) == Health(40, 10, 5.0, 5.0)


def test_the_wait_for_others_is_no_fault_of_the_bundle(recent: Recent) -> None:
    metrics = Metrics()
    for _ in range(20):
        metrics.record(latency_ms=805.0, queue_wait_ms=800.0)
    assert recent.heard(1, metrics.snapshot(), 0.0).p95_ms == pytest.approx(5.0)


def test_the_first_window_is_kept_whole(recent: Recent) -> None:
    metrics = Metrics()
    for at_s in range(int(WINDOW_S) + 1):
        asked(metrics, 2)
        found = recent.heard(1, metrics.snapshot(), 100.0 + at_s)
    assert found.requests == 2 * (int(WINDOW_S) + 1)


def test_what_a_worker_did_long_ago_is_not_lately(recent: Recent) -> None:
    metrics = Metrics()
    asked(metrics, 10_000, 500.0)
    asked(metrics, 10_000, outcome=Outcome.FAILED)
    for at_s in range(int(3 * WINDOW_S)):
        asked(metrics, 1)
        found = recent.heard(1, metrics.snapshot(), float(at_s))
    assert found.failed == 0
    assert WINDOW_S <= found.requests <= 2 * WINDOW_S
    # Its histogram's buckets are ten percent wide, and the extremes of all time bound nothing here.
    assert found.p95_ms == pytest.approx(5.0, rel=0.05)


def test_where_requests_are_rare_the_window_is_longer(recent: Recent) -> None:
    metrics = Metrics()
    for hour in range(100):
        asked(metrics, 1)
        found = recent.heard(1, metrics.snapshot(), 3600.0 * hour)
        assert found.requests >= min(hour + 1, 20)
    assert found.requests <= 40


def test_workers_are_counted_apart_and_a_number_may_come_again(recent: Recent) -> None:
    old, new = Metrics(), Metrics()
    asked(old, 50, 3.0)
    asked(new, 2, 70.0)
    recent.heard(1, old.snapshot(), 0.0)
    assert recent.heard(2, new.snapshot(), 0.0).requests == 2
    for at_s in (0.0, WINDOW_S, 3 * WINDOW_S):
        recent.heard(1, old.snapshot(), at_s)
    recent.ended(1)
    recent.ended(7)
    assert recent.heard(1, new.snapshot(), 9 * WINDOW_S).requests == 2


def test_counters_that_went_back_count_as_nothing(recent: Recent) -> None:
    metrics = Metrics()
    asked(metrics, 30)
    asked(metrics, 30, outcome=Outcome.FAILED)
    for at_s in (0.0, WINDOW_S, 2 * WINDOW_S):
        recent.heard(1, metrics.snapshot(), at_s)
        asked(metrics, 30)
    assert recent.heard(1, Metrics().snapshot(), 2 * WINDOW_S + 1) == Health()
