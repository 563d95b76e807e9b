"""Optimum: `ORTQuantizer` with its configuration for AVX512-VNNI, dynamic and static.

https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/quantization
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.compression.peer import Inputs, Runner
from benchmarks.compression.peers import ort

BUILT = "model_quantized.onnx"


def dynamic(inputs: Inputs, out: Path) -> None:
    """The documentation's example: a scale per tensor."""
    _quantize(inputs, out, per_channel=False)


def channel(inputs: Inputs, out: Path) -> None:
    """The same with a scale per output channel."""
    _quantize(inputs, out, per_channel=True)


def static(inputs: Inputs, out: Path) -> None:
    """The documentation's example of static quantization: min-max over the calibration rows."""
    _quantize(inputs, out, per_channel=False, static=True)


BUILDS: Mapping[str, Callable[[Inputs, Path], None]] = {
    "dynamic": dynamic,
    "channel": channel,
    "static": static,
}


def _quantize(inputs: Inputs, out: Path, *, per_channel: bool, static: bool = False) -> None:
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copyfile(inputs.onnx, folder / "model.onnx")
        shutil.copyfile(inputs.encoder / "config.json", folder / "config.json")
        quantizer = ORTQuantizer.from_pretrained(folder, file_name="model.onnx")
        config = AutoQuantizationConfig.avx512_vnni(is_static=static, per_channel=per_channel)
        ranges = _ranges(quantizer, config, inputs, folder) if static else None
        quantizer.quantize(
            save_dir=folder, quantization_config=config, calibration_tensors_range=ranges
        )
        shutil.copyfile(folder / BUILT, out / ort.MODEL)


def _ranges(quantizer: Any, config: Any, inputs: Inputs, folder: Path) -> Any:
    from datasets import Dataset  # type: ignore[import-not-found]
    from optimum.onnxruntime.configuration import AutoCalibrationConfig

    rows = [
        {"input_ids": ids.tolist(), "attention_mask": [1] * len(ids)} for ids in inputs.rows().ids
    ]
    texts = Dataset.from_list(rows)
    return quantizer.fit(
        dataset=texts,
        calibration_config=AutoCalibrationConfig.minmax(texts),
        onnx_augmented_model_name=str(folder / "augmented.onnx"),
        operators_to_quantize=config.operators_to_quantize,
    )


def files(folder: Path, variant: str) -> list[Path]:
    """See `peer.Module`."""
    return ort.onnx_files(folder)


def load(folder: Path, variant: str) -> Runner:
    """See `peer.Module`."""
    return ort.OrtRunner(folder / ort.MODEL)
