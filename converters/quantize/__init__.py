"""From a float file to an integer one: the recipes by name, one table for each engine.

A recipe's name decodes: when activations get their scale (dynamic, static), the bits of weights
and activations (w8, w8a8), the granularity of the weights (channel, tensor), and what prepares the
weights (smooth). `QUANTIZERS` maps engine and recipe to a function, read lazily.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from converters.encoding import Encoded
from edge_runtime.errors import InputError


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized file, and figures of how it came about for the report."""

    model: bytes
    notes: Mapping[str, float | int | str]


Quantizer: TypeAlias = Callable[[bytes, tuple[Encoded, ...]], Quantized]
"""(float model, calibration inputs) → quantized model."""

QUANTIZERS: Mapping[tuple[str, str], str] = {
    ("onnxruntime", "dynamic_w8_channel"): "converters.quantize.onnxruntime:dynamic_w8_channel",
    ("onnxruntime", "smooth_dynamic_w8_channel"): (
        "converters.quantize.onnxruntime:smooth_dynamic_w8_channel"
    ),
    ("litert", "dynamic_w8_channel"): "converters.quantize.litert:dynamic_w8_channel",
}


def quantizer(backend: str, recipe: str) -> Quantizer:
    """The function of `recipe` for `backend`.

    Raises:
        InputError: no such pair; the known recipes of the engine are listed.
    """
    module, _, name = quantizer_path(backend, recipe).partition(":")
    found: Quantizer = getattr(importlib.import_module(module), name)
    return found


def quantizer_path(backend: str, recipe: str) -> str:
    """The import path of that function; nothing is imported.

    Raises:
        InputError: as for `quantizer`.
    """
    target = QUANTIZERS.get((backend, recipe))
    if target is None:
        known = sorted(name for engine, name in QUANTIZERS if engine == backend)
        raise InputError(
            f"quantization {recipe!r} is not known for engine {backend}; "
            f"known are {', '.join(known) or 'none'}"
        )
    return target
