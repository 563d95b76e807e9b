"""What preprocessing hands to the model, and how several inputs become one batch. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.inference.backend import Tensor

if TYPE_CHECKING:
    from edge_runtime.inference.tasks.image import Picture
    from edge_runtime.inference.tasks.spans import Token

BATCH, SEQUENCE = "batch", "sequence"


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One input, ready: the model's tensors without their batch dimension.

    `length` is the size of the dimension "sequence", 1 where the model has none. `truncated`: the
    input was longer than the model reads. `picture` and `tokens` lead back to what was sent, for
    whoever draws boxes or spans; a token is None where it is special.
    """

    tensors: Mapping[str, Tensor]
    length: int = 1
    truncated: bool = False
    picture: Picture | None = None
    tokens: Sequence[Token | None] = field(default=())


def collate(
    specs: Sequence[TensorSpec], items: Sequence[Item], length: int, fills: Mapping[str, int]
) -> dict[str, Tensor]:
    """The model's inputs for `items`: the batch first, sequences padded at their end to `length`.

    `fills` says with what, by input; 0 where it says nothing.
    """
    made: dict[str, Tensor] = {}
    for spec in specs:
        rows = [item.tensors[spec.name] for item in items]
        if SEQUENCE not in spec.shape or all(len(row) == length for row in rows):
            made[spec.name] = rows[0][None] if len(rows) == 1 else np.stack(rows)
            continue
        shape = (len(rows), length, *rows[0].shape[1:])
        grown = np.full(shape, fills.get(spec.name, 0), dtype=rows[0].dtype)
        for place, row in zip(grown, rows, strict=True):
            place[: len(row)] = row
        made[spec.name] = grown
    return made
