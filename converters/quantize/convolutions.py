"""Convolutional regions of an ONNX graph in integers, by ONNX Runtime's own quantizer.

A region is convolutions and what lies between them: activations, pooling, concatenations, the
additions of residuals; and the fully connected layers (Gemm) of such a net. In it a tensor stays in
eight bits from one operator to the next, so that the engine fuses each into its integer kernel
(QLinearConv, QLinearAdd ...). It ends where a shape or an operator of another kind begins: norms,
softmax, flattened rows; a Gemm answers in float. What is left over, matrices of transformers above
all, is `emit`'s. Ranges come from our observers, a bounded histogram a tensor, where the library's
own percentile and entropy calibrations keep every activation in memory.

Order: `fold_norms` first (a batch norm that is folded costs nothing), then `quantize_regions`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.ort import CPU, load_engine
from converters.quantize.config import Options
from converters.quantize.graph import CONVOLUTIONS, Graph, find_layers, observe
from converters.quantize.observers import RANGES
from converters.quantize.samples import Sample
from converters.quantize.scheme import Scheme
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import onnx

BEGIN = (*CONVOLUTIONS, "Gemm")
CARRIED: Mapping[str, bool] = {
    "Relu": False,
    "Clip": False,
    "LeakyRelu": False,
    "Sigmoid": False,
    "MaxPool": False,
    "AveragePool": False,
    "GlobalAveragePool": False,
    "Resize": False,
    "Add": True,
    "Mul": True,
    "Concat": True,
}
"""Operator that goes on in integers → whether all of its inputs are values, or only the first."""


def fold_norms(model: bytes) -> bytes:
    """The graph after the engine's basic optimizations: batch norms in weights, constants folded.

    Matrix products keep their form: as a Gemm they would look like a classifier's head.
    """
    onnxruntime = load_engine()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            model, options, providers=[CPU], disabled_optimizers=["MatMulAddFusion"]
        )
        return path.read_bytes()


def integer_convolutions(scheme: Scheme) -> bool:
    """Whether convolutions of this scheme compute in integers.

    The engine has no fast kernel for scales that are measured while it runs, nor for codebooks:
    such convolutions have small weights and compute in float.
    """
    return scheme.activations == "static" and scheme.kind == "w"


def quantize_regions(
    model: bytes,
    texts: Sequence[Sample],
    schemes: Mapping[str, Scheme],
    options: Options,
) -> bytes:
    """`model` with its convolutions of static schemes in integers; itself where it has none.

    Raises:
        InputError: several static schemes among the convolutions.
    """
    proto = Graph(model).proto
    chosen = {
        one.output: schemes[one.name]
        for one in find_layers(proto)
        if one.op in BEGIN and integer_convolutions(schemes[one.name])
    }
    if not chosen:
        return model
    if len(set(chosen.values())) > 1:
        names = sorted({scheme.name for scheme in chosen.values()})
        raise InputError(
            f"layers: the convolutions of a file share one static scheme, found {', '.join(names)}"
        )
    scheme = next(iter(chosen.values()))
    region = _region(proto, chosen)
    constants = {one.name for one in proto.graph.initializer}
    observed = {
        name
        for node in region
        for name in (*_values(node), *(node.output if node.op_type != "Gemm" else ()))
        if name and name not in constants
    }
    histograms = options.calibration != "minmax"
    seen = observe(model, texts, sorted(observed), histograms=histograms).observers
    levels, find = 2**scheme.width, RANGES[options.calibration]
    ranges = {name: find(seen[name], levels, options.percentile) for name in seen}
    return _library(proto, region, scheme, ranges, signed=options.symmetric)


def _region(proto: onnx.ModelProto, chosen: Collection[str]) -> list[onnx.NodeProto]:
    """The convolutions and what goes on from them in integers, in the graph's order."""
    carried: set[str] = set()
    found = []
    for node in proto.graph.node:
        goes_on = node.op_type in CARRIED and all(name in carried for name in _values(node))
        if goes_on or node.output[0] in chosen:
            found.append(node)
            if node.op_type != "Gemm":
                carried.update(node.output)
    return found


def _values(node: onnx.NodeProto) -> Sequence[str]:
    """The inputs that are activations, not settings or weights."""
    return list(node.input) if CARRIED.get(node.op_type) else list(node.input[:1])


def activation_kind(width: int, *, signed: bool) -> Any:
    """The library's name for codes of activations."""
    from onnxruntime.quantization import QuantType

    if width == 16:
        return QuantType.QInt16 if signed else QuantType.QUInt16
    return QuantType.QInt8 if signed else QuantType.QUInt8


def _library(
    proto: onnx.ModelProto,
    region: Sequence[onnx.NodeProto],
    scheme: Scheme,
    ranges: Mapping[str, tuple[float, float]],
    *,
    signed: bool,
) -> bytes:
    """QuantizeLinear and DequantizeLinear written by the library."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    for place, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{place}"
    pairs = {
        name: (np.array(low, np.float32), np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    work: Any = QDQQuantizer(
        onnx.shape_inference.infer_shapes(proto),
        per_channel=scheme.share == "channel",
        reduce_range=scheme.bits < 8,
        weight_qType=QuantType.QInt8,
        activation_qType=activation_kind(scheme.width, signed=signed),
        tensors_range=TensorsData(CalibrationMethod.MinMax, pairs),
        nodes_to_quantize=[node.name for node in region],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({node.op_type for node in region}),
        extra_options={
            "ActivationSymmetric": signed,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": ["Gemm"],
            "UseQDQContribOps": scheme.width == 16,
        },
    )
    work.quantize_model()
    return bytes(work.model.model.SerializeToString())
