"""A device's telemetry as a small table: what it counted between one message and the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from edge_runtime.telemetry import Histogram

MAX_ROWS = 12
MB = 1_000_000
HEADS = ("up s", "asked", "errors", "p50 ms", "p95 ms", "wait p95", "CPU %", "RSS MB", "model")
"""Latency and the wait for a turn are since the worker's start; RSS is supervisor + worker."""


def telemetry_table(messages: Sequence[Mapping[str, Any]]) -> Table:
    """At most MAX_ROWS of `messages`: those in which something changed, and the last."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in HEADS:
        table.add_column(head, justify="left" if head == "model" else "right", no_wrap=True)
    for message in _changes(messages)[-MAX_ROWS:]:
        table.add_row(*_row(message))
    return table


def _changes(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    kept: list[Mapping[str, Any]] = []
    for before, message in zip((None, *messages), messages, strict=False):
        if before is None or any(before[key] != message[key] for key in ("requests", "bundle")):
            kept.append(message)
    return kept if kept[-1] is messages[-1] else [*kept, messages[-1]]


def _row(message: Mapping[str, Any]) -> list[str]:
    latency = Histogram.from_json(message["latency"])
    queue = Histogram.from_json(message["queue_wait"])
    gauges: Mapping[str, float] = message["gauges"]
    both = ("supervisor", "worker")
    cpu = [gauges[key] for role in both if (key := f"{role}_cpu_percent") in gauges]
    rss = [gauges.get(f"{role}_rss_bytes", 0.0) / MB for role in both]
    bundle, accelerator = message["bundle"], message["accelerator"]
    return [
        f"{message['uptime_s']:.0f}",
        str(message["requests"]),
        str(message["errors"]),
        _ms(latency.percentile(50)),
        _ms(latency.percentile(95)),
        _ms(queue.percentile(95)),
        f"{sum(cpu):.0f}" if cpu else "",
        f"{rss[0]:.0f}+{rss[1]:.0f}",
        f"{bundle['version']}, {accelerator['variant'].split('-')[0]}"
        if bundle and accelerator
        else "none",
    ]


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
