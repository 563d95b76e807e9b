"""ONNX Runtime: the float model, and its own dynamic INT8.

`dynamic` is the call that the documentation shows. `channel` and `fused_channel` follow its
further advice: pre-processing, a scale per output channel, and for BERT the transformers optimizer
first. https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compression.peer import Inputs, Runner
from benchmarks.compression.rows import FloatArray, Ids

MODEL = "model.onnx"
FUSED_TYPES = {"bert": "bert", "distilbert": "bert", "roberta": "bert", "electra": "bert"}


def float_plain(inputs: Inputs, out: Path) -> None:
    """The exported file as it is."""
    shutil.copyfile(inputs.onnx, out / MODEL)


def float_fused(inputs: Inputs, out: Path) -> None:
    """The exported file through the transformers optimizer."""
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(
        str(inputs.onnx),
        model_type=FUSED_TYPES.get(inputs.architecture, "bert"),
        num_heads=inputs.heads,
        hidden_size=inputs.hidden,
    )
    fused.save_model_to_file(str(out / MODEL))


def dynamic(inputs: Inputs, out: Path) -> None:
    """`quantize_dynamic` with nothing but its defaults."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(inputs.onnx, out / MODEL)


def channel(inputs: Inputs, out: Path) -> None:
    """Pre-processed, a scale per output channel."""
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / MODEL
        quant_pre_process(inputs.onnx, ready, skip_symbolic_shape=True)
        quantize_dynamic(ready, out / MODEL, per_channel=True)


def fused_channel(inputs: Inputs, out: Path) -> None:
    """Fused, then a scale per output channel."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        float_fused(inputs, Path(folder))
        # Shapes of fused operators cannot be inferred; without the type nothing is quantized.
        extra = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(Path(folder) / MODEL, out / MODEL, per_channel=True, extra_options=extra)


BUILDS: Mapping[str, Callable[[Inputs, Path], None]] = {
    "float": float_plain,
    "float_fused": float_fused,
    "dynamic": dynamic,
    "channel": channel,
    "fused_channel": fused_channel,
}


def files(folder: Path, variant: str) -> list[Path]:
    """See `peer.Module`."""
    return onnx_files(folder)


def load(folder: Path, variant: str) -> Runner:
    """See `peer.Module`."""
    return OrtRunner(folder / MODEL)


def onnx_files(folder: Path) -> list[Path]:
    """The model and, where a tool wrote one, its file of weights."""
    return sorted(p for p in folder.iterdir() if p.suffix in (".onnx", ".data"))


class OrtRunner:
    """An ONNX file, one thread, otherwise the engine's defaults."""

    def __init__(self, path: Path) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._names = [one.name for one in self._session.get_inputs()]

    def __call__(self, ids: Ids, /) -> FloatArray:
        row = ids[np.newaxis]
        feeds = {"input_ids": row, "attention_mask": np.ones_like(row)}
        found: FloatArray = self._session.run(None, {n: feeds[n] for n in self._names})[0][0]
        return found
