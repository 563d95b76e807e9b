"""Take heads or neurons out of every layer and fit what is left to what the whole one answered.

Layer by layer: a layer sees what the pruned layers before it made of the texts, and is fitted so
that its answer and the residual beside it add up to what they did in the whole network; so a layer
makes good for what those before it lost. One pass over the texts, no gradients, as in SparseGPT
(Frantar & Alistarh 2023) and SliceGPT (Ashkboos et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from converters.anatomy import Layer, layers_of
from converters.prune.allocate import PROBED, rounded
from converters.prune.choose import activity, eliminate, norms, strongest
from converters.prune.moments import Moments
from converters.prune.parts import Part, cut, inputs_of, rows_before
from converters.prune.stream import Batch, reach, run

RIDGE = 0.1
"""Pull to the weights as they were, in units of the inputs' mean variance."""


@dataclass(frozen=True, slots=True)
class Method:
    """How parts are chosen, and whether the rest is refitted; as in the recipe."""

    criterion: str
    reconstruct: bool

    @property
    def looks(self) -> bool:
        """Whether texts are needed at all."""
        return self.reconstruct or self.criterion in ("obs", "activation")


def prune_layers(
    encoder: Any,
    part: Part,
    keep: Sequence[int],
    method: Method,
    batches: Sequence[Batch],
    done: Callable[[], None],
) -> tuple[tuple[int, ...], ...]:
    """Change `encoder` so that layer i has `keep[i]` of `part`; returns which, layer by layer.

    `batches` stand before the first layer; `done` is called after each layer.
    """
    layers = layers_of(encoder)
    whole = [batch.copy() for batch in batches]
    pruned = [batch.copy() for batch in batches]
    kept = []
    for layer, count in zip(layers, keep, strict=True):
        moments = watch(layer.copy(), whole, part, (layer, pruned)) if method.looks else None
        (chosen,) = choose(layer, part, [count], method, moments)
        if count < part.count(layer):
            shrink(layer, part, chosen, method, moments)
        for batch in pruned if method.looks else ():
            batch.hidden, _ = run(layer, batch)
        kept.append(tuple(chosen.tolist()))
        done()
    return tuple(kept)


def watch(
    original: Layer,
    whole: Sequence[Batch],
    part: Part,
    pruned: tuple[Layer, Sequence[Batch]] | None = None,
) -> Moments:
    """What a layer sees of the texts, against what `original` answers on `whole`, which moves on.

    `pruned` is the layer and where the texts are for it; without it that is `original` itself.
    """
    linear = original.linear(part.behind)
    moments = Moments(linear.in_features, linear.out_features)
    for place, batch in enumerate(whole):
        out, (behind, before) = run(original, batch, (part.behind, part.before[0]))
        if pruned:
            layer, batches = pruned
            residual, given = reach(layer, batches[place], (part.before[0], part.behind))
            moments.add(given, behind.answered + before.given - residual)
        else:
            moments.add(behind.given, behind.answered)
        batch.hidden = out
    return moments


def trials(
    layer: Layer, part: Part, step: int, method: Method, whole: Sequence[Batch]
) -> list[tuple[int, Layer]]:
    """Copies of the layer that lack some of `part`, by how many; `whole` moves on through it."""
    moments = watch(layer, whole, part)
    count = part.count(layer)
    keep = sorted({rounded(count, ratio, step) for ratio in PROBED} - {count}, reverse=True)
    found = []
    for chosen in choose(layer, part, keep, method, moments) if keep else []:
        trial = layer.copy()
        shrink(trial, part, chosen, method, moments)
        found.append((count - len(chosen), trial))
    return found


def choose(
    layer: Layer, part: Part, keep: list[int], method: Method, moments: Moments | None
) -> list[torch.Tensor]:
    """Which of `part` stay for each count in `keep`, descending: int64 indices, ascending."""
    size, weight = part.size(layer), layer.linear(part.behind).weight.detach()
    if method.criterion == "obs":
        assert moments is not None
        return eliminate(moments.quadratic(weight.T, ridge=RIDGE), keep, size=size)
    if method.criterion == "activation":
        assert moments is not None
        scores = activity(moments.energy, weight, size=size)
    else:
        order = {"l1": 1, "l2": 2}[method.criterion]
        scores = norms(rows_before(layer, part), weight, order=order, size=size)
    return [strongest(scores, count) for count in keep]


def shrink(
    layer: Layer, part: Part, kept: torch.Tensor, method: Method, moments: Moments | None
) -> None:
    """Take out what is not in `kept`; fit the map behind where the method says so."""
    refitted = None
    if method.reconstruct:
        assert moments is not None
        loss = moments.quadratic(layer.linear(part.behind).weight.detach().T, ridge=RIDGE)
        inputs = inputs_of(layer, part, kept)
        weights = loss.weights(inputs)
        refitted = (weights, loss.bias(inputs, weights))
    cut(layer, part, kept, refitted)
