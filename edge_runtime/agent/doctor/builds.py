"""Which package brings an execution provider that plain ONNX Runtime lacks."""

from __future__ import annotations

from collections.abc import Mapping

from edge_runtime.inference.ort_plugins import PLUGINS

_NVIDIA = (
    "on a Jetson NVIDIA's wheel of onnxruntime-gpu for its JetPack, on a PC "
    "pip install onnxruntime-gpu"
)
BUILDS: Mapping[str, str] = {
    "OpenVINOExecutionProvider": "pip install onnxruntime-openvino",
    "CUDAExecutionProvider": _NVIDIA,
    "TensorrtExecutionProvider": _NVIDIA,
    "VitisAIExecutionProvider": "onnxruntime-vitisai of AMD's package for the board",
    "HailoExecutionProvider": "Hailo's branch, built from source: "
    "https://github.com/hailo-ai/onnxruntime",
    "CoreMLExecutionProvider": "pip install onnxruntime on macOS, which has it",
    "NnapiExecutionProvider": "onnxruntime-android, which is for Android only",
}
"""Builds of the engine, by the name of the provider; one takes the place of the plain package.

Source: https://onnxruntime.ai/docs/execution-providers/, the page of each.
"""


def build_of(provider: str, accelerator: str) -> str:
    """What to install for `provider`, in words."""
    return BUILDS.get(provider) or f"the one that the maker of {accelerator} gives out"


def plugin_of(provider: str) -> str:
    """The package of a plug-in."""
    return PLUGINS[provider].package if provider in PLUGINS else "its package"
