"""One valid example of everything that crosses a wire, with its bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.manifest import MANIFEST_NAME
from edge_runtime.messages import fleet, worker
from tests.fakes.bundles import noise

ACCELERATOR = fleet.Accelerator("litert-cpu", "XNNPACK", "CPU", "delegate missing")
RELEASE = fleet.Release(
    "demo", "1.0.0", "generic-x86_64", 203_502, file_entry(MANIFEST_NAME, noise(100_000))
)
REPORTED = fleet.Reported(
    revision=3,
    state="serving",
    active=RELEASE.ref,
    previous=None,
    accelerator=ACCELERATOR,
    refused=(fleet.Refusal("cd" * 32, 1, "cosine 0.07 below 0.99"),),
    progress=fleet.Progress(3, 10, 196_608),
    fetched_bytes=196_608,
    update_s=1.5,
    reason="",
    profile="generic-x86_64",
    trust="digest",
    agent_version="0.1.0",
    boot_id="b1",
)
TELEMETRY = fleet.Telemetry(
    boot_id="b1",
    sequence=7,
    time_s=1.7e9,
    uptime_s=60.5,
    requests=100,
    errors=1,
    latency={"counts": [1, 2, 3]},
    queue_wait={},
    gauges={"rss_bytes": 4.2e7, "temp_c": 51.5},
    bundle=RELEASE.ref,
    accelerator=ACCELERATOR,
)
_MESSAGES: tuple[Any, ...] = (
    RELEASE,
    fleet.Desired(3, RELEASE, 1),
    REPORTED,
    fleet.Online(True, "b1"),
    TELEMETRY,
    fleet.Event("b1", 8, 1.7e9, "refused", "why", {"cosine": 0.07}),
    fleet.InferRequest(("one", "two")),
    fleet.InferResult(({"label": "admin", "score": 0.9},), ""),
)
FLEET_MESSAGES: tuple[tuple[Any, bytes], ...] = tuple(
    (message, message.to_bytes() if hasattr(message, "to_bytes") else fleet.to_bytes(message))
    for message in _MESSAGES
)

REPORT = worker.SelfTestReport(
    variant="litert-cpu",
    passed=True,
    reason="",
    metric="cosine",
    value=0.998,
    floor=0.99,
    cases=16,
    latency_p95_ms=2.5,
    rss_bytes=66 << 20,
    accelerator=ACCELERATOR,
)
FAILED = dataclasses.replace(
    REPORT,
    variant="npu",
    passed=False,
    reason="placement: 16 of 80 operators ran on the accelerator",
    fault="placement",
    share=0.2,
    share_floor=0.3,
    off=("RESHAPE x22", "MUL x7"),
    growth_bytes=164,
    took_s=1.5,
)
FRAME_MESSAGES: tuple[worker.Frame, ...] = (
    worker.Ready((REPORT,)),
    worker.Refused("no variant passed", (REPORT, REPORT)),
    worker.Serve(),
    worker.Drain(),
    worker.Connection(),
    worker.Heartbeat(10, 1, {"counts": [1]}, {}, 1, {}),
    worker.Ask("r1", ("one", "zwei ü")),
    worker.Answer("r1", ({"label": "admin"},)),
    worker.Answer("r2", (), "too long"),
    worker.Stage("loading"),
    worker.Tried(FAILED, ("litert-cpu", "ort-cpu")),
    worker.Ready((FAILED, REPORT), ("npu", "litert-cpu"), accelerated=True),
)
FRAMES: tuple[bytes, ...] = tuple(worker.to_frame(message) for message in FRAME_MESSAGES)
