"""The student: the model as it is, or with fewer layers, or narrower; and what is seen of it.

`Observed` wraps an encoder so that one call returns everything that a loss may ask for. It is used
for student and teacher alike, so both are looked at in the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from converters.anatomy import keep_layers, layers_of
from converters.distil.config import DistilConfig
from converters.distil.narrow import narrow
from converters.model import Job, TextModel
from converters.network import TextNetwork, load_encoder, load_head, mean_pool
from edge_runtime.errors import InputError

RELATED = ("query", "key", "value")


def make_student(model: TextModel, config: DistilConfig, job: Job) -> TextNetwork:
    """The network that will be trained, in eval mode, without the parts that are not kept.

    Raises:
        InputError: it has not the layers that are to be kept, or cannot be made that narrow.
    """
    network = TextNetwork(
        load_encoder(model.encoder), load_head(model.head.parent) if model.head else None
    )
    count = len(layers_of(network.encoder))
    if config.layers:
        keep_layers(network.encoder, config.layers)
    elif config.depth:
        keep_layers(network.encoder, spread(config.depth, count))
    if config.width:
        network = narrow(network, config.width, model, job)
    return network


def spread(depth: int, count: int) -> list[int]:
    """`depth` of `count` layers, evenly spaced, the first and the last among them.

    Raises:
        InputError: there are fewer layers.
    """
    if depth > count:
        raise InputError(f"distil: depth is {depth}, the encoder has {count} layers")
    if depth == 1:
        return [0]
    return [round(place * (count - 1) / (depth - 1)) for place in range(depth)]


class Observed(torch.nn.Module):
    """An encoder and, of each call, its pooled output, hidden states and relations where wanted.

    `forward` returns a dict: `pooled` (rows, hidden) float32; `hidden.0`… (rows, tokens, hidden),
    one more than there are layers; `query`, `key`, `value` (rows, tokens, width) of the last layer.
    """

    def __init__(self, encoder: Any, *, hidden: bool, relation: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self._hidden = hidden
        self._seen: dict[str, torch.Tensor] = {}
        if relation:
            for role in RELATED:
                layers_of(encoder)[-1].linear(role).register_forward_hook(self._remember(role))

    def _remember(self, role: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self._seen[role] = output

        return hook

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        self._seen.clear()
        found = self.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=self._hidden)
        seen = {"pooled": mean_pool(found[0].float(), mask)}
        if self._hidden:
            states: Sequence[torch.Tensor] = found.hidden_states
            seen |= {f"hidden.{place}": state for place, state in enumerate(states)}
        seen |= self._seen
        self._seen.clear()
        return seen


def states_of(seen: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The hidden states, the embedding's first."""
    count = sum(name.startswith("hidden.") for name in seen)
    return [seen[f"hidden.{place}"] for place in range(count)]


class Learner(torch.nn.Module):
    """What is trained: encoder, heads by task, and projections to the teacher's width.

    `forward` returns what `Observed` does, with `logits.NAME` (rows, classes) for each head and,
    where there are projections, `pooled` and the hidden states in the teacher's width.
    """

    def __init__(
        self,
        observed: Observed,
        heads: dict[str, torch.nn.Linear],
        projections: Sequence[torch.nn.Linear] = (),
    ) -> None:
        super().__init__()
        self.observed = observed
        self.heads = torch.nn.ModuleDict(heads)
        self.projections = torch.nn.ModuleList(projections)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = self.observed(ids, mask)
        with torch.autocast(ids.device.type, enabled=False):
            seen |= {f"logits.{name}": head(seen["pooled"]) for name, head in self.heads.items()}
            if self.projections:
                self._widen(seen)
        return dict(seen)

    def _widen(self, seen: dict[str, torch.Tensor]) -> None:
        *layers, pooled = self.projections
        seen["pooled"] = pooled(seen["pooled"])
        for place, state in enumerate(states_of(seen)):
            seen[f"hidden.{place}"] = layers[place](state.float())
