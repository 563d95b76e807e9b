"""Quantized files for LiteRT, through its own quantizer, layer by layer where a recipe says so.

With a dynamic scheme the engine measures each row of activations itself, which is why it needs no
calibration and loses less than a scale for the whole tensor. Static schemes get their ranges from
our own observers, see `observers`: padded positions and masks are not counted among the values.

What is in the file decides, see `plan_of`. Of a transformer only layers with weights are quantized:
norms, softmax, adds and the head stay float, which is faster and closer on a CPU. A static scheme
takes the whole of every other net, so that tensors stay in integers from one operator to the next.
With `integer` all of any net, its inputs and outputs too: what accelerators without floats need.

Layers have the names that the ONNX graph gives them, with one exception: the converter calls query,
key and value of a layer all `query`, so a pattern reaches the three or none.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.operators import float_operators
from converters.quantize import Note, Quantized
from converters.quantize.config import Options
from converters.quantize.litert_file import (
    EMBEDDING,
    LINEAR,
    LiteRtLayer,
    activations_of,
    clamp_masks,
    is_transformer,
    layers_of,
    runs,
)
from converters.quantize.observers import RANGES, Observer
from converters.quantize.samples import Sample
from converters.quantize.scheme import FLOAT, Scheme, assign, parse_scheme
from converters.quantize.slim import slim
from converters.quiet import quiet
from edge_runtime.errors import InputError

EVERYWHERE = 16
"""Samples that calibrate all entry points."""
MIN_SAMPLES = 4
OPERATION = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}
"""Operator → what the quantizer calls it, where that is something else."""
BORDER = ("INPUT", "OUTPUT")
NOT_DYNAMIC = ("DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
"""No fast kernel measures scales while it runs: with a dynamic scheme they compute in float."""
FOUR_BIT = (LINEAR, EMBEDDING, "CONV_2D")
"""Operators that the engine computes with weights of four bits; others get eight."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What of a file is quantized how: `base` for every operator, or None; then each layer."""

    base: Scheme | None
    border: bool
    layers: tuple[LiteRtLayer, ...]
    schemes: Mapping[str, Scheme]

    @property
    def static(self) -> bool:
        """Whether ranges are needed."""
        some = (self.base, *self.schemes.values())
        return any(one is not None and one.activations == "static" for one in some)


def plan_of(model: bytes, options: Options) -> Plan:
    """The one place where it is decided what becomes of which operators."""
    layers = layers_of(model)
    names = tuple(dict.fromkeys(one.name for one in layers))
    schemes = assign(names, options.scheme, options.layers)
    base = parse_scheme(options.scheme)
    whole = base.activations == "static" and (options.integer or not is_transformer(model))
    return Plan(base if whole else None, options.integer, layers, schemes)


def quantize_litert(model: bytes, calibration: Sequence[Sample], *, options: Options) -> Quantized:
    """`model` as `options` say; notes name the operators that stayed float, where none should.

    Raises:
        InputError: too few calibration samples for a static scheme, a pattern that matches nothing,
            an option that this engine's quantizer does not know, or a file that it cannot take.
    """
    if options.smooth or options.rounding != "nearest":
        raise InputError("litert: smooth and rounding are for onnxruntime; leave them out")
    if options.integer and not options.scheme.startswith("static"):
        raise InputError(
            f"litert: integer needs a static scheme, such as static_w8a8_channel; found "
            f"{options.scheme}"
        )
    texts = calibration[: options.rows] if options.rows else calibration
    with quiet(), tempfile.TemporaryDirectory() as folder:
        from ai_edge_quantizer import quantizer

        plan = plan_of(model, options)
        if plan.base is not None:
            model = clamp_masks(model)
        path = Path(folder) / "model.tflite"
        path.write_bytes(model)
        work = quantizer.Quantizer(str(path))
        if plan.base is not None:
            _configure_all(work, plan.base, border=plan.border)
        for layer in plan.layers:
            _configure(work, layer, plan.schemes[layer.name], within=plan.base)
        if not any(scheme.activations != FLOAT for scheme in plan.schemes.values()):
            return Quantized(model, {})
        ranges = _ranges(model, plan, texts, options) if plan.static else None
        quantized = bytes(work.quantize(ranges, enable_progress_report=False).quantized_model)
    named = {name for layer in plan.layers for name in layer.tensors}
    notes = _notes(options, texts if plan.static else ())
    if options.integer:
        left = float_operators(quantized)
        notes |= {"float_operators": [f"{name} x{count}" for name, count in left.items()]}
    return Quantized(slim(quantized, names=named), notes)


def _configure_all(work: Any, scheme: Scheme, *, border: bool) -> None:
    """Tell the quantizer of every operator that it can; with `border` inputs and outputs too."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    work.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, scheme.width, scheme.bits)
    for name in () if border else BORDER:
        work.update_quantization_recipe(
            ".*",
            qtyping.TFLOperationName(name),
            algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
        )


def _configure(work: Any, layer: LiteRtLayer, scheme: Scheme, *, within: Scheme | None) -> None:
    """Tell the quantizer of one layer; an embedding takes the weights' part of the scheme."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    # The pattern is looked for in the names of an operator's outputs, with ";" between them.
    where = f"^{re.escape(layer.output)}(;|$)"
    op = qtyping.TFLOperationName(OPERATION.get(layer.op, layer.op))
    if scheme == within and layer.op != EMBEDDING:  # a table has to be told of
        return
    if scheme.activations == FLOAT:
        if within is not None:
            nothing = algorithm_manager.AlgorithmName.NO_QUANTIZE
            work.update_quantization_recipe(where, op, algorithm_key=nothing)
        return
    bits = scheme.bits if layer.op in FOUR_BIT else max(scheme.bits, 8)
    share = "BLOCKWISE_32" if scheme.block == 32 and layer.op == LINEAR else "CHANNELWISE"
    granularity = qtyping.QuantGranularity(share)
    if scheme.kind == "f":
        casting = algorithm_manager.AlgorithmName.FLOAT_CASTING
        work.add_weight_only_config(where, op, 16, algorithm_key=casting)
    elif scheme.activations == "static" and layer.op != EMBEDDING:
        work.add_static_config(where, op, scheme.width, bits)
    elif (scheme.activations == "weight" or layer.op in NOT_DYNAMIC) and layer.op != EMBEDDING:
        work.add_weight_only_config(where, op, bits, granularity)
    else:
        work.add_dynamic_config(where, op, bits, granularity)


def _ranges(
    model: bytes, plan: Plan, texts: Sequence[Sample], options: Options
) -> dict[str, dict[str, Any]]:
    """Tensor → min and max, each of the tensor's rank, as the quantizer wants them."""
    if len(texts) < MIN_SAMPLES:
        raise InputError(
            f"static quantization needs 4 or more calibration texts, found {len(texts)}"
        )
    widths: dict[str, int] = {}
    if plan.base is not None:
        widths = dict.fromkeys(activations_of(model), plan.base.width)
    for layer in plan.layers:
        scheme = plan.schemes[layer.name]
        if scheme.activations == "static" and layer.op != EMBEDDING:
            widths |= dict.fromkeys((layer.tensors[0], layer.output), scheme.width)
    found = {}
    for name, (rank, observer) in _observe(model, widths, texts, options).items():
        low, high = RANGES[options.calibration](observer, 2 ** widths[name], options.percentile)
        shape = (1,) * rank
        found[name] = {"min": np.full(shape, low, np.float32),
                       "max": np.full(shape, high, np.float32)}  # fmt: skip
    return found


def _observe(
    model: bytes, names: Collection[str], texts: Sequence[Sample], options: Options
) -> dict[str, tuple[int, Observer]]:
    """Rank and observer of each tensor; some samples in every entry point, cut where they must be.

    An entry point that only few reach would else have poor ranges, or none.
    """
    observers: dict[str, tuple[int, Observer]] = {}
    histogram = options.calibration != "minmax"
    for run in runs(model, texts, everywhere=EVERYWHERE):
        for tensor in run.tensors(names):
            if tensor.name not in observers:
                observers[tensor.name] = (tensor.rank, Observer(histogram=histogram))
            observers[tensor.name][1].see(tensor.rows)
    return observers


def _notes(options: Options, texts: Sequence[Sample]) -> dict[str, Note]:
    notes: dict[str, Note] = {}
    if options.scheme.startswith("dynamic"):
        notes["activations"] = "per row, while running"
    if texts:
        notes |= {"calibration": options.calibration, "calibration_texts": len(texts)}
    if options.layers:
        notes["mixed"] = ", ".join(f"{k}: {v}" for k, v in options.layers.items())
    return notes
