"""Train through quantized weights and activations: what rounding will do, the student learns with.

Weights are rounded per output channel, symmetric, in a narrow range; activations per row (a token's
vector), 8 bits, with a zero point, as LiteRT's and XNNPACK's dynamic kernels do when they run. The
gradient passes straight through (Bengio et al. 2013; Jacob et al. 2018). What is saved afterwards
are the float weights: quantizing them is a later pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from converters.anatomy import ROLES, layers_of

if TYPE_CHECKING:
    from converters.distil.student import Learner

WEIGHT_BITS = {"w8a8": 8, "w4a8": 4}
LEVELS = 255
"""Steps of an activation of 8 bits."""


def rounded_weight(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """(out, in) rounded to ±(2**(bits−1) − 1) steps of each row's own scale; straight gradient.

    A row of zeros stays.
    """
    top = 2 ** (bits - 1) - 1
    with torch.no_grad():
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / top
        error: torch.Tensor = torch.round(weight / scale) * scale - weight
    return weight + error


def rounded_rows(values: torch.Tensor) -> torch.Tensor:
    """(…, width) rounded to 256 steps between each row's own extremes, 0 among them; straight."""
    with torch.no_grad():
        low = values.amin(dim=-1, keepdim=True).clamp(max=0)
        high = values.amax(dim=-1, keepdim=True).clamp(min=0)
        scale = ((high - low) / LEVELS).clamp(min=1e-12)
        zero = torch.round(-low / scale)
        steps = (torch.round(values / scale) + zero).clamp(0, LEVELS)
        error: torch.Tensor = (steps - zero) * scale - values
    return values + error


class FakeLinear(torch.nn.Linear):
    """A linear map that computes with rounded weights and rounded inputs; its own are float."""

    def __init__(self, plain: torch.nn.Linear, bits: int) -> None:
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None)
        self.weight, self.bias = plain.weight, plain.bias
        self.bits = bits

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        with torch.autocast(values.device.type, enabled=False):  # 8 bits of mantissa round too
            told, weight = rounded_rows(values.float()), rounded_weight(self.weight, self.bits)
        return torch.nn.functional.linear(told, weight, self.bias)


class FakeEmbedding(torch.nn.Embedding):
    """An embedding that looks up rounded rows; its own are float."""

    def __init__(self, plain: torch.nn.Embedding, bits: int) -> None:
        rows, width = plain.weight.shape
        super().__init__(rows, width, plain.padding_idx, _weight=plain.weight)
        self.weight = plain.weight
        self.bits = bits

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return rounded_weight(super().forward(ids).flatten(0, 1), self.bits).view(*ids.shape, -1)


def put_fakes(learner: Learner, scheme: str) -> None:
    """Every linear map of the layers, the heads and the word embedding round from now on.

    `scheme` is a key of `WEIGHT_BITS`. Parameters stay the same objects, under the same names.
    """
    bits = WEIGHT_BITS[scheme]
    encoder = learner.observed.encoder
    for layer in layers_of(encoder):
        for role in ROLES:
            layer.replace(role, _with_hooks(layer.linear(role), bits))
    encoder.set_input_embeddings(FakeEmbedding(encoder.get_input_embeddings(), bits))
    for name, head in learner.heads.items():
        assert isinstance(head, torch.nn.Linear)
        learner.heads[name] = FakeLinear(head, bits)


def _with_hooks(plain: torch.nn.Linear, bits: int) -> FakeLinear:
    """The fake in the place of `plain`, looked at by those who look at `plain`."""
    fake = FakeLinear(plain, bits)
    fake._forward_hooks = plain._forward_hooks
    return fake
