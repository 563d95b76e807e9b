"""Whom we compare with: every model of every tool, one visible table.

Each tool appears as its documentation's first example has it, and with the best settings that its
documentation gives for a text classifier on a CPU: we compare with what it can do.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.compression.environments import HOST


@dataclass(frozen=True, slots=True)
class Peer:
    """A model of a tool: the module that builds and runs it, which of its variants, and where."""

    id: str
    title: str
    module: str
    variant: str
    environment: str = HOST

    @property
    def quantized(self) -> bool:
        """Whether it is a rival, and not a float model to measure ratios by."""
        return not self.variant.startswith("float")


BASE = "ort-float"
"""What ratios of latency and size are to: float, fused, on the ONNX Runtime that we ship with."""

PEERS = (
    Peer(BASE, "ONNX Runtime, float, fused", "ort", "float_fused"),
    Peer("ort-float-plain", "ONNX Runtime, float, as exported", "ort", "float"),
    Peer("ort-dynamic", "ONNX Runtime, dynamic INT8", "ort", "dynamic"),
    Peer("ort-dynamic-channel", "ONNX Runtime, dynamic INT8 per channel", "ort", "channel"),
    Peer(
        "ort-dynamic-fused",
        "ONNX Runtime, fused, dynamic INT8 per channel",
        "ort",
        "fused_channel",
    ),
    Peer("ort-new-float", "ONNX Runtime, newest: float", "ort", "float", "onnxruntime"),
    Peer(
        "ort-new-dynamic-channel",
        "ONNX Runtime, newest: dynamic INT8 per channel",
        "ort",
        "channel",
        "onnxruntime",
    ),
    Peer("optimum-dynamic", "Optimum, avx512_vnni, dynamic", "optimum", "dynamic", "optimum"),
    Peer(
        "optimum-dynamic-channel",
        "Optimum, avx512_vnni, dynamic per channel",
        "optimum",
        "channel",
        "optimum",
    ),
    Peer("optimum-static", "Optimum, avx512_vnni, static", "optimum", "static", "optimum"),
    Peer("olive-dynamic", "Olive, dynamic", "olive", "dynamic", "olive"),
    Peer("olive-static", "Olive, static", "olive", "static", "olive"),
    Peer("olive-bert", "Olive, BERT example, per channel", "olive", "bert", "olive"),
    Peer("openvino-float", "OpenVINO, float", "openvino", "float", "openvino"),
    Peer("nncf-static", "NNCF + OpenVINO, static", "openvino", "static", "openvino"),
    Peer(
        "nncf-static-accurate",
        "NNCF + OpenVINO, static, accurate bias correction",
        "openvino",
        "static_accurate",
        "openvino",
    ),
    Peer("nncf-weights", "NNCF + OpenVINO, INT8 weights", "openvino", "weights", "openvino"),
    Peer("litert-float", "LiteRT, float", "litert", "float"),
    Peer("litert-dynamic", "LiteRT, dynamic_wi8_afp32", "litert", "dynamic_wi8_afp32"),
)
