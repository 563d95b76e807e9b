"""Which groups of inputs of a linear map may go: three rankings, and one that looks at them all.

A neuron is a group of one input of the map behind it, a head a group of `head_size`. The rankings
judge each group for itself. `eliminate` takes out the group whose loss the others can best make up
for, lets them, and asks again: Optimal Brain Surgeon (Hassibi & Stork 1993) for groups, as in
ZipLM (Kurtic et al. 2023) and Optimal Brain Compression (Frantar & Alistarh 2022).
"""

from __future__ import annotations

import torch

from converters.prune.moments import Quadratic

STEP = 0.02
"""Share of the groups still there that may go before the others' scores are computed again."""


def norms(into: torch.Tensor, out: torch.Tensor, *, order: int, size: int) -> torch.Tensor:
    """Size of each group's weights before and behind it, (groups,).

    Args:
        into: rows that make the inputs, (inputs, anything).
        out: what the map does with them, (outputs, inputs).
        order: 1 or 2, sum of absolute values or root of the sum of squares.
        size: inputs a group.
    """
    both = torch.cat([into, out.T], dim=1).double().reshape(-1, size * (into.shape[1] + len(out)))
    found: torch.Tensor = torch.linalg.vector_norm(both, ord=order, dim=1)
    return found


def activity(energy: torch.Tensor, out: torch.Tensor, *, size: int) -> torch.Tensor:
    """E[x²]·‖w‖² summed over each group's inputs, (groups,): what the next layer loses at most."""
    return (energy * out.double().square().sum(0)).reshape(-1, size).sum(1)


def strongest(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """Indices of the `keep` highest scores, ascending; of equals the first."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:keep].sort().values


def eliminate(loss: Quadratic, keep: list[int], *, size: int = 1) -> list[torch.Tensor]:
    """For each count in `keep`, descending, the groups that are left, ascending."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(loss.curvature))
    weights = inverse @ loss.pull
    left = torch.arange(len(weights) // size)
    found = []
    for count in keep:
        while len(left) > count:
            number = min(len(left) - count, max(1, int(len(left) * STEP)))
            scores = _cost(inverse, weights, size)
            gone = torch.argsort(scores, stable=True)[:number]
            stay = torch.ones(len(left), dtype=torch.bool)
            stay[gone] = False
            inverse, weights = _without(inverse, weights, stay.repeat_interleave(size))
            left = left[stay]
        found.append(left)
    return found


def _cost(inverse: torch.Tensor, weights: torch.Tensor, size: int) -> torch.Tensor:
    """Loss gained by taking out each group alone, the rest refitted: (groups,)."""
    if size == 1:
        return weights.square().sum(1) / inverse.diagonal()
    groups = len(weights) // size
    blocks = inverse.reshape(groups, size, groups, size)
    own = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    parts = weights.reshape(groups, size, -1)
    raised: torch.Tensor = torch.linalg.solve(own, parts)
    return (parts * raised).sum((1, 2))


def _without(
    inverse: torch.Tensor, weights: torch.Tensor, stay: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inverse curvature and best weights of those that `stay`, the others at zero."""
    across = inverse[stay][:, ~stay]
    factor = torch.linalg.solve(inverse[~stay][:, ~stay], across.T).T
    return (
        inverse[stay][:, stay] - factor @ across.T,
        weights[stay] - factor @ weights[~stay],
    )
