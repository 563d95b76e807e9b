"""A text network as an ONNX file with free batch and sequence dims.

The legacy exporter with eager attention is used on purpose: ONNX Runtime's fusion recognizes its
graph whole (every Attention and LayerNorm), and none of the newer exporter's. The bytes depend on
the network and the opset only.
"""

from __future__ import annotations

import io
from typing import Any

import torch

from converters.export import OPSETS
from converters.network import TextNetwork
from converters.quiet import quiet
from edge_runtime.errors import InputError


class _Plain(torch.nn.Module):
    """The network with a tensor for an output: the legacy exporter names outputs itself."""

    def __init__(self, network: TextNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.network(input_ids, attention_mask)[self.network.output_name]
        return output


def export_onnx(network: TextNetwork, *, opset: int) -> bytes:
    """The network as ONNX: int64 inputs (batch, sequence), one float32 output.

    Raises:
        InputError: the exporter cannot write this opset.
    """
    if opset not in OPSETS:
        raise InputError(f"opset {opset}: expected {OPSETS.start}..{OPSETS.stop - 1}")
    # Seven tokens in two rows: sizes that no weight has, so that a dim can't be mistaken.
    sample = tuple(torch.ones(2, 7, dtype=torch.int64) for _ in range(2))
    free = {0: "batch", 1: "sequence"}
    out: Any = io.BytesIO()  # the legacy exporter takes one; the signature knows paths only
    network.eval()
    with quiet():
        torch.onnx.export(
            _Plain(network).eval(),
            sample,
            out,
            input_names=["input_ids", "attention_mask"],
            output_names=[network.output_name],
            dynamic_axes={
                "input_ids": free,
                "attention_mask": free,
                network.output_name: {0: "batch"},
            },
            opset_version=opset,
            dynamo=False,
        )
    network.eval()  # the exporter leaves modules in train mode
    return bytes(out.getvalue())
