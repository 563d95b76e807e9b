"""Set single weights of every layer to zero; the graph keeps its shape.

Zeros make a file smaller once it is compressed and let sparse tensor cores skip (2:4, two of every
four along the inputs); a CPU's kernels multiply them like any other weight. The mask is magnitude,
|w|·‖x‖ (Wanda, Sun et al. 2023), or Optimal Brain Surgeon's saliency; the weights that stay can
make good for those that go (SparseGPT, Frantar & Alistarh 2023).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from converters.anatomy import ROLES, Layer, layers_of
from converters.prune.allocate import PROBED
from converters.prune.moments import Moments
from converters.prune.stream import Batch, reach, run
from converters.prune.structured import Method

DAMPING = 0.01
"""Added to the inputs' second moment, in units of its mean diagonal, as in SparseGPT."""
BLOCK = 128
"""Columns whose zeros are chosen together, where choosing and refitting take turns."""


def sparsify(
    encoder: Any,
    shares: Sequence[float],
    pattern: bool,
    method: Method,
    batches: Sequence[Batch],
    done: Callable[[], None],
) -> None:
    """Change `encoder` so that `shares[i]` of the weights of layer i's linear maps are zero.

    With `pattern` it is two of every four instead. `batches` stand before the first layer.
    """
    moving = [batch.copy() for batch in batches]
    for layer, share in zip(layers_of(encoder), shares, strict=True):
        moments = _inputs(layer, moving) if method.looks else {}
        _thin(layer, share, pattern, method, moments)
        for batch in moving if method.looks else ():
            batch.hidden, _ = run(layer, batch)
        done()


def trials(layer: Layer, method: Method, whole: Sequence[Batch]) -> list[tuple[int, Layer]]:
    """Copies of the layer with some weights zero, by how many; `whole` moves on through it."""
    moments = _inputs(layer, whole)
    found = []
    for share in PROBED:
        trial = layer.copy()
        _thin(trial, share, False, method, moments)
        found.append((zeros(trial)[0], trial))
    for batch in whole:
        batch.hidden, _ = run(layer, batch)
    return found


def _thin(
    layer: Layer, share: float, pattern: bool, method: Method, moments: Mapping[str, Moments]
) -> None:
    """Put zeros into each linear map of the layer."""
    for role in ROLES:
        weight = layer.linear(role).weight
        with torch.no_grad():
            weight.copy_(_thinned(weight, share, pattern, method, moments.get(role)))


def zeros(layer: Layer) -> tuple[int, int]:
    """Weights of the layer's linear maps that are zero, and all."""
    weights = [layer.linear(role).weight for role in ROLES]
    return sum(int((one == 0).sum()) for one in weights), sum(one.numel() for one in weights)


def global_shares(encoder: Any, ratio: float) -> list[float]:
    """Each layer's share of the smallest `ratio` of all layers' weights, by magnitude."""
    layers = [
        torch.cat([layer.linear(role).weight.detach().abs().flatten() for role in ROLES])
        for layer in layers_of(encoder)
    ]
    every = torch.cat(layers)
    if not (number := round(ratio * len(every))):
        return [0.0] * len(layers)
    threshold = every.kthvalue(number).values
    return [float((one <= threshold).double().mean()) for one in layers]


def packed_bytes(encoder: Any) -> int:
    """Size of the layers' linear weights, float32, after fast general compression."""
    weights = (layer.linear(role).weight for layer in layers_of(encoder) for role in ROLES)
    return sum(len(zlib.compress(one.detach().numpy().tobytes(), 1)) for one in weights)


def _inputs(layer: Layer, batches: Sequence[Batch]) -> dict[str, Moments]:
    """What each map of the layer is given, by role; those that are given the same share it."""
    groups = {"query": ("query", "key", "value"), "output": ("output",)}
    groups |= {"up": ("up",), "down": ("down",)}
    found = {role: Moments(layer.linear(role).in_features, 0) for role in groups}
    for batch in batches:
        for role, given in zip(groups, reach(layer, batch, list(groups)), strict=True):
            found[role].add(given, given[:, :0])
    return {role: found[first] for first, roles in groups.items() for role in roles}


def _thinned(
    weight: torch.Tensor, share: float, pattern: bool, method: Method, seen: Moments | None
) -> torch.Tensor:
    """The weight, (out, in), with its zeros."""
    weight = weight.detach()
    if method.criterion == "obs":
        assert seen is not None
        return compensated(weight, _factor(seen), lambda scores: mask(scores, share, pattern))
    scores = weight.abs()
    if method.criterion == "activation":
        assert seen is not None
        scores = scores * seen.energy.sqrt().float()
    keep = mask(scores, share, pattern, rows=method.criterion == "activation")
    if not method.reconstruct:
        return weight * keep
    assert seen is not None
    return compensated(weight, _factor(seen), keep)


def mask(scores: torch.Tensor, share: float, pattern: bool, *, rows: bool = False) -> torch.Tensor:
    """True where a weight stays: all but the lowest `share` of `scores`, (out, in).

    With `pattern` the two highest of every four along the inputs stay, and all of an incomplete
    four; with `rows` every output loses the same share.
    """
    keep = torch.ones_like(scores, dtype=torch.bool)
    if pattern:
        whole = scores.shape[1] // 4 * 4
        fours = scores[:, :whole].reshape(len(scores), -1, 4)
        lowest = fours.argsort(dim=2, stable=True)[..., :2]
        chosen = torch.ones_like(fours, dtype=torch.bool).scatter(2, lowest, False)
        keep[:, :whole] = chosen.reshape(len(scores), whole)
        return keep
    table = scores if rows else scores.reshape(1, -1)
    lowest = table.argsort(dim=1, stable=True)[:, : round(share * table.shape[1])]
    return keep.reshape(table.shape).scatter(1, lowest, False).reshape(scores.shape)


def _factor(seen: Moments) -> torch.Tensor:
    """The upper Cholesky factor of the inverse second moment of the inputs, (in, in)."""
    moment = seen.squares / seen.count
    moment.diagonal().add_(DAMPING * moment.diagonal().mean().clamp(min=1e-12))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def compensated(
    weight: torch.Tensor,
    factor: torch.Tensor,
    keep: torch.Tensor | Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The weight, (out, in), column by column set to zero, the columns to the right making up.

    `keep` is the mask, or says it for each block of `BLOCK` columns from their saliency by then.
    """
    done = weight.clone()
    diagonal = factor.diagonal()
    for start in range(0, done.shape[1], BLOCK):
        end = min(start + BLOCK, done.shape[1])
        if isinstance(keep, torch.Tensor):
            block = keep[:, start:end]
        else:
            block = keep((done[:, start:end] / diagonal[start:end]).square())
        errors = torch.zeros(len(done), end - start)
        for column in range(start, end):
            errors[:, column - start] = (
                done[:, column] * ~block[:, column - start] / diagonal[column]
            )
            error = errors[:, column - start]
            done[:, column:end] -= torch.outer(error, factor[column, column:end])
            done[:, column] *= block[:, column - start]
        done[:, end:] -= errors @ factor[start:end, end:]
    return done
