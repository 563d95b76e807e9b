"""Rounding that knows the inputs: what one row of a weight loses, the rows after it make good.

With H = XᵀX over calibration texts, the error of a linear layer's output is (W-Q)ᵀ H (W-Q). GPTQ
rounds one input channel after the other and moves what was lost to those still to come, in closed
form. The grid is fixed before, so any grid can be used: uniform, in blocks, or a codebook.

Source: Frantar et al., "GPTQ", 2022, algorithm 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from converters.quantize.weights import FloatArray, Grid

DAMPING = 0.01
"""Of the mean of the diagonal, added to it: channels that are never active cannot divide by 0."""
BLOCK = 128


def gptq(weight: FloatArray, gram: FloatArray, grid: Grid) -> npt.NDArray[np.int64]:
    """Indices into the grid's codes for `weight` (in, out); `gram` is XᵀX, (in, in)."""
    work = weight.astype(np.float32).copy()
    rows = work.shape[0]
    order = np.argsort(-np.diag(gram), kind="stable")  # the busiest channels first
    upper = _inverse_factor(gram[np.ix_(order, order)])
    indices = np.zeros(work.shape, dtype=np.int64)
    work = work[order]
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        errors = np.zeros((stop - start, work.shape[1]), dtype=np.float32)
        for at in range(start, stop):
            row = int(order[at])
            chosen = grid.indices(row, work[at])
            indices[row] = chosen
            lost = (work[at] - grid.codes[chosen] * grid.rows_scale(row)) / upper[at, at]
            work[at + 1 : stop] -= np.outer(upper[at, at + 1 : stop], lost)
            errors[at - start] = lost
        work[stop:] -= upper[start:stop, stop:].T @ errors
    return indices


def _inverse_factor(gram: FloatArray) -> FloatArray:
    """Upper triangular U with UᵀU = (gram + damping)⁻¹."""
    damped = gram.astype(np.float64)
    mean = float(np.mean(np.diag(damped))) or 1.0
    damped[np.diag_indices_from(damped)] += DAMPING * mean
    upper: FloatArray = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    return upper
