"""LiteRT: the torch network through litert-torch, quantized by ai-edge-quantizer.

Shapes are fixed, so the file has an entry point for each length and a text runs in the smallest
that it fits into.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.compression.peer import Inputs, Runner
from benchmarks.compression.rows import FloatArray, Ids, padded, smallest

MODEL = "model.tflite"


def float_model(inputs: Inputs, out: Path) -> None:
    """The float model, converted."""
    from converters.export.litert import export_litert
    from converters.network import load_network

    network = load_network(inputs.encoder, inputs.head)
    (out / MODEL).write_bytes(export_litert(network, lengths=inputs.lengths))


def dynamic_wi8_afp32(inputs: Inputs, out: Path) -> None:
    """The quantizer's recipe of that name: INT8 weights, activations quantized while running."""
    from ai_edge_quantizer import quantizer, recipe

    float_model(inputs, out)
    work = quantizer.Quantizer(str(out / MODEL))
    work.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    (out / MODEL).write_bytes(bytes(work.quantize().quantized_model))


BUILDS: Mapping[str, Callable[[Inputs, Path], None]] = {
    "float": float_model,
    "dynamic_wi8_afp32": dynamic_wi8_afp32,
}


def files(folder: Path, variant: str) -> list[Path]:
    """See `peer.Module`."""
    return [folder / MODEL]


def load(folder: Path, variant: str) -> Runner:
    """See `peer.Module`."""
    return _LiteRtRunner(folder / MODEL)


class _LiteRtRunner:
    """A file with an entry point for each length, one thread."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter: Any = Interpreter(model_path=str(path), num_threads=1)
        self._runners: dict[int, Any] = {
            int(name.rpartition("_")[2]): self._interpreter.get_signature_runner(name)
            for name in self._interpreter.get_signature_list()
        }

    def __call__(self, ids: Ids, /) -> FloatArray:
        length = smallest(tuple(self._runners), len(ids))
        row, mask = (one.astype("int32") for one in padded(ids, length))
        values = self._runners[length](input_ids=row, attention_mask=mask)
        found: FloatArray = next(iter(values.values()))[0]
        return found
