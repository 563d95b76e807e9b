"""From a float file to a quantized one: one function an engine, told what to do by `Options`.

What a scheme's name means is in `scheme`; what a recipe may say in `config`. Each engine's function
takes the float file, calibration samples and options, and reads them all the same way.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from converters.quantize.config import Options
from converters.quantize.samples import Sample
from converters.quantize.scheme import SCHEMES, known_scheme, refusal
from edge_runtime.errors import InputError

Note: TypeAlias = float | int | str | list[str]


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized file, and figures of how it came about for the report."""

    model: bytes
    notes: Mapping[str, Note]


Quantizer: TypeAlias = Callable[[bytes, Sequence[Sample]], Quantized]
"""(float model, calibration samples) → quantized model."""

ENGINES: Mapping[str, str] = {
    "onnxruntime": "converters.quantize.onnxruntime:quantize_onnx",
    "litert": "converters.quantize.litert:quantize_litert",
}
QUANTIZERS: Mapping[tuple[str, str], str] = {
    (engine, scheme): path for engine, path in ENGINES.items() for scheme in SCHEMES[engine]
}
"""Engine and scheme → what makes it."""


def quantizer(backend: str, recipe: str | Options) -> Quantizer:
    """The function that quantizes for `backend` as the scheme or the options `recipe` say.

    Raises:
        InputError: no such pair; the known schemes of the engine are listed.
    """
    options = Options(recipe).over("") if isinstance(recipe, str) else recipe
    module, _, name = quantizer_path(backend, options.scheme).partition(":")
    return partial(getattr(importlib.import_module(module), name), options=options)


def quantizer_path(backend: str, recipe: str) -> str:
    """The import path of that function; nothing is imported.

    Raises:
        InputError: as for `quantizer`.
    """
    if backend not in ENGINES or not known_scheme(backend, recipe):
        raise InputError(refusal(backend, recipe))
    return ENGINES[backend]
