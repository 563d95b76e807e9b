"""A text network as one LiteRT file with an entry point for each sequence length.

LiteRT's shapes are fixed, so the network is traced once a length; the entry points, called
`tokens_<length>`, share their weights in the file. Batch is 1, inputs are int32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from converters.network import TextNetwork
from converters.quiet import quiet
from edge_runtime.bundle.manifest import Signature


def signatures(lengths: Sequence[int]) -> tuple[Signature, ...]:
    """The entry points of a file that `export_litert` writes, shortest first."""
    return tuple(Signature(f"tokens_{n}", {"sequence": n}) for n in sorted(lengths))


def export_litert(network: TextNetwork, *, lengths: Sequence[int]) -> bytes:
    """The network as a .tflite file, float32 weights, one signature for each of `lengths`."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        import litert_torch

        network.eval()
        converter = litert_torch._convert.interface.Converter()
        for signature in signatures(lengths):
            shape = (1, signature.dims["sequence"])
            # Two tensors: one that is passed twice would be traced as a single input.
            inputs = {
                name: torch.ones(shape, dtype=torch.int64)
                for name in ("input_ids", "attention_mask")
            }
            converter.signature(signature.name, network, sample_kwargs=inputs)
        path = Path(folder) / "model.tflite"
        converter.convert().export(str(path))
        return path.read_bytes()
