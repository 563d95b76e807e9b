"""The border of a model whose inputs and outputs are integers where the manifest speaks of floats.

A full-integer file says itself what its integers stand for, real = scale * (q - zero_point). So a
bundle's steps and golden vectors stay in float32 whatever the variant, and the session turns the
numbers here. Where the manifest itself says integers, nothing is turned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.errors import InputError
from edge_runtime.inference.backend import Tensor

FLOAT = "float32"


@dataclass(frozen=True, slots=True)
class Grid:
    """What the integers of one tensor stand for; `scale` > 0."""

    dtype: np.dtype[Any]
    scale: float
    zero_point: int

    def quantize(self, name: str, value: Tensor) -> Tensor:
        """float32 → `dtype`; what lies outside of the grid becomes its first or last number.

        Raises:
            InputError: NaN, which no integer stands for.
        """
        steps = np.rint(value / np.float32(self.scale)) + np.float32(self.zero_point)
        if np.isnan(steps).any():
            raise InputError(f"input {name}: holds NaN, the model takes {self.dtype}")
        info = np.iinfo(self.dtype)
        return np.ascontiguousarray(np.clip(steps, info.min, info.max).astype(self.dtype))

    def dequantize(self, value: Tensor) -> Tensor:
        """`dtype` → float32."""
        real: Tensor = (value.astype(np.float32) - self.zero_point) * np.float32(self.scale)
        return real


def border(declared: Sequence[TensorSpec], details: Mapping[str, Any]) -> dict[str, Grid]:
    """The tensors to be turned: `declared` in float, in the file integers that have a scale.

    Args:
        details: of each tensor of the file: `dtype`, and `quantization` as (scale, zero point).
    """
    grids = {}
    for spec in declared:
        found = details.get(spec.name)
        if found is None or np.dtype(spec.dtype).kind != "f":
            continue
        scale, zero_point = found["quantization"]
        if np.dtype(found["dtype"]).kind in "iu" and scale > 0:
            grids[spec.name] = Grid(np.dtype(found["dtype"]), float(scale), int(zero_point))
    return grids
