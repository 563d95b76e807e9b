"""How rows are put together for an engine, and how a tensor is grown to a length it accepts.

Pure: it knows lengths and limits, no engine and no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.inference.backend import Tensor

MAX_ROWS = 16
MAX_TOKENS = 1024
"""Rows of one run, and its tokens with padding, where the engine would take any number. They bound
its memory, which grows with both (attention with the square of the length), and how long others
wait for their turn. A single row runs whatever its length.
"""
MAX_WASTE = 1.25
"""A run is not padded to more than this many times its shortest row."""


def fit(length: int, lengths: Sequence[int]) -> int | None:
    """The smallest of the ascending `lengths` that holds `length`; `length` where all run."""
    if not lengths:
        return length
    return next((fixed for fixed in lengths if fixed >= length), None)


def most_rows(length: int, max_batch: int | None) -> int:
    """How many rows of `length` tokens share a run; at least one."""
    return max(1, min(max_batch or MAX_ROWS, MAX_ROWS, MAX_TOKENS // max(length, 1)))


def plan(
    row_lengths: Sequence[int], lengths: Sequence[int], max_batch: int | None
) -> list[tuple[list[int], int]]:
    """Runs as (indexes of rows, padded length): like lengths together, each row once.

    Every row fits the longest of `lengths` already.
    """
    runs: list[tuple[list[int], int]] = []
    for index in sorted(range(len(row_lengths)), key=row_lengths.__getitem__):
        length = fit(row_lengths[index], lengths)
        if length is None:
            raise RuntimeError(f"row {index} has {row_lengths[index]} tokens, over {lengths}")
        if runs:
            rows, _ = runs[-1]
            shortest = fit(row_lengths[rows[0]], lengths) or length
            if len(rows) < most_rows(length, max_batch) and length <= shortest * MAX_WASTE:
                rows.append(index)
                runs[-1] = (rows, length)
                continue
        runs.append(([index], length))
    return runs


def pad(value: Tensor, axis: int, size: int, fill: int) -> Tensor:
    """`value` with `axis` grown to `size` by `fill` at its end."""
    missing = size - value.shape[axis]
    if missing == 0:
        return value
    widths = [(0, 0)] * value.ndim
    widths[axis] = (0, missing)
    return np.pad(value, widths, constant_values=fill)
