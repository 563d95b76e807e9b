"""Weights on a grid: uniform or a codebook, a scale for each channel, block or the whole tensor.

A weight (in, out) is `scale * code[index]`. A uniform grid is the codebook whose codes are evenly
spaced, so that both are found, rounded and stored alike. Codes are int8 where the engine computes
in integers. `rounder` gives what GPTQ needs: the nearest point of the grid, row by row.

Source: Lloyd, "Least squares quantization in PCM", 1982 (k-means in one dimension); TFLite 8-bit
quantization spec (symmetric, narrow range).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from converters.quantize.scheme import Scheme

FloatArray = npt.NDArray[np.float32]
KMEANS_BINS, KMEANS_STEPS = 4096, 60
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Grid:
    """`codes` ascending, float32 (k,), within ±127; `scale` (blocks, out) or (1, 1).

    A block is `block` rows; with `block` 0 all rows share one scale a channel.
    """

    codes: FloatArray
    scale: FloatArray
    block: int

    def rows_scale(self, row: int) -> FloatArray:
        """The scales of row `row`, (out,) or (1,)."""
        chosen: FloatArray = self.scale[row // self.block if self.block else 0]
        return chosen

    def indices(self, row: int, values: FloatArray) -> npt.NDArray[np.int64]:
        """The nearest code of each value of row `row`."""
        found = np.searchsorted(self._borders(), values / self.rows_scale(row))
        return found.astype(np.int64)

    def _borders(self) -> FloatArray:
        return ((self.codes[1:] + self.codes[:-1]) / 2).astype(np.float32)

    def all_indices(self, weight: FloatArray) -> npt.NDArray[np.int64]:
        """The nearest code of every weight, (in, out)."""
        found = np.searchsorted(self._borders(), weight / self.full_scale(weight.shape[0]))
        return found.astype(np.int64)

    def full_scale(self, rows: int) -> FloatArray:
        """Scales that broadcast over a weight of `rows` rows."""
        return np.repeat(self.scale, self.block, axis=0)[:rows] if self.block else self.scale

    def values(self, indices: npt.NDArray[np.int64]) -> FloatArray:
        """The weights that `indices` (in, out) stand for."""
        decoded: FloatArray = self.codes[indices] * self.full_scale(indices.shape[0])
        return decoded


def grid_of(weight: FloatArray, scheme: Scheme) -> Grid:
    """The grid for `weight` (in, out): scales from its largest magnitudes, codes by the scheme.

    An all-zero channel gets a tiny scale and stays zero.
    """
    reach = 127 if scheme.kind == "c" else 2 ** (scheme.bits - 1) - 1
    scale = (_peaks(weight, scheme) / reach).astype(np.float32)
    if scheme.kind == "w":
        codes = np.arange(-reach, reach + 1, dtype=np.float32)
    else:
        grid = Grid(np.zeros(1, np.float32), scale, scheme.block)
        codes = kmeans(weight / grid.full_scale(weight.shape[0]), 2**scheme.bits, reach)
        if scheme.activations != "weight":
            codes = np.unique(np.rint(codes).astype(np.float32))
    return Grid(codes, scale, scheme.block)


def _peaks(weight: FloatArray, scheme: Scheme) -> FloatArray:
    magnitude = np.abs(weight)
    if scheme.share == "tensor":
        peaks = magnitude.max(keepdims=True)
    elif scheme.block:
        rows = -weight.shape[0] % scheme.block
        padded = np.pad(magnitude, ((0, rows), (0, 0)))
        peaks = padded.reshape(-1, scheme.block, weight.shape[1]).max(axis=1)
    else:
        peaks = magnitude.max(axis=0, keepdims=True)
    found: FloatArray = np.maximum(peaks, TINY)
    return found


def kmeans(values: FloatArray, k: int, reach: float) -> FloatArray:
    """`k` or fewer centres, ascending, of values within ±reach: k-means on a fine histogram.

    Started at quantiles of the cube root of the density, which is where the best centres of many
    points lie, and therefore the same for the same values.

    Source: Panter and Dite, "Quantization distortion", 1951.
    """
    counts, edges = np.histogram(values, KMEANS_BINS, (-reach, reach))
    points = (edges[1:] + edges[:-1]) / 2
    weight = counts.astype(np.float64)
    spread = np.cumsum(np.cbrt(weight))
    centres = np.interp((np.arange(k) + 0.5) / k * spread[-1], spread, points)
    for _ in range(KMEANS_STEPS):
        owner = np.searchsorted((centres[1:] + centres[:-1]) / 2, points)
        mass = np.bincount(owner, weight, k)
        moved = np.bincount(owner, weight * points, k) / np.maximum(mass, 1)
        centres = np.sort(np.where(mass > 0, moved, centres))
    return np.unique(centres).astype(np.float32)


def pack_nibbles(indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """(rows, n) of 0..15 → (rows, n / 2): left half in the low four bits, right half in the high.

    Raises:
        RuntimeError: an odd number of columns.
    """
    columns = indices.shape[1]
    if columns % 2:
        raise RuntimeError(f"{columns} columns cannot be packed in pairs")
    low, high = indices[:, : columns // 2], indices[:, columns // 2 :]
    return (low | (high << 4)).astype(np.uint8)
