"""How fast this host trains, measured in a second, to plan before anything was trained.

The measurement is kept with the other results: a search that goes on must plan the same steps, or
nothing of what it trained before would be found again.
"""

from __future__ import annotations

import platform
import time

import torch

from converters.cache import Cache, tool_versions
from converters.distil.config import DistilConfig
from converters.ort import host_threads
from converters.search.space import Encoder, Shape
from converters.training import training_precision

MEASURED_S = 0.5
ROWS, INNER, OUTER = 2048, 384, 1536
PASSES = 3
"""Forward, and backward for inputs and for weights."""
EFFICIENCY = 0.35
"""A training step reaches this share of a product's speed: norms, attention, optimizer, padding."""
TOKENS = 0.75
"""Mean length of a text as a share of the longest that is learned from."""


def step_seconds(encoder: Encoder, shape: Shape, taught: DistilConfig, cache: Cache) -> float:
    """Estimated seconds of one training step of `shape`."""
    tokens = int(TOKENS * taught.max_length)
    macs = PASSES * taught.batch * encoder.macs(shape, tokens)
    return macs / (EFFICIENCY * _macs_a_second(training_precision(taught.precision), cache))


def _macs_a_second(precision: str, cache: Cache) -> float:
    parts: dict[str, object] = {
        "precision": precision,
        "threads": host_threads(),
        "host": platform.node(),
        "tools": tool_versions("torch"),
    }
    return float(cache.value("speed", parts, lambda: _measured(precision)))


def _measured(precision: str) -> float:
    """Multiplications a second of a product as large as a layer's, on every core."""
    torch.set_num_threads(host_threads())
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = torch.ones(ROWS, INNER, dtype=dtype), torch.ones(INNER, OUTER, dtype=dtype)
    a @ b
    count, started = 0, time.monotonic()
    while (taken := time.monotonic() - started) < MEASURED_S:
        a @ b
        count += 1
    return count * ROWS * INNER * OUTER / taken
