"""Reports are due in time, numbered, and never count backwards within a boot."""

from __future__ import annotations

from edge_runtime.messages.fleet import Accelerator, BundleRef, Telemetry, to_bytes
from edge_runtime.telemetry.metrics import Histogram, Metrics, Snapshot
from edge_runtime.telemetry.reporter import Reporter, new_boot_id

ONE = BundleRef("sections", "1.0.0", "a" * 64)
TWO = BundleRef("sections", "2.0.0", "b" * 64)
ORT = Accelerator("ort-cpu-w8a8", "cpu", "cpu")


def build(reporter: Reporter, now_s: float, bundle: BundleRef | None = ONE) -> Telemetry:
    return reporter.build(
        now_s, time_s=1.7e9, gauges={"load_1m": 0.5}, bundle=bundle, accelerator=ORT
    )


def counted(requests: int) -> Snapshot:
    metrics = Metrics()
    for _ in range(requests):
        metrics.record(latency_ms=3.0, queue_wait_ms=0.2)
    return metrics.snapshot()


def test_first_report_is_due_at_once_and_then_after_the_interval() -> None:
    reporter = Reporter("b", started_s=10.0, interval_s=60)
    assert reporter.wait_s(10.0, ONE, ORT) == 0
    build(reporter, 10.0)
    assert reporter.wait_s(11.0, ONE, ORT) == 59
    assert reporter.wait_s(70.0, ONE, ORT) == 0
    assert reporter.wait_s(90.0, ONE, ORT) == 0


def test_change_of_bundle_or_accelerator_is_reported_soon_but_not_in_a_burst() -> None:
    reporter = Reporter("b", started_s=0, interval_s=60, change_s=1)
    build(reporter, 100.0)
    assert reporter.wait_s(100.2, TWO, ORT) == 0.7999999999999972
    assert reporter.wait_s(105.0, TWO, ORT) == 0
    assert reporter.wait_s(105.0, ONE, None) == 0
    build(reporter, 105.0, TWO)
    assert reporter.wait_s(106.0, TWO, ORT) == 59


def test_messages_are_numbered_from_zero() -> None:
    reporter = Reporter("b", started_s=0)
    assert [build(reporter, now).sequence for now in (1.0, 2.0, 3.0)] == [0, 1, 2]


def test_totals_include_workers_that_have_ended() -> None:
    reporter = Reporter("b", started_s=0)
    reporter.heard(1, counted(5))
    reporter.heard(1, counted(7))
    reporter.heard(2, counted(3))
    assert build(reporter, 1.0).requests == 10
    reporter.ended(1)
    reporter.heard(2, counted(4))
    message = build(reporter, 2.0)
    assert message.requests == 11
    assert Histogram.from_json(message.latency).count == 11


def test_worker_that_ended_before_it_said_anything_changes_nothing() -> None:
    reporter = Reporter("b", started_s=0)
    reporter.ended(1)
    assert build(reporter, 1.0).requests == 0


def test_message_survives_the_wire_within_its_bound() -> None:
    reporter = Reporter(new_boot_id(), started_s=5.0)
    reporter.heard(1, counted(100))
    message = build(reporter, 65.0)
    data = to_bytes(message)
    again = Telemetry.from_bytes(data)
    assert again.uptime_s == 60
    assert again.bundle == ONE
    assert again.accelerator == ORT
    assert Histogram.from_json(again.latency).percentile(95) is not None
    assert to_bytes(again) == data
    assert len(data) < 2048


def test_boot_ids_differ() -> None:
    assert new_boot_id() != new_boot_id()
