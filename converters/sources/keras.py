"""Keras models (.keras, .h5) and TensorFlow's SavedModels, through TensorFlow's own process.

The file is checked before TensorFlow sees it, see `keras_file`; it is opened over there once and
stays open for runs and conversions. When that process fails, the next request starts another. A
.tflite file of TensorFlow's converter has the interface's names in its one entry point.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from converters.operators import float_operators
from converters.source import file_sha256
from converters.sources.interface import Description, Exported, Interface
from converters.sources.keras_file import check_file, check_folder
from converters.sources.shapes import PICTURE_RANK
from converters.tensorflow.process import TensorFlow
from converters.tensorflow.ways import SCHEMES, Way
from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.errors import InputError
from edge_runtime.inference.backend import Tensor

SUFFIXES = (".keras", ".h5", ".hdf5")
MAX_SAMPLES_BYTES = 1 << 30
"""Of calibration: they lie in a file, and in the memory of two processes."""
ATTEMPTS = 10
"""At a file of integers only: one in three of an unrolled LSTM has floats left."""


class Tensors(Protocol):
    """A sample: one row of inputs."""

    def tensors(self) -> Mapping[str, Tensor]:
        """{input: array with batch 1}."""
        ...


def open_keras(
    path: Path,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    signature: str = "",
    process: TensorFlow | None = None,
    task: str = "",
    licence: str = "unknown",
) -> KerasModel:
    """Open a .keras or .h5 file, or the folder of a SavedModel.

    `shapes` fixes free dims of an input, with 1 for the batch. `signature` is a SavedModel's,
    serving_default unless there is but one. Models that share a `process` take turns in it: whose
    turn it is not is opened again; without one the model has its own.

    Raises:
        InputError: nothing there; cut off, hostile or with code in it; a free dim; no TensorFlow.
    """
    version = ""
    if path.is_dir():
        files = check_folder(path)
        sha256 = _digest({str(one.relative_to(path)): file_sha256(one) for one in files})
        size_bytes = sum(one.stat().st_size for one in files)
    elif path.suffix in SUFFIXES:
        version = check_file(path)
        sha256, size_bytes = file_sha256(path), path.stat().st_size
    else:
        raise InputError(
            f"model {path.name}: expected {', '.join(SUFFIXES)} or the folder of a SavedModel"
        )
    fixed = {name: [int(size) for size in shape] for name, shape in (shapes or {}).items()}
    request = {"path": str(path.resolve()), "shapes": fixed, "signature": signature}
    if fixed or signature:
        sha256 = _digest({"model": sha256, "shapes": fixed, "signature": signature})
    used = process or TensorFlow()
    model = KerasModel(used, request, path, sha256, size_bytes, version, task)
    model.licence = licence
    try:
        model.open()
    except BaseException:
        if process is None:
            used.close()
        raise
    return model


def _digest(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class KerasModel:
    """See `FloatModel`. `close` ends TensorFlow's process; a later request starts it again."""

    def __init__(
        self,
        process: TensorFlow,
        request: Mapping[str, Any],
        path: Path,
        sha256: str,
        size_bytes: int,
        version: str,
        task: str,
    ) -> None:
        self.name = path.stem or path.name
        self.sha256 = sha256
        self.licence = "unknown"
        self.interface = Interface(task, (), ())
        self._process, self._request = process, request
        self._subject, self._task = f"model {path.name}", task
        self._folder, self._size_bytes = path.is_dir(), size_bytes
        self._version = version
        self._operators: Mapping[str, int] = {}
        self._parameters = 0

    def open(self) -> None:
        """Make it the model that the process holds, in a new process where the last one failed."""
        self._process.subject = self._subject
        if self._process.holds is self:
            return
        self._process.holds = None
        told = self._process.call("open", **self._request)
        try:
            self.interface = Interface(
                self._task,
                tuple(_spec(one) for one in told["inputs"]),
                tuple(_spec(one) for one in told["outputs"]),
            )
            self._operators = {str(kind): int(n) for kind, n in told["operators"].items()}
            self._parameters = int(told["parameters"])
            self._version = self._version or str(told["written_by"])
        except (KeyError, ValueError, TypeError, AttributeError) as reason:
            raise InputError(
                f"{self._subject}: TensorFlow's process told something else than a model ({reason})"
            ) from None
        self._process.holds = self

    def __enter__(self) -> KerasModel:
        return self

    def __exit__(self, *_reason: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def export(self, backend: str, *, opset: int, lengths: Sequence[int]) -> Exported:
        """See `FloatModel`: a .tflite file with batch 1, or ONNX by tf2onnx; no `lengths`."""
        if backend == "litert":
            return Exported(self.quantize("tensorflow_f32", ()))
        if backend == "onnxruntime":
            return Exported(self._file("onnx", "model.onnx", opset=opset))
        raise InputError(
            f"{self._subject}: no way leads from Keras to {backend!r}; "
            "known are litert, onnxruntime"
        )

    def quantize(self, scheme: str, samples: Iterable[Tensors]) -> bytes:
        """A .tflite file by TensorFlow's own converter; `scheme` is a key of SCHEMES.

        Schemes with fixed activations need `samples`; others do not look at them.

        Raises:
            InputError: an unknown scheme, no samples or too many bytes of them, an operator that
                TFLite lacks, or has not in these types.
        """
        if scheme not in SCHEMES:
            raise InputError(
                f"{self._subject}: scheme {scheme!r} is not TensorFlow's; known are "
                f"{', '.join(SCHEMES)}"
            )
        way: Way = SCHEMES[scheme]
        columns = self._columns(samples) if way.needs_samples else []
        self.open()
        saved = self._process.save("samples.npz", columns) if columns else ""
        made = self._file("tflite", "model.tflite", way=asdict(way), samples=saved)
        for _ in range(ATTEMPTS - 1 if way.integer_io else 0):
            # Now and then the converter leaves an operator of an unrolled loop in float.
            if not float_operators(made):
                break
            again = self._file("tflite", "model.tflite", way=asdict(way), samples=saved)
            made = min(made, again, key=lambda one: sum(float_operators(one).values()))
        return made

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `FloatModel`; any number of rows."""
        missing = [one.name for one in self.interface.inputs if one.name not in feeds]
        if missing:
            raise InputError(f"{self._subject}: input {missing[0]} is missing")
        columns = [self._column(one, np.asarray(feeds[one.name])) for one in self.interface.inputs]
        self.open()
        saved = self._process.save("feeds.npz", columns)
        answers = str(self._process.path("answers.npz"))
        self._process.call("run", feeds=saved, answers=answers)
        names = [one.name for one in self.interface.outputs]
        return dict(zip(names, self._process.load("answers.npz", len(names)), strict=True))

    def describe(self) -> Description:
        """See `FloatModel`; the kinds are Keras's layers, or the operators of a SavedModel."""
        return Description(
            format="SavedModel" if self._folder else "Keras",
            name=self.name,
            sha256=self.sha256,
            size_bytes=self._size_bytes,
            licence=self.licence,
            parameters=self._parameters,
            operators=dict(self._operators),
            interface=self.interface,
            notes=(f"written by {self._version}",) if self._version else (),
        )

    def _file(self, job: str, name: str, **request: Any) -> bytes:
        self.open()
        path = self._process.path(name)
        self._process.call(job, file=str(path), **request)
        try:
            return path.read_bytes()
        except OSError:
            raise InputError(f"{self._subject}: TensorFlow's process left no {name}") from None

    def _columns(self, samples: Iterable[Tensors]) -> list[Tensor]:
        """All samples, one array an input."""
        rows: list[list[Tensor]] = [[] for _ in self.interface.inputs]
        total = 0
        for sample in samples:
            given = sample.tensors()
            for spec, row in zip(self.interface.inputs, rows, strict=True):
                if spec.name not in given:
                    raise InputError(f"{self._subject}: a sample lacks input {spec.name}")
                row.append(self._column(spec, np.asarray(given[spec.name])))
                total += row[-1].nbytes
            if total > MAX_SAMPLES_BYTES:
                raise InputError(
                    f"{self._subject}: the calibration samples take more than "
                    f"{MAX_SAMPLES_BYTES} bytes; give fewer"
                )
        if not rows[0]:
            raise InputError(
                f"{self._subject}: fixed activations need samples for their ranges, got none"
            )
        return [np.concatenate(row) for row in rows]

    def _column(self, spec: TensorSpec, value: Tensor) -> Tensor:
        if value.ndim != len(spec.shape) or value.shape[1:] != spec.shape[1:] or not len(value):
            raise InputError(
                f"{self._subject}: input {spec.name} has the shape {list(value.shape)}, "
                f"expected {list(spec.shape)}"
            )
        return np.ascontiguousarray(value, dtype=spec.dtype)


def _spec(told: Sequence[Any]) -> TensorSpec:
    name, dtype, shape = told
    return TensorSpec(
        str(name),
        str(dtype),
        tuple(dim if isinstance(dim, int) else str(dim) for dim in shape),
        layout="NHWC" if len(shape) == PICTURE_RANK else None,
    )
