"""Latency of several variants as ratios can be trusted: interleaved, in one process, one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.pipeline import Pipeline

WARM_UPS = 3


def interleaved_p50(
    pipelines: Mapping[str, Pipeline], feeds_of: Mapping[int, Mapping[str, Tensor]], runs: int
) -> dict[str, dict[int, float]]:
    """p50 in ms by variant and key of `feeds_of`; variants take turns, so noise hits all alike."""
    times: dict[tuple[str, int], list[float]] = {}
    for length, feeds in feeds_of.items():
        for turn in range(WARM_UPS + runs):
            for name, pipeline in pipelines.items():
                started = time.perf_counter()
                pipeline.run(feeds)
                taken_ms = 1000 * (time.perf_counter() - started)
                if turn >= WARM_UPS:
                    times.setdefault((name, length), []).append(taken_ms)
    return {
        name: {length: statistics.median(times[name, length]) for length in feeds_of}
        for name in pipelines
    }
