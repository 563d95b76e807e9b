"""Golden vectors: calibration rows of every size, and what the float model makes of them.

They are public and stay in the bundle: rows are never of the test set, and pictures and sounds are
the smallest there are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.cache import tool_versions
from converters.model import Artifact, GoldenCases, Job, Model
from converters.rows import Rows
from converters.samples import read_samples
from edge_runtime.inference.golden import MAX_RAW_BYTES

GOLDEN_FILE = "golden.safetensors"
FOLDER = "golden"
"""Where pictures and sounds lie in a bundle."""


def golden_cases(model: Model, count: int, job: Job) -> GoldenCases:
    """Up to `count` cases, and the answers of the float model as it is now."""
    interface = model.interface(job.recipe.data)
    rows = _chosen(job.data.calibration, count)
    raw, files = _raw(rows)
    parts: dict[str, object] = {
        "model": model.sha256,
        "steps": [asdict(step) for step in interface.preprocess],
        "rows": rows.sha256,
        "tools": tool_versions("torch", "transformers", "onnxruntime", "tokenizers", "numpy"),
    }

    def make(out: Path) -> None:
        from safetensors.numpy import save_file

        opened = model.opened(job.recipe.data)
        tensors: dict[str, npt.NDArray[np.generic]] = {}
        for case, sample in enumerate(read_samples(interface, rows, name=model.name)):
            feeds = sample.tensors()
            for name, value in {**feeds, **opened.run(feeds)}.items():
                tensors[f"{case}.{name}"] = np.ascontiguousarray(value)
        save_file(tensors, out / GOLDEN_FILE)

    folder = job.cache.folder("golden", parts, make)
    return GoldenCases(Artifact.of(folder / GOLDEN_FILE), len(rows), raw, files)


def _chosen(rows: Rows, count: int) -> Rows:
    """Texts at evenly spaced ranks of length, the first cut to a few words; the smallest files;
    else the first rows.
    """
    first = rows.inputs[0]
    if isinstance(first, Path):
        sizes = [path.stat().st_size for path in rows.inputs]
        return rows.some(sorted(range(len(rows)), key=lambda at: (sizes[at], at))[:count])
    if not isinstance(first, str):
        return rows.some(range(min(count, len(rows))))
    texts = _texts(rows.texts, count)
    return Rows(rows.path, texts, None, json.dumps(texts))


def _texts(texts: Sequence[str], count: int) -> tuple[str, ...]:
    """Short ones prove the short entry points."""
    ranked = sorted(set(texts), key=lambda text: (len(text), text))
    count = min(count, len(ranked))
    picked = [ranked[(2 * place + 1) * len(ranked) // (2 * count)] for place in range(count)]
    words = picked[0].split()
    picked[0] = " ".join(words[:5]) if words else picked[0]
    return tuple(picked)


def _raw(rows: Rows) -> tuple[tuple[str, ...], dict[str, Path]]:
    """Each row as the manifest says it, and the files of pictures and sounds."""
    first = rows.inputs[0]
    if isinstance(first, Path):
        files = {
            f"{FOLDER}/{place}{path.suffix.lower()}": path for place, path in enumerate(rows.inputs)
        }
        return tuple(files), files
    if isinstance(first, str):
        return rows.texts, {}
    if isinstance(first, dict) and any(isinstance(one, np.ndarray) for one in first.values()):
        return (), {}
    written = tuple(json.dumps(one, ensure_ascii=False) for one in rows.inputs)
    # What the manifest has no room for is proved from its tensors on.
    return (written if all(len(one.encode()) < MAX_RAW_BYTES for one in written) else ()), {}
