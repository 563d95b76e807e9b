"""A text network as an ONNX file, exported by Optimum instead of torch's exporter alone.

Optimum knows, architecture by architecture, which parts of a model must be patched while it is
traced. Its own configuration for the encoder is kept; only inputs and outputs are replaced by
ours, so the file has the same interface as that of `export.onnx`: pooled, and headed where there
is a head. Optimum is an extra of its own, because it pins an older transformers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from converters.export import OPSETS, require_optimum
from converters.network import TextNetwork
from converters.quiet import quiet
from edge_runtime.errors import InputError

FREE = {0: "batch", 1: "sequence"}
TASK = "feature-extraction"
SAMPLE = {"batch_size": 2, "sequence_length": 7}
"""Sizes that no weight has, so that a dim can't be mistaken."""


class _Configured(torch.nn.Module):
    """The network with its encoder's configuration, where Optimum looks for it."""

    def __init__(self, network: TextNetwork) -> None:
        super().__init__()
        self.network = network
        self.config = network.encoder.config

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        outputs: dict[str, torch.Tensor] = self.network(input_ids, attention_mask)
        return outputs


def export_optimum(network: TextNetwork, *, opset: int) -> bytes:
    """The network as ONNX: int64 inputs (batch, sequence), one float32 output.

    Raises:
        InputError: Optimum is not installed, does not know the architecture, or cannot write
            this opset.
    """
    require_optimum()
    if opset not in OPSETS:
        raise InputError(f"opset {opset}: expected {OPSETS.start}..{OPSETS.stop - 1}")
    model = _Configured(network).eval()
    with quiet(), tempfile.TemporaryDirectory() as folder:
        from optimum.exporters.onnx.convert import export

        path = Path(folder) / "model.onnx"
        config = _interface(model.config, network.output_name)
        export(model, config, path, opset=opset, input_shapes=dict(SAMPLE))
        network.eval()  # the exporter leaves modules in train mode
        return path.read_bytes()


def _interface(config: Any, output: str) -> Any:
    """Optimum's configuration for the encoder, with our inputs and output."""
    from optimum.exporters.tasks import TasksManager

    try:
        known = TasksManager.get_exporter_config_constructor(
            "onnx", model_type=config.model_type, task=TASK, library_name="transformers"
        )
    except (KeyError, ValueError):
        raise InputError(
            f"exporter optimum: architecture {config.model_type!r} is not known to it; "
            'use exporter = "torch"'
        ) from None

    class Interface(known.func):  # type: ignore[misc, name-defined]
        """Two inputs, one pooled output."""

        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {"input_ids": FREE, "attention_mask": FREE}

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {output: {0: "batch"}}

    return Interface(config, task=TASK)
