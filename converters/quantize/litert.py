"""Quantized files for LiteRT, through its own quantizer, layer by layer where a recipe says so.

With a dynamic scheme the engine measures each row of activations itself, which is why it needs no
calibration and loses less than a scale for the whole tensor. Static schemes get their ranges from
our own observers, see `observers`: padded positions and masks are not counted among the values.
Only fully connected layers and embedding tables are quantized; norms, softmax, adds and the head
stay float. Layers have the names that the ONNX graph gives them, with one exception: the converter
calls query, key and value of a layer all `query`, so a pattern reaches the three or none.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.encoding import Encoded
from converters.quantize import Quantized
from converters.quantize.config import Options
from converters.quantize.litert_file import EMBEDDING, LINEAR, LiteRtLayer, layers_of, runs
from converters.quantize.observers import RANGES, Observer
from converters.quantize.scheme import Scheme, assign
from converters.quantize.slim import slim
from converters.quiet import quiet
from edge_runtime.errors import InputError

EVERYWHERE = 16
"""Texts that calibrate all entry points."""


def quantize_litert(
    model: bytes, calibration: tuple[Encoded, ...], *, options: Options
) -> Quantized:
    """`model` as `options` say.

    Raises:
        InputError: too few calibration texts for a static scheme, a pattern that matches nothing,
            or an option that this engine's quantizer does not know.
    """
    if options.smooth or options.rounding != "nearest":
        raise InputError("litert: smooth and rounding are for onnxruntime; leave them out")
    texts = calibration[: options.rows] if options.rows else calibration
    with quiet(), tempfile.TemporaryDirectory() as folder:
        from ai_edge_quantizer import quantizer

        path = Path(folder) / "model.tflite"
        path.write_bytes(model)
        layers = layers_of(model)
        schemes = assign(tuple(dict.fromkeys(one.name for one in layers)), options.scheme,
                         options.layers)  # fmt: skip
        work = quantizer.Quantizer(str(path))
        for layer in layers:
            _configure(work, layer, schemes[layer.name])
        if not any(scheme.activations != "float" for scheme in schemes.values()):
            return Quantized(model, {})
        static = any(scheme.activations == "static" for scheme in schemes.values())
        ranges = _ranges(model, layers, schemes, texts, options) if static else None
        quantized = bytes(work.quantize(ranges, enable_progress_report=False).quantized_model)
    named = {name for layer in layers for name in layer.tensors}
    return Quantized(slim(quantized, names=named), _notes(options, texts if static else ()))


def _configure(work: Any, layer: LiteRtLayer, scheme: Scheme) -> None:
    """Tell the quantizer of one layer; an embedding takes the weights' part of the scheme."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    # The pattern is looked for in the names of an operator's outputs, with ";" between them.
    where, op = f"^{re.escape(layer.output)}(;|$)", qtyping.TFLOperationName(layer.op)
    if scheme.activations == "float":
        return
    share = "BLOCKWISE_32" if scheme.block == 32 else "CHANNELWISE"
    if layer.op == EMBEDDING:
        share = "CHANNELWISE"
    granularity = qtyping.QuantGranularity(share)
    if scheme.kind == "f":
        casting = algorithm_manager.AlgorithmName.FLOAT_CASTING
        work.add_weight_only_config(where, op, 16, algorithm_key=casting)
    elif scheme.activations == "static" and layer.op == LINEAR:
        work.add_static_config(where, op, scheme.width, scheme.bits)
    elif scheme.activations == "weight" and layer.op == LINEAR:
        work.add_weight_only_config(where, op, scheme.bits, granularity)
    else:
        work.add_dynamic_config(where, op, scheme.bits, granularity)


def _ranges(
    model: bytes,
    layers: Sequence[LiteRtLayer],
    schemes: Mapping[str, Scheme],
    texts: Sequence[Encoded],
    options: Options,
) -> dict[str, dict[str, Any]]:
    """Tensor → min and max, each of the tensor's rank, as the quantizer wants them."""
    if len(texts) < 4:
        raise InputError(
            f"static quantization needs 4 or more calibration texts, found {len(texts)}"
        )
    widths: dict[str, int] = {}
    for layer in layers:
        if schemes[layer.name].activations == "static" and layer.op == LINEAR:
            ends = (layer.tensors[0], layer.output)
            widths |= dict.fromkeys(ends, schemes[layer.name].width)
    found = {}
    for name, (rank, observer) in _observe(model, widths, texts).items():
        low, high = RANGES[options.calibration](observer, 2 ** widths[name], options.percentile)
        shape = (1,) * rank
        found[name] = {"min": np.full(shape, low, np.float32),
                       "max": np.full(shape, high, np.float32)}  # fmt: skip
    return found


def _observe(
    model: bytes, names: Collection[str], texts: Sequence[Encoded]
) -> dict[str, tuple[int, Observer]]:
    """Rank and observer of each tensor; some texts in every entry point, cut where they must be.

    An entry point that only few texts reach would else have poor ranges, or none.
    """
    observers: dict[str, tuple[int, Observer]] = {}
    for run in runs(model, texts, everywhere=EVERYWHERE):
        for tensor in run.tensors(names):
            _, observer = observers.setdefault(tensor.name, (tensor.rank, Observer()))
            observer.see(tensor.rows)
    return observers


def _notes(options: Options, texts: Sequence[Encoded]) -> Mapping[str, float | int | str]:
    notes: dict[str, float | int | str] = {}
    if options.scheme.startswith("dynamic"):
        notes["activations"] = "per row, while running"
    if texts:
        notes |= {"calibration": options.calibration, "calibration_texts": len(texts)}
    if options.layers:
        notes["mixed"] = ", ".join(f"{k}: {v}" for k, v in options.layers.items())
    return notes
