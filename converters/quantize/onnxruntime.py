"""INT8 weights for ONNX Runtime, activations quantized per tensor while it runs.

Weights of MatMul and fused Attention get a scale per output channel, the embedding table one per
tensor row where the operator allows it; the classifier head stays float, because it is small and
every error there is an error of the answer. Activations share one scale a tensor, so a few large
channels cost precision everywhere: `smooth_dynamic_w8_channel` moves that weight into the weights
first, see `smooth`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from converters.encoding import Encoded
from converters.quantize import Quantized
from converters.quantize.smooth import search_smoothing
from converters.quiet import quiet

QUANTIZED_OPS = ("MatMul", "Gather", "Attention", "EmbedLayerNormalization")


def dynamic_w8_channel(model: bytes, calibration: tuple[Encoded, ...]) -> Quantized:
    """Per-channel symmetric INT8 weights. `calibration` is not needed."""
    return Quantized(_quantize(model), {"activations": "per tensor, while running"})


def smooth_dynamic_w8_channel(model: bytes, calibration: tuple[Encoded, ...]) -> Quantized:
    """The same after smoothing, its strength searched on the calibration texts.

    Raises:
        InputError: no calibration texts.
    """
    best = search_smoothing(model, calibration, _quantize)
    return Quantized(
        best.quantized,
        {
            "activations": "per tensor, while running",
            "smoothing_alpha": best.alpha,
            "smoothing_cosine_before": best.cosine_before,
            "smoothing_cosine_after": best.cosine_after,
            "calibration_texts": len(calibration),
        },
    )


def head_nodes(model: bytes) -> list[str]:
    """Names of the nodes of the head, the graph's only Gemm, as the quantizer sees it."""
    import onnx

    graph = onnx.load_from_string(model).graph
    names = [node.name for node in graph.node if node.op_type == "Gemm"]
    # The quantizer turns a Gemm into MatMul and Add before it looks at the names to leave out.
    return names + [f"{name}_MatMul" for name in names]


def _quantize(model: bytes) -> bytes:
    with quiet(), tempfile.TemporaryDirectory() as folder:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        source.write_bytes(model)
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(QUANTIZED_OPS),
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=head_nodes(model),
            extra_options={
                "MatMulConstBOnly": True,
                # Shapes of fused operators cannot be inferred; without this nothing is quantized.
                "DefaultTensorType": onnx.TensorProto.FLOAT,
            },
        )
        return target.read_bytes()
