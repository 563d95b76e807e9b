"""What the network's output loses when one layer alone is pruned, layer by layer, ratio by ratio.

Each layer is chosen from and refitted as the pass would, on what the layers of the whole network
before it make of the texts; the rest of the network then runs on some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from converters.anatomy import Layer, layers_of
from converters.prune.allocate import Curve
from converters.prune.stream import Batch, finish

Trials: TypeAlias = Callable[[Layer, Sequence[Batch]], list[tuple[int, Layer]]]
"""A layer and the texts before it → by how much of it is gone, copies; the texts move on."""
JUDGED = 64
"""About how many texts the rest of the network runs on."""


def distance(pruned: torch.Tensor, whole: torch.Tensor, head: torch.nn.Linear | None) -> float:
    """How far pooled outputs, (texts, hidden), are from those of the whole network, a mean.

    With a head the divergence (KL, in nats) of its classes' probabilities, else 1 - cosine.
    """
    if head is None:
        return float(1 - torch.nn.functional.cosine_similarity(pruned, whole).mean())
    with torch.inference_mode():
        there, here = (head(one).log_softmax(-1) for one in (whole, pruned))
    return float((there.exp() * (there - here)).sum(-1).mean())


def judges(batches: Sequence[Batch]) -> list[int]:
    """Places of the batches to judge by, spread evenly over all lengths, `JUDGED` texts or more."""
    texts = sum(len(batch.order) for batch in batches)
    every = max(1, texts // JUDGED)
    return list(range(every // 2, len(batches), every))


def measure(
    encoder: Any,
    trials: Trials,
    batches: Sequence[Batch],
    head: torch.nn.Linear | None,
    done: Callable[[], None],
) -> list[Curve]:
    """One curve a layer. `encoder` and `batches`, before its first layer, stay as they are."""
    layers = layers_of(encoder)
    whole = [batch.copy() for batch in batches]
    judged = judges(batches)
    reference = _pooled(layers, [batches[place] for place in judged])
    curves = []
    for index, layer in enumerate(layers):
        before = [whole[place].copy() for place in judged]
        points = [(0, 0.0)]
        for removed, trial in trials(layer, whole):
            pooled = _pooled([trial, *layers[index + 1 :]], before)
            points.append((removed, max(0.0, distance(pooled, reference, head))))
        curves.append(Curve(tuple(points)))
        done()
    return curves


def _pooled(layers: Sequence[Layer], batches: Sequence[Batch]) -> torch.Tensor:
    """The pooled outputs of the batches' texts, in the batches' order: (texts, hidden)."""
    renumbered, start = [], 0
    for batch in batches:
        moved = batch.copy()
        moved.order = tuple(range(start, start + len(batch.order)))
        start += len(batch.order)
        renumbered.append(moved)
    return finish(layers, renumbered)
