"""What metrics see of a model's outputs: rows of numbers, whatever the task answers.

Labels, vectors and values are one row an input; of tokens and of a picture's points each is a row;
boxes and tensors are flattened, for nothing but their likeness to the reference is judged; of an
autoencoder the row is its error, in which the answer lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from converters.cache import tool_versions
from converters.rows import Rows
from converters.samples import Declared, Sample, read_samples
from edge_runtime.errors import InputError
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.tasks.table import Steps

if TYPE_CHECKING:
    from converters.model import BroughtModel, Job

FloatArray: TypeAlias = npt.NDArray[np.float32]
BATCH = 16
"""Rows that the reference is asked at a time, where they are of one shape."""
MAX_POINTS = 4096
"""Points of a picture that are compared: evenly spaced, where there are more."""


def scored(steps: Steps, sample: Sample, outputs: Mapping[str, Tensor]) -> FloatArray:
    """The rows of one input: (n, width) of its outputs, whose batch is 1."""
    answers = steps.task.answers
    if answers in ("boxes", "tensors"):
        flat = [np.asarray(value, dtype=np.float32).ravel() for value in outputs.values()]
        return np.concatenate(flat)[None]
    value = np.asarray(outputs[steps.output], dtype=np.float32)
    if answers == "spans":
        tokens: FloatArray = value.reshape(-1, value.shape[-1])
        return tokens
    if answers == "mask":
        return _points(value, steps.last.layout)
    if answers == "anomaly":
        given = sample.tensors()[steps.inputs[0]]
        return np.array([[steps.last(given, value)]], dtype=np.float32)
    row = value.reshape(1, -1)
    if answers == "values":
        row = np.array([list(steps.last(row[0]).values())], dtype=np.float32)
    return row


def _points(value: FloatArray, layout: str) -> FloatArray:
    scores = np.moveaxis(value[0], 0, -1) if layout == "NCHW" else value[0]
    points: FloatArray = scores.reshape(-1, scores.shape[-1])
    return points[:: max(1, len(points) // MAX_POINTS)]


def reference_of(model: BroughtModel, rows: Rows, job: Job) -> FloatArray:
    """The scored answers of the float model as it was brought, cached.

    Raises:
        InputError: a row is not what the model takes.
    """
    parts: dict[str, object] = {
        "model": model.sha256,
        "rows": rows.sha256,
        "tools": tool_versions("torch", "transformers", "onnxruntime", "ai-edge-litert", "numpy"),
    }

    def make(out: Path) -> None:
        steps = Declared(model.name, model.declared).steps
        samples = read_samples(model.declared, rows, name=model.name)
        found: list[FloatArray] = []
        title = f"float answers to {rows.path.name}"
        with job.progress.count(title, len(rows)) as advance:
            for batch in _batches(samples):
                outputs = _run(model.brought.run, batch)
                if not all(np.isfinite(value).all() for one in outputs for value in one.values()):
                    raise InputError(
                        f"model {model.name}: its answer to {rows.named(len(found))} or one of the "
                        f"{len(batch) - 1} rows behind it is not finite"
                    )
                found += [
                    scored(steps, one, each) for one, each in zip(batch, outputs, strict=True)
                ]
                advance(len(batch), "")
        np.save(out / "answers.npy", stacked(found))

    folder = job.cache.folder("reference", parts, make)
    loaded: FloatArray = np.load(folder / "answers.npy", allow_pickle=False)
    return loaded


def stacked(rows: Sequence[FloatArray]) -> FloatArray:
    """All rows below each other.

    Raises:
        InputError: inputs of different sizes made rows that cannot be compared.
    """
    widths = {row.shape[1] for row in rows}
    if len(widths) > 1:
        raise InputError(
            f"the model's answers differ in size from row to row ({min(widths)} to {max(widths)} "
            "numbers); give rows of one size"
        )
    return np.concatenate(rows).astype(np.float32)


def _batches(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Neighbours of one shape, `BATCH` at most."""
    batch: list[Sample] = []
    for sample in samples:
        if batch and (len(batch) == BATCH or _shapes(sample) != _shapes(batch[0])):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def _shapes(sample: Sample) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(value) for name, value in sample.item.tensors.items()}


Run: TypeAlias = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def _run(run: Run, batch: Sequence[Sample]) -> list[dict[str, Tensor]]:
    """The outputs of each of `batch`, batch 1 again."""
    feeds = {
        name: np.concatenate([one.tensors()[name] for one in batch])
        for name in batch[0].item.tensors
    }
    outputs = run(feeds)
    if any(value.shape[:1] != (len(batch),) for value in outputs.values()):
        return [run(one.tensors()) for one in batch]  # the batch is not free
    return [
        {name: value[at : at + 1] for name, value in outputs.items()} for at in range(len(batch))
    ]
