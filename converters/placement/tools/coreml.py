"""Apple's Core ML, by the rules of ONNX Runtime's provider: operators, ranks, float weights.

`ModelFormat` of the engine's target is the provider's option: MLProgram, which knows more
operators and wants iOS 15 or macOS 12, or NeuralNetwork.
"""

from __future__ import annotations

from typing import Any

from onnxruntime.tools.mobile_helpers.usability_checker import check_coreml_partitions

from converters.placement.tools import usability
from edge_runtime.errors import InputError

TITLE = "Core ML"
FORMATS = {
    "MLProgram": "coreml_supported_mlprogram_ops.md",
    "NeuralNetwork": "coreml_supported_neuralnetwork_ops.md",
}
MAX_RANK = 5
"""The checker's own, which it does not give out."""


def hello() -> dict[str, Any]:
    """Name and version."""
    return usability.hello(TITLE)


def place(request: dict[str, Any]) -> dict[str, Any]:
    """See `usability.place`. Free shapes are allowed unless the target forbids them.

    Raises:
        InputError: an unknown ModelFormat.
    """
    chosen = request["target"].get("ModelFormat", "MLProgram")
    if chosen not in FORMATS:
        raise InputError(f"ModelFormat {chosen!r}: Core ML has {' and '.join(FORMATS)}")
    fixed = bool(request["demands"].get("static_shapes"))
    return usability.place(
        request,
        TITLE,
        lambda model: check_coreml_partitions(
            model, require_fixed_input_sizes=fixed, config_filename=FORMATS[chosen]
        ),
        MAX_RANK,
    )
