"""NNCF and OpenVINO: quantized for transformers, run by OpenVINO itself.

`static` is `nncf.quantize` as its documentation says for transformers (SmoothQuant and the mixed
preset come with the model type); `static_accurate` also takes its slower, better bias correction.
`weights` compresses weights alone, so that the engine quantizes activations as it runs. Shapes are
fixed when a model is compiled, one for each length, as the performance hints advise: 4 to 6 % less
latency than free ones. What is not quantized runs in bfloat16 where the CPU has it, by default.
https://docs.openvino.ai/ (basic quantization flow; weight compression)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compression.peer import Inputs, Runner
from benchmarks.compression.rows import FloatArray, Ids, padded, smallest

MODEL = "model.xml"
LENGTHS = "lengths.json"


def float_model(inputs: Inputs, out: Path) -> None:
    """The float model, converted."""
    _save(_model(inputs), inputs, out, halve=False)


def static(inputs: Inputs, out: Path) -> None:
    """Every default, all calibration rows."""
    _quantize(inputs, out, {})


def static_accurate(inputs: Inputs, out: Path) -> None:
    """With the bias correction that the documentation calls more accurate."""
    _quantize(inputs, out, {"fast_bias_correction": False})


def weights(inputs: Inputs, out: Path) -> None:
    """INT8 weights; activations are the engine's affair."""
    import nncf  # type: ignore[import-not-found]

    _save(nncf.compress_weights(_model(inputs)), inputs, out, halve=True)


BUILDS: Mapping[str, Callable[[Inputs, Path], None]] = {
    "float": float_model,
    "static": static,
    "static_accurate": static_accurate,
    "weights": weights,
}


def _model(inputs: Inputs) -> Any:
    import openvino as ov  # type: ignore[import-not-found]

    return ov.convert_model(inputs.onnx)


def _quantize(inputs: Inputs, out: Path, options: Mapping[str, Any]) -> None:
    import nncf

    rows = inputs.rows().ids
    calibration = nncf.Dataset(rows, _feeds)
    made = nncf.quantize(
        _model(inputs),
        calibration,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(rows),
        **options,
    )
    _save(made, inputs, out, halve=True)


def _save(model: Any, inputs: Inputs, out: Path, *, halve: bool) -> None:
    """Write the model; what stayed float is kept in 16 bits where `halve`, the engine's default."""
    import openvino as ov

    ov.save_model(model, out / MODEL, compress_to_fp16=halve)
    (out / LENGTHS).write_text(json.dumps(inputs.lengths))


def _feeds(ids: Ids) -> dict[str, Ids]:
    row = ids[np.newaxis]
    return {"input_ids": row, "attention_mask": np.ones_like(row)}


def files(folder: Path, variant: str) -> list[Path]:
    """See `peer.Module`."""
    return [folder / MODEL, (folder / MODEL).with_suffix(".bin")]


def load(folder: Path, variant: str) -> Runner:
    """See `peer.Module`."""
    return _OpenVinoRunner(folder / MODEL, json.loads((folder / LENGTHS).read_text()))


class _OpenVinoRunner:
    """A model compiled for each length, one thread, the hint for latency."""

    def __init__(self, path: Path, lengths: list[int]) -> None:
        import openvino as ov

        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
        core = ov.Core()
        self._requests: dict[int, Any] = {}
        for length in lengths:
            model = core.read_model(path)
            model.reshape({one.any_name: [1, length] for one in model.inputs})
            self._requests[length] = core.compile_model(model, "CPU", config).create_infer_request()

    def __call__(self, ids: Ids, /) -> FloatArray:
        length = smallest(tuple(self._requests), len(ids))
        row, mask = padded(ids, length)
        found = self._requests[length].infer({"input_ids": row, "attention_mask": mask})
        values: FloatArray = next(iter(found.values()))[0]
        return values
