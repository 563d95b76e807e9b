"""Sizes that a model file has for good where its manifest leaves them free.

Accelerators take fixed shapes: one length, one row. The pipeline grows texts to the length and asks
row by row, as it does for engines whose shapes are always fixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_runtime.bundle.manifest import TensorSpec


def fixed_size(
    name: str, specs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[object]]
) -> int | None:
    """The size that the file gives the free dimension `name` of `specs`; None where it is free.

    Args:
        shapes: of the file's inputs, by name; a size is an int, what is free anything else.
    """
    for spec in specs:
        for dim, size in zip(spec.shape, shapes.get(spec.name, ()), strict=False):
            if dim == name and isinstance(size, int):
                return size
    return None
