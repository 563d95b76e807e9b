"""An ONNX file that somebody else made: read with its external data, checked, run as it is.

It leads to ONNX Runtime only: what turns ONNX into TFLite loses numbers on the way. Nothing is read
outside the file's own folder. Order: size, structure, where its data lies, operators, shapes, the
engine.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from converters.operators import check_onnx, operators_of, read_onnx
from converters.ort import host_threads, open_session
from converters.quiet import quiet
from converters.sources.interface import Description, Exported, Interface
from converters.sources.shapes import PICTURE_RANK, settled
from edge_runtime.bundle.manifest import DTYPES, TensorSpec
from edge_runtime.errors import InputError
from edge_runtime.inference.backend import Tensor, one_line
from edge_runtime.inference.tasks.items import BATCH

FIRST_OWN_WEIGHTS = 4
"""The first version of the format in which weights need not be inputs."""
FIRST_KNOWN, RAISED_TO = 7, 17
"""The engine's first opset, and what older files are raised to."""
FIRST_QUANTIZED = 13
"""The first opset with a scale for each channel."""


def open_onnx(
    path: Path, *, shapes: Mapping[str, Sequence[int]] | None = None, licence: str = "unknown"
) -> OnnxModel:
    """The model at `path`; `shapes` fix dimensions that it leaves free.

    Raises:
        InputError: not a whole ONNX file, data outside its folder, operators that the engine does
            not know, a free dimension, or the engine cannot load it.
    """
    where = f"model {path.name}"
    proto = read_onnx(path)
    if _opset(proto) < FIRST_KNOWN:
        with contextlib.suppress(InputError):  # then whatever is unknown is named
            proto = _raised(proto, RAISED_TO, where)
    check_onnx(proto, where)
    _fix(proto, dict(shapes or {}), where)
    data = proto.SerializeToString()
    try:
        with quiet():
            session = open_session(data, threads=host_threads())
    except Exception as reason:  # of its own kinds, without a common base
        raise InputError(
            f"{where}: ONNX Runtime cannot load it ({one_line(reason)[:300]})"
        ) from None
    return OnnxModel(path, proto, data, session, licence)


class OnnxModel:
    """See `FloatModel`."""

    def __init__(self, path: Path, proto: Any, data: bytes, session: Any, licence: str) -> None:
        self._proto, self._data, self._session = proto, data, session
        self.name = path.stem
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.licence = _licence(proto) or licence
        inputs = tuple(_spec(one, self.name, i=True) for one in session.get_inputs())
        outputs = tuple(_spec(one, self.name, i=False) for one in session.get_outputs())
        self.interface = Interface("", inputs, outputs)
        self.interface = replace(self.interface, outputs=self._probed())

    def _probed(self) -> tuple[TensorSpec, ...]:
        """The outputs with the sizes that they really have, where the inputs leave only the batch
        free: a graph may go on calling them by a name.
        """
        inputs, outputs = self.interface.inputs, self.interface.outputs
        named = any(isinstance(dim, str) for spec in outputs for dim in spec.shape[1:])
        if not named or any(isinstance(dim, str) for spec in inputs for dim in spec.shape[1:]):
            return outputs
        feeds = {
            spec.name: np.zeros([1 if isinstance(d, str) else d for d in spec.shape], spec.dtype)
            for spec in inputs
        }
        found = self._run([one.name for one in outputs], feeds)
        return tuple(
            replace(spec, shape=(*spec.shape[:1], *value.shape[1:]))
            for spec, value in zip(outputs, found, strict=True)
        )

    def export(self, backend: str, *, opset: int, lengths: Sequence[int]) -> Exported:
        """See `FloatModel`: the file with its data inside.

        Its opset is raised to `opset` where it is older than quantized operators are.
        """
        if backend != "onnxruntime":
            raise InputError(
                f"model {self.name}: no way leads from ONNX to {backend}; bring the PyTorch or "
                "Keras model it was made from"
            )
        if _opset(self._proto) >= FIRST_QUANTIZED:
            return Exported(self._data)
        raised = _raised(self._proto, opset, f"model {self.name}")
        return Exported(bytes(raised.SerializeToString()))

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `FloatModel`; one row at a time where the file's batch is fixed."""
        names = [one.name for one in self.interface.outputs]
        single = all(spec.shape and spec.shape[0] == 1 for spec in self.interface.inputs)
        count = max((len(value) for value in feeds.values() if value.ndim), default=1)
        if not single or count <= 1:
            return dict(zip(names, self._run(names, feeds), strict=True))
        rows = [
            self._run(names, {key: value[at : at + 1] for key, value in feeds.items()})
            for at in range(count)
        ]
        return {name: np.concatenate([row[at] for row in rows]) for at, name in enumerate(names)}

    def _run(self, names: Sequence[str], feeds: Mapping[str, Tensor]) -> list[Tensor]:
        try:
            values: list[Tensor] = self._session.run(list(names), dict(feeds))
        except Exception as reason:  # as above
            raise InputError(
                f"model {self.name}: ONNX Runtime fails ({one_line(reason)[:300]})"
            ) from None
        return values

    def describe(self) -> Description:
        """See `FloatModel`."""
        proto = self._proto
        return Description(
            format="ONNX",
            name=self.name,
            sha256=self.sha256,
            size_bytes=len(self._data),
            licence=self.licence,
            parameters=sum(int(np.prod(one.dims)) for one in proto.graph.initializer),
            operators=operators_of(proto),
            interface=self.interface,
            opset=tuple((one.domain or "ai.onnx", one.version) for one in proto.opset_import),
            notes=(f"made by {proto.producer_name} {proto.producer_version}".strip(),)
            if proto.producer_name
            else (),
        )


def _opset(proto: Any) -> int:
    """The version of ONNX's own operators."""
    return next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 1)


def _raised(proto: Any, opset: int, where: str) -> Any:
    """The same model with the operators of a newer version.

    Raises:
        InputError: the library cannot.
    """
    from onnx import version_converter

    try:
        return version_converter.convert_version(proto, opset)
    except Exception as reason:  # of its native code, without a common base
        raise InputError(
            f"{where}: its opset {_opset(proto)} cannot be raised to {opset}, and older ones than "
            f"{FIRST_QUANTIZED} cannot be quantized ({one_line(reason)[:200]})"
        ) from None


def _fix(proto: Any, shapes: Mapping[str, Sequence[int]], where: str) -> None:
    """Write the settled shapes into the graph's inputs; what followed from others is dropped."""
    constant = {one.name for one in proto.graph.initializer}
    inputs = [one for one in proto.graph.input if one.name not in constant]
    # Old files list their weights among the inputs, where a caller could replace them.
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, FIRST_OWN_WEIGHTS)
    inputs = list(proto.graph.input)  # the graph's own now, no copies
    dims = {}
    for one in inputs:
        if not one.type.HasField("tensor_type"):
            raise InputError(f"{where}: input {one.name} is no tensor, nothing can be fed to it")
        dims[one.name] = [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in one.type.tensor_type.shape.dim
        ]
    if not inputs:
        raise InputError(f"{where}: has no inputs")
    for name, shape in settled(dims, shapes, where).items():
        (one,) = (each for each in inputs if each.name == name)
        for dim, size in zip(one.type.tensor_type.shape.dim, shape, strict=True):
            if isinstance(size, int):
                dim.dim_value = size
            else:
                dim.dim_param = size
    if shapes:
        del proto.graph.value_info[:]


_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int8)": "int8",
    "tensor(uint8)": "uint8", "tensor(int16)": "int16", "tensor(int32)": "int32",
    "tensor(int64)": "int64", "tensor(bool)": "bool",
}  # fmt: skip


def _spec(argument: Any, name: str, *, i: bool) -> TensorSpec:
    """An input or output of the session; a free dimension of an output keeps a name."""
    kind = "input" if i else "output"
    dtype = _TYPES.get(argument.type, "")
    if dtype not in DTYPES:
        raise InputError(
            f"model {name}: {kind} {argument.name} is of {argument.type}, expected one of "
            f"{', '.join(_TYPES)}"
        )
    shape = tuple(
        dim if isinstance(dim, int) and dim > 0
        else BATCH if not place
        else _named(dim, place)
        for place, dim in enumerate(argument.shape)
    )  # fmt: skip
    layout = "NCHW" if i and len(shape) == PICTURE_RANK else None
    return TensorSpec(argument.name, dtype, shape, layout)


def _named(dim: object, place: int) -> str:
    word = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in str(dim))
    return word if isinstance(dim, str) and word[:1].isalnum() else f"dim{place}"


def _licence(proto: Any) -> str:
    """What the file's own metadata says, if anything."""
    found = {one.key.lower(): one.value for one in proto.metadata_props}
    for key in ("license", "licence", "model_license"):
        if found.get(key):
            return str(found[key])[:200]
    return ""
