"""Which classes are taken for which, before and after: two matrices, and what moved most. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

Matrix: TypeAlias = tuple[tuple[int, ...], ...]
NUMBERS = 20
"""Classes up to which a cell has room for its count."""
MOVED = 6


def heat(classes: Sequence[str], matrix: Matrix) -> list[dict[str, Any]]:
    """A row a label; each cell with its count, its share of the row, and what to say of it."""
    found = []
    for label, row in zip(classes, matrix, strict=True):
        total = sum(row)
        cells = []
        for answer, count in zip(classes, row, strict=True):
            share = count / total if total else 0.0
            cells.append(
                {
                    "count": count,
                    "right": answer == label,
                    # Most wrong cells are small: a square root lets them be seen.
                    "strength": f"{100 * share**0.5:.0f}" if count else "0",
                    "words": f"{label} answered as {answer}: {count:,} of {total:,}",
                }
            )
        found.append({"label": label, "cells": cells})
    return found


def moved(classes: Sequence[str], before: Matrix, after: Matrix) -> list[dict[str, Any]]:
    """The cells that changed most, as label, answer, rows before and after."""
    changes = [
        (abs(new - old), label, answer, old, new)
        for label, olds, news in zip(classes, before, after, strict=True)
        for answer, old, new in zip(classes, olds, news, strict=True)
        if old != new
    ]
    changes.sort(key=lambda one: (-one[0], one[1], one[2]))
    return [
        {"label": label, "answer": answer, "before": old, "after": new, "right": label == answer}
        for _, label, answer, old, new in changes[:MOVED]
    ]
