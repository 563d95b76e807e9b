"""What a recipe may say of a prune pass. A pass removes one kind of part; passes can be stacked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.fields import Fields

PARTS = ("heads", "neurons", "weights")
CRITERIA = ("activation", "l1", "l2")
ALLOCATIONS = ("uniform", "sensitivity")


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
    return PruneConfig(
        parts=f.choice("parts", PARTS),
        ratio=f.number("ratio", 0.5, low=0, high=1),
        criterion=f.choice("criterion", CRITERIA, "activation"),
        allocate=f.choice("allocate", ALLOCATIONS, "uniform"),
        pattern=f.choice("pattern", ("", "2:4"), ""),
        reconstruct=f.boolean("reconstruct", True),
        rows=f.integer("rows", 256, low=1),
        round_to=f.integer("round_to", 32, low=1, high=1024),
    )


def prune_words(figures: Mapping[str, Any]) -> str:
    """What the pass did, in one line."""
    return f"{figures['parts']}: {figures['before']:,} → {figures['after']:,}"
