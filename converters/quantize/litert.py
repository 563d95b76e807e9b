"""INT8 weights for LiteRT, activations quantized per row while it runs.

The engine measures each row of activations itself, so nothing here is calibrated: calibration
texts only prove the result later. Rows of the embedding table are quantized too (it is half the
file); norms, softmax and adds stay float.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from converters.encoding import Encoded
from converters.quantize import Quantized
from converters.quiet import quiet


def dynamic_w8_channel(model: bytes, calibration: tuple[Encoded, ...]) -> Quantized:
    """Per-channel symmetric INT8 weights. `calibration` is not needed."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        from ai_edge_quantizer import quantizer, recipe

        path = Path(folder) / "model.tflite"
        path.write_bytes(model)
        work = quantizer.Quantizer(str(path))
        work.load_quantization_recipe(recipe.dynamic_wi8_afp32())
        quantized = bytes(work.quantize().quantized_model)
    return Quantized(quantized, {"activations": "per row, while running"})
