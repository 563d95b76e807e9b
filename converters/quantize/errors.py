"""The error of every layer, float against quantized: tensors of the same name, on the same texts.

It is what has gathered up to the layer's output, not what the layer alone adds; that is
`sensitivity`. SQNR is in dB: 10 · log10(signal power / power of the difference).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from converters.ort import open_session
from converters.quantize.graph import Graph, find_layers
from converters.quantize.litert_file import layer_tensors, layers_of
from converters.quantize.onnxruntime import prepare
from converters.quantize.samples import Sample

MOST_DB = 150.0
"""Of two tensors that are the same."""


@dataclass(frozen=True, slots=True)
class LayerError:
    """`sqnr_db` of a layer's output, and the difference's norm over the signal's."""

    layer: str
    sqnr_db: float
    relative: float


Pairs = Iterable[tuple[str, npt.NDArray[np.float32], npt.NDArray[np.float32]]]


def layer_errors(
    backend: str, model: bytes, quantized: bytes, texts: Sequence[Sample]
) -> tuple[LayerError, ...]:
    """One error a layer that both files have, in the order of the graph; float32 tensors only."""
    powers: dict[str, tuple[float, float]] = {}
    for layer, signal, found in PAIRS[backend](model, quantized, texts):
        power, noise = powers.get(layer, (0.0, 0.0))
        exact = signal.astype(np.float64)
        powers[layer] = (
            power + float((exact**2).sum()),
            noise + float(((exact - found) ** 2).sum()),
        )
    return tuple(LayerError(layer, _db(*both), _ratio(*both)) for layer, both in powers.items())


def _onnx_pairs(model: bytes, quantized: bytes, texts: Sequence[Sample]) -> Pairs:
    opened = prepare(model)
    there = {name for node in Graph(quantized).proto.graph.node for name in node.output}
    layers = [one for one in find_layers(Graph(opened).proto) if one.output in there]
    names = [one.output for one in layers]
    sessions = [open_session(file, extra_outputs=names) for file in (opened, quantized)]
    for text in texts:
        runs = [session.run(names, text.tensors()) for session in sessions]
        for layer, signal, found in zip(layers, *runs, strict=True):
            yield layer.name, signal, found


def _litert_pairs(model: bytes, quantized: bytes, texts: Sequence[Sample]) -> Pairs:
    names = {layer.output for layer in layers_of(model)}
    both = [layer_tensors(file, texts, names) for file in (model, quantized)]
    for signals, found in zip(*both, strict=True):
        for layer, tensors in signals.items():
            for signal, other in zip(tensors, found.get(layer, []), strict=False):
                yield layer, signal, other


PAIRS: Mapping[str, Callable[[bytes, bytes, Sequence[Sample]], Pairs]] = {
    "onnxruntime": _onnx_pairs,
    "litert": _litert_pairs,
}


def _db(power: float, noise: float) -> float:
    if noise <= 0 or power <= 0:
        return MOST_DB if noise <= 0 else -MOST_DB
    return min(10 * math.log10(power / noise), MOST_DB)


def _ratio(power: float, noise: float) -> float:
    return math.sqrt(noise / power) if power > 0 else math.inf if noise > 0 else 0.0
