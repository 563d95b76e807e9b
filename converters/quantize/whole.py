"""A whole ONNX graph in integers, for accelerators that have no floats.

Every operator stands between DequantizeLinear and QuantizeLinear, so that a vendor's compiler can
take each for one integer operator: norms, softmax and sums too. That is not how a CPU is fast or
close (see `onnxruntime`); there 16-bit activations keep the accuracy. The pairs are written by the
library with the settings that it has for such accelerators; ranges come from our observers.

Order: `fix_shapes`, because such compilers take no free dimension; `simplify`, which folds and
fuses what vendors know as one operator (LayerNormalization, Gelu); then `quantize_whole`.

Source: ONNX Runtime's QNN execution provider, "Generate a quantized model".
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from converters.fold import fold_constants
from converters.quantize.config import Options
from converters.quantize.convolutions import activation_kind
from converters.quantize.graph import clamp_masks, observe
from converters.quantize.observers import RANGES
from converters.quantize.samples import Sample
from converters.quantize.scheme import Scheme, parse_scheme
from converters.quiet import quiet
from edge_runtime.errors import InputError

MIN_TEXTS = 4
TRAILING = ("ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training",
            "com.microsoft.experimental", "com.microsoft.nchwc", "org.pytorch.aten")  # fmt: skip
"""Domains that the engine names in every file that it writes; others may not know them."""


def fix_shapes(model: bytes, dims: Mapping[str, int]) -> bytes:
    """`model` with its free dimensions fixed, as {"batch": 1, "sequence": 128}.

    Raises:
        InputError: a dimension stays free that `dims` does not name.
    """
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    proto = onnx.load_from_string(model)
    for name, size in dims.items():
        make_dim_param_fixed(proto.graph, name, size)
    left = sorted({
        dim.dim_param or "?"
        for value in proto.graph.input
        for dim in value.type.tensor_type.shape.dim
        if not dim.HasField("dim_value")
    })  # fmt: skip
    if left:
        raise InputError(
            f"the accelerator takes fixed shapes only, and {', '.join(left)} of the model's "
            "inputs is free; fix it with --shape"
        )
    # Shapes inside were inferred with the free sizes.
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in dims:
                dim.dim_value = dims[dim.dim_param]
    return bytes(proto.SerializeToString())


def in_order(model: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """`model` with its inputs and outputs in that order, and no other outputs.

    For engines that know them by their place only.

    Raises:
        InputError: it has other inputs, or one of the outputs is missing.
    """
    proto = onnx.load_from_string(model)
    graph = proto.graph
    weights = {one.name for one in graph.initializer}
    found = {one.name: one for one in graph.input if one.name not in weights}
    made = {one.name: one for one in graph.output}
    if set(found) != set(inputs) or not set(outputs) <= set(made):
        raise InputError(
            f"the model has the inputs {', '.join(found)} and the outputs {', '.join(made)}, "
            f"the manifest says {', '.join(inputs)} and {', '.join(outputs)}"
        )
    ordered = deepcopy(([found[name] for name in inputs], [made[name] for name in outputs]))
    for values, kept in zip((graph.input, graph.output), ordered, strict=True):
        del values[:]
        values.extend(kept)
    return bytes(proto.SerializeToString())


def simplify(model: bytes) -> bytes:
    """`model` with constants folded and known groups of operators fused; it answers the same."""
    from onnxruntime.quantization.execution_providers.qnn import qnn_preprocess_model

    folded, _ = fold_constants(model)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        before.write_bytes(folded)
        changed = qnn_preprocess_model(str(before), str(after), fuse_layernorm=True)
        proto = onnx.load(after if changed else before)
    kept = [one for one in proto.opset_import if one.domain not in TRAILING]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    return bytes(proto.SerializeToString())


def quantize_whole(model: bytes, texts: Sequence[Sample], options: Options) -> bytes:
    """`model`, fixed and simplified, with every operator in integers as `options.scheme` says.

    Raises:
        InputError: too few calibration samples, or a scheme that is not static.
    """
    scheme = parse_scheme(options.scheme)
    if scheme.activations != "static" or scheme.kind != "w":
        raise InputError(
            f"integer needs a static scheme, such as static_w8a16_tensor; found {options.scheme}"
        )
    if len(texts) < MIN_TEXTS:
        raise InputError(
            f"static quantization needs {MIN_TEXTS} or more calibration texts, found {len(texts)}"
        )
    proto = _inferred(onnx.load_from_string(clamp_masks(model)))
    for place, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{place}"
    names = _activations(proto)
    seen = observe(
        bytes(proto.SerializeToString()),
        texts,
        names,
        histograms=options.calibration != "minmax",
    ).observers
    ranges = {
        name: RANGES[options.calibration](seen[name], 2**scheme.width, options.percentile)
        for name in names
    }
    return _library(proto, scheme, ranges, options)


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With the type of every tensor, of the engine's own operators too."""
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    with quiet():
        found: onnx.ModelProto = SymbolicShapeInference.infer_shapes(proto, auto_merge=True)
    return found


def _activations(proto: onnx.ModelProto) -> list[str]:
    """The float tensors that nodes and callers make, in the graph's order."""
    graph = proto.graph
    constants = {one.name for one in graph.initializer}
    typed = [*graph.input, *graph.value_info, *graph.output]
    floats = {
        one.name for one in typed if one.type.tensor_type.elem_type == TensorProto.FLOAT
    } - constants
    made = [one.name for one in graph.input]
    made += [name for node in graph.node for name in node.output]
    return [name for name in dict.fromkeys(made) if name in floats]


def _library(
    proto: onnx.ModelProto,
    scheme: Scheme,
    ranges: Mapping[str, tuple[float, float]],
    options: Options,
) -> bytes:
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    signed, wide = options.symmetric, scheme.width == 16
    activation = activation_kind(scheme.width, signed=signed)
    with quiet():
        settings: Any = get_qnn_qdq_config(
            proto,
            None,
            activation_type=activation,
            weight_type=QuantType.QInt8,
            per_channel=scheme.share == "channel",
            activation_symmetric=signed,
            weight_symmetric=True,
            init_overrides=_overrides(proto, wide=wide),
            nodes_to_exclude=_kept(proto, options.keep_float),
        )
        pairs = {
            name: (np.array(low, np.float32), np.array(high, np.float32))
            for name, (low, high) in ranges.items()
        }
        work: Any = QDQQuantizer(
            proto,
            per_channel=settings.per_channel,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=activation,
            tensors_range=TensorsData(CalibrationMethod.MinMax, pairs),
            nodes_to_quantize=[],
            nodes_to_exclude=settings.nodes_to_exclude or [],
            op_types_to_quantize=sorted(settings.op_types_to_quantize),
            extra_options=settings.extra_options,
        )
        work.quantize_model()
    return bytes(work.model.model.SerializeToString())


def _overrides(proto: onnx.ModelProto, *, wide: bool) -> dict[str, Any]:
    """Tensors that such accelerators want otherwise than the library writes them.

    With 16-bit activations, gains of a norm and the rows of a table would get 16 bits as well.
    """
    from onnxruntime.quantization import QuantType

    constants = {one.name for one in proto.graph.initializer}
    unsigned = [{"quant_type": QuantType.QUInt8, "symmetric": False}]
    return {
        node.input[1]: unsigned
        for node in proto.graph.node
        if wide and node.op_type == "LayerNormalization" and node.input[1] in constants
    }


def _kept(proto: onnx.ModelProto, kinds: Collection[str]) -> list[str]:
    return [node.name for node in proto.graph.node if node.op_type in kinds]
