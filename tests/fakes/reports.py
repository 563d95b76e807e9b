"""Reports of self-tests, for whoever does not run one."""

from __future__ import annotations

from typing import Any

from edge_runtime.messages.fleet import Accelerator
from edge_runtime.messages.worker import Ready, SelfTestReport


def report(variant: str, fault: str = "", **changed: Any) -> SelfTestReport:
    """One that passed, or failed with `fault`."""
    fields: dict[str, Any] = {
        "variant": variant,
        "passed": not fault,
        "reason": f"{variant} has the fault {fault}" if fault else "",
        "metric": "cosine",
        "value": 0.0 if fault else 0.999,
        "floor": 0.99,
        "cases": 0 if fault else 3,
        "latency_p95_ms": 0.0 if fault else 2.5,
        "rss_bytes": 1000,
        "accelerator": Accelerator(variant, f"litert: lib{variant}.so", f"litert 2.3: {variant}"),
        "fault": fault,
    }
    return SelfTestReport(**(fields | changed))


def ready(served: str, *failed: str, fitting: tuple[str, ...] = ("npu", "gpu", "cpu")) -> Ready:
    """`served` passed, after the `failed`; "cpu" is the only one that is not accelerated."""
    reports = (*(report(variant, "crash") for variant in failed), report(served))
    return Ready(reports, fitting, accelerated=served != "cpu")
