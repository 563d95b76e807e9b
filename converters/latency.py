"""Latency of several variants as ratios can be trusted: interleaved, in one process, one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np

from edge_runtime.inference.pipeline import Pipeline

WARM_UPS = 3
ORDINARY_ID = 7
"""Any valid token: latency does not depend on which words they are."""


def interleaved_p50(
    pipelines: Mapping[str, Pipeline], lengths: Sequence[int], runs: int
) -> dict[str, dict[int, float]]:
    """p50 in ms by variant and token count; the variants take turns, so noise hits all alike."""
    times: dict[tuple[str, int], list[float]] = {}
    for length in lengths:
        ids = np.full((1, length), ORDINARY_ID, dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        for turn in range(WARM_UPS + runs):
            for name, pipeline in pipelines.items():
                started = time.perf_counter()
                pipeline.run(feeds)
                taken_ms = 1000 * (time.perf_counter() - started)
                if turn >= WARM_UPS:
                    times.setdefault((name, length), []).append(taken_ms)
    return {
        name: {length: statistics.median(times[name, length]) for length in lengths}
        for name in pipelines
    }
