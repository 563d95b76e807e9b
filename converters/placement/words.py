"""A placement in one line for people; tables and reports say the same."""

from __future__ import annotations

from converters.placement.result import Placed, percent


def placed_words(placed: Placed, *, brief: bool = False) -> str:
    """As "98% of 320 operators on hexagon, vendor-compiled by onnxruntime-qnn 2.7.0, 1 part".

    `brief` leaves out where an estimated time comes from.
    """
    if placed.share is None:
        return f"unknown where it runs: {placed.why or 'the tool says nothing'}"
    words = [
        f"{percent(placed.share)} of {len(placed.nodes)} operators on {placed.accelerator}",
        f"{placed.evidence} by {placed.tool}",
    ]
    if placed.partitions is not None:
        words.append(f"{placed.partitions} part{'' if placed.partitions == 1 else 's'}")
    if placed.estimated_ms is not None:
        source = "" if brief else f": {placed.estimate}"
        words.append(f"about {placed.estimated_ms:.3g} ms estimated{source}")
    return ", ".join(words)
