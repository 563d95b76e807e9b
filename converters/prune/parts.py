"""The two parts of a layer that can be taken out whole, and how: attention heads, FFN neurons.

Both are groups of inputs of one linear map, made by the rows of those before it: a neuron is one
input of `down`, made by a row of `up`; a head is `head_size` inputs of `output`, made by as many
rows of `query`, `key` and `value`. So one way of choosing and refitting serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from converters.anatomy import Layer
from edge_runtime.errors import InputError


@dataclass(frozen=True, slots=True)
class Part:
    """`behind` is the map that is refitted, `before` the maps that lose rows.

    What goes into `before` is also what is added to the answer of `behind` (the residual).
    """

    name: str
    behind: str
    before: tuple[str, ...]

    def size(self, layer: Layer) -> int:
        """Inputs of `behind` that one of them is."""
        return layer.head_size if self.name == "heads" else 1

    def count(self, layer: Layer) -> int:
        """How many the layer has."""
        return layer.shape.heads if self.name == "heads" else layer.shape.intermediate

    def parameters(self, layer: Layer) -> int:
        """Weights and biases that go with one of them."""
        row = layer.linear(self.before[0]).in_features + 1
        column = layer.linear(self.behind).out_features
        return self.size(layer) * (row * len(self.before) + column)


PARTS = {
    "heads": Part("heads", "output", ("query", "key", "value")),
    "neurons": Part("neurons", "down", ("up",)),
}


def check(layers: list[Layer], part: Part) -> None:
    """Refuse what would break a network.

    Raises:
        InputError: heads of an architecture whose layers share one position bias.
    """
    if part.name == "heads" and not layers[0].anatomy.prunable:
        raise InputError(
            "parts = heads: this architecture's layers share one relative position bias, "
            "so heads cannot go; neurons and weights can"
        )


def rows_before(layer: Layer, part: Part) -> torch.Tensor:
    """The weights that make each input of `behind`, side by side: (inputs, anything)."""
    return torch.cat([layer.linear(role).weight.detach() for role in part.before], dim=1)


def inputs_of(layer: Layer, part: Part, kept: torch.Tensor) -> torch.Tensor:
    """The inputs of `behind` that the groups in `kept` are, int64."""
    size = part.size(layer)
    return (kept.unsqueeze(1) * size + torch.arange(size)).flatten()


def cut(
    layer: Layer,
    part: Part,
    kept: torch.Tensor,
    refitted: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> None:
    """Take every group out of the layer that is not in `kept`, int64 ascending.

    `refitted` is weights (kept inputs, outputs) and bias (outputs,) of the map behind; without it
    that map keeps its own.
    """
    inputs = inputs_of(layer, part, kept)
    for role in part.before:
        old = layer.linear(role)
        layer.replace(role, _linear(old.weight[inputs], old.bias[inputs]))
    old = layer.linear(part.behind)
    if refitted:
        layer.replace(part.behind, _linear(refitted[0].T, refitted[1]))
    else:
        layer.replace(part.behind, _linear(old.weight[:, inputs], old.bias))
    if part.name == "heads":
        layer.set_heads(len(kept))


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> torch.nn.Linear:
    """A linear map of these, float32."""
    made = torch.nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made
