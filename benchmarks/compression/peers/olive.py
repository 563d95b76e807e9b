"""Olive: its ONNX quantization passes, with their defaults and as its BERT example chains them.

The example runs the transformers optimizer, then quantization, dynamic or static.
https://microsoft.github.io/Olive/ (passes; examples/bert)
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.compression.peer import Inputs, Runner
from benchmarks.compression.peers import ort

DATA = "calibration_rows"


def dynamic(inputs: Inputs, out: Path) -> None:
    """`OnnxDynamicQuantization`, nothing but defaults."""
    _run(inputs, out, {"quantize": {"type": "OnnxDynamicQuantization"}})


def static(inputs: Inputs, out: Path) -> None:
    """`OnnxStaticQuantization`, nothing but defaults, over the calibration rows."""
    _run(inputs, out, {"quantize": {"type": "OnnxStaticQuantization", "data_config": DATA}})


def bert(inputs: Inputs, out: Path) -> None:
    """The BERT example's chain with a scale per output channel."""
    _run(
        inputs,
        out,
        {
            "fuse": {
                "type": "OrtTransformersOptimization",
                "model_type": ort.FUSED_TYPES.get(inputs.architecture, "bert"),
                "num_heads": inputs.heads,
                "hidden_size": inputs.hidden,
            },
            "quantize": {"type": "OnnxDynamicQuantization", "per_channel": True},
        },
    )


BUILDS: Mapping[str, Callable[[Inputs, Path], None]] = {
    "dynamic": dynamic,
    "static": static,
    "bert": bert,
}


def _run(inputs: Inputs, out: Path, passes: Mapping[str, Mapping[str, Any]]) -> None:
    from olive.workflows import run  # type: ignore[import-not-found]

    _register(inputs)
    with tempfile.TemporaryDirectory() as name:
        made = run(
            {
                "input_model": {"type": "ONNXModel", "model_path": str(inputs.onnx)},
                "data_configs": [
                    {
                        "name": DATA,
                        "type": "DataContainer",
                        "load_dataset_config": {"type": DATA},
                        "pre_process_data_config": {"type": "skip_pre_process"},
                        "dataloader_config": {"type": "no_auto_batch_dataloader"},
                    }
                ],
                "passes": passes,
                "output_dir": str(Path(name) / "out"),
                "cache_dir": str(Path(name) / "cache"),
                "evaluate_input_model": False,
            }
        )
        best = made.get_best_candidate()
        if best is None:
            raise RuntimeError("Olive made no model")
        shutil.copyfile(best.model_path, out / ort.MODEL)


def _register(inputs: Inputs) -> None:
    """Make the calibration rows a data set that a configuration can name."""
    from olive.data.component.dataset import BaseDataset  # type: ignore[import-not-found]
    from olive.data.registry import Registry  # type: ignore[import-not-found]

    def rows(**_: Any) -> Any:
        import torch

        found = [torch.from_numpy(ids[None]) for ids in inputs.rows().ids]
        pairs = [({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 0) for ids in found]
        return BaseDataset(pairs)

    Registry.register_dataset(DATA)(rows)


def files(folder: Path, variant: str) -> list[Path]:
    """See `peer.Module`."""
    return ort.onnx_files(folder)


def load(folder: Path, variant: str) -> Runner:
    """See `peer.Module`."""
    return ort.OrtRunner(folder / ort.MODEL)
