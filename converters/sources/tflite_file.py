"""A .tflite file that somebody else made: checked, run as it is, led to LiteRT only.

It may hold numbers of any width already; then it is its own reference, and nothing can be said of
what its maker lost. Order: size, structure, then the engine, in a bundle's own backend.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.operators import operators_of, read_tflite
from converters.quiet import quiet
from converters.sources.interface import Description, Exported, Interface
from converters.sources.shapes import PICTURE_RANK, settled
from edge_runtime.bundle.manifest import DTYPES, Quantization, TensorSpec
from edge_runtime.errors import InputError
from edge_runtime.inference.backend import Tensor, one_line
from edge_runtime.inference.tasks.items import BATCH


def open_tflite(
    path: Path, *, shapes: Mapping[str, Sequence[int]] | None = None, licence: str = "unknown"
) -> TfliteModel:
    """The model at `path`.

    Raises:
        InputError: not a whole .tflite file, not one entry point, or the engine cannot load it.
    """
    data = read_tflite(path)
    where = f"model {path.name}"
    with quiet():
        try:
            from ai_edge_litert.interpreter import Interpreter

            interpreter = Interpreter(model_content=data, num_threads=2)
            names = list(interpreter.get_signature_list())
            if len(names) != 1:
                raise InputError(
                    f"{where}: has {len(names)} signatures, expected exactly one; convert it "
                    "again with one"
                )
            runner = interpreter.get_signature_runner(names[0])
            inputs, outputs = runner.get_input_details(), runner.get_output_details()
        except (ValueError, RuntimeError) as reason:
            raise InputError(f"{where}: LiteRT cannot load it ({one_line(reason)[:300]})") from None
    dims = {
        name: [1 if not place else int(size) for place, size in enumerate(one["shape_signature"])]
        if len(one["shape_signature"]) else []
        for name, one in inputs.items()
    }  # fmt: skip
    settled({name: [d if d > 0 else None for d in one] for name, one in dims.items()},
            dict(shapes or {}), where)  # fmt: skip
    interface = Interface(
        "",
        tuple(_spec(name, one, where, i=True) for name, one in inputs.items()),
        tuple(_spec(name, one, where, i=False) for name, one in outputs.items()),
    )
    return TfliteModel(path.stem, data, interpreter, runner, interface, licence)


class TfliteModel:
    """See `FloatModel`."""

    def __init__(
        self,
        name: str,
        data: bytes,
        interpreter: Any,
        runner: Any,
        interface: Interface,
        licence: str,
    ) -> None:
        self.name = name
        self.licence = licence
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.interface = interface
        self._data, self._runner = data, runner
        self._keep = interpreter

    @property
    def quantized(self) -> bool:
        """Whether weights are integers already."""
        return _has_integers(self._data)

    def export(self, backend: str, *, opset: int, lengths: Sequence[int]) -> Exported:
        """See `FloatModel`: the file itself."""
        if backend != "litert":
            raise InputError(
                f"model {self.name}: no way leads from TFLite to {backend}; bring the model it was "
                "made from"
            )
        return Exported(self._data)

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `FloatModel`; one row at a time."""
        names = [one.name for one in self.interface.outputs]
        rows = []
        for at in range(len(next(iter(feeds.values())))):
            ready = {
                spec.name: np.ascontiguousarray(feeds[spec.name][at : at + 1], dtype=spec.dtype)
                for spec in self.interface.inputs
            }
            try:
                rows.append(self._runner(**ready))
            except (ValueError, RuntimeError) as reason:
                raise InputError(
                    f"model {self.name}: LiteRT fails ({one_line(reason)[:300]})"
                ) from None
        return {name: np.concatenate([row[name] for row in rows]) for name in names}

    def describe(self) -> Description:
        """See `FloatModel`."""
        from ai_edge_litert import schema_py_generated as schema

        file: Any = schema.ModelT.InitFromPackedBuf(self._data, 0)
        weights = sum(
            int(np.prod(tensor.shape))
            for graph in file.subgraphs
            for tensor in graph.tensors
            if file.buffers[tensor.buffer].data is not None and tensor.shape is not None
        )
        note = "weights are integers already; it is its own reference"
        return Description(
            format="TFLite",
            name=self.name,
            sha256=self.sha256,
            size_bytes=len(self._data),
            licence=self.licence,
            parameters=weights,
            operators=operators_of(self._data),
            interface=self.interface,
            notes=(note,) if self.quantized else (),
        )


def _has_integers(data: bytes) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    file: Any = schema.ModelT.InitFromPackedBuf(data, 0)
    small = (schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT4)
    return any(
        tensor.type in small and file.buffers[tensor.buffer].data is not None
        for graph in file.subgraphs
        for tensor in graph.tensors
    )


def _spec(name: str, details: Any, where: str, *, i: bool) -> TensorSpec:
    dtype = np.dtype(details["dtype"]).name
    if dtype not in DTYPES:
        kind = "input" if i else "output"
        raise InputError(
            f"{where}: {kind} {name} is of {dtype}, expected one of {', '.join(DTYPES)}"
        )
    sizes = [int(size) for size in details["shape"]]
    shape = tuple(BATCH if not place and size == 1 else size for place, size in enumerate(sizes))
    scale, zero_point = details.get("quantization", (0.0, 0))
    kept = Quantization((float(scale),), (int(zero_point),)) if scale else None
    layout = "NHWC" if i and len(shape) == PICTURE_RANK else None
    return TensorSpec(name, dtype, shape, layout, kept)
