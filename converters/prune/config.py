"""What a recipe may say of a prune pass. A pass removes one kind of part; passes can be stacked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.fields import Fields

PARTS = ("heads", "neurons", "weights")
CRITERIA = ("obs", "activation", "l1", "l2")
ALLOCATIONS = ("uniform", "sensitivity", "global")
SEMI_STRUCTURED = "2:4"


@dataclass(frozen=True, slots=True)
class PruneConfig:
    """`ratio`, 0..1, is the share of the parts that goes.

    Heads and neurons are removed from the network; weights become zero, and with `pattern` "2:4"
    two of every four do. `rows` texts of the calibration set tell which parts matter, and with
    `reconstruct` what is left is fitted to them by least squares. What is kept of a layer is a
    multiple of `round_to` neurons.
    """

    parts: str
    ratio: float
    criterion: str
    allocate: str
    pattern: str
    reconstruct: bool
    rows: int
    round_to: int


def parse_prune(f: Fields, folder: Path) -> PruneConfig:
    """Read the table; faults go to `f`."""
    config = PruneConfig(
        parts=f.choice("parts", PARTS),
        ratio=f.number("ratio", 0.5, low=0, high=1),
        criterion=f.choice("criterion", CRITERIA, "obs"),
        allocate=f.choice("allocate", ALLOCATIONS, "uniform"),
        pattern=f.choice("pattern", ("", SEMI_STRUCTURED), ""),
        reconstruct=f.boolean("reconstruct", True),
        rows=f.integer("rows", 256, low=1),
        round_to=f.integer("round_to", 32, low=1, high=1024),
    )
    if config.criterion == "obs" and not config.reconstruct:
        f.fault(
            f"{f.where}: criterion = obs needs reconstruct = true; it counts on what is refitted"
        )
    if config.parts != "weights" and (config.pattern or config.allocate == "global"):
        wrong = "pattern" if config.pattern else "allocate = global"
        f.fault(f"{f.where}: {wrong} is for parts = weights, not for parts = {config.parts}")
    if config.pattern and (config.ratio != 0.5 or config.allocate != "uniform"):
        f.fault(f"{f.where}: pattern = 2:4 is ratio = 0.5 and allocate = uniform in every layer")
    return config


def prune_words(figures: Mapping[str, Any]) -> str:
    """What the pass did, in one line."""
    words = f"{figures['parts']}: {figures['before']:,} → {figures['after']:,}"
    return f"{words}, cosine {figures['cosine_mean']:.4f}"
