"""A Keras model or a SavedModel, opened: one function with named tensors and known shapes.

Both kinds end as `Opened`: a function from a dict by input name to a dict by output name, so that
the reference, TFLite and ONNX are made from the very same thing. Nothing of the model's own code is
run: Keras reads with its safe mode, and a SavedModel whose graph touches files or calls Python is
refused before it is loaded.

A dim that is free, other than the batch, must be given. Output shapes are what the function answers
for one row and for three, not what it claims.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from converters.sources.keras_file import HDF5, refuse_code
from edge_runtime.errors import InputError
from edge_runtime.text import plain

BATCH = "batch"
ROWS = 256
"""In one run of the reference."""
PROBED = (1, 3)
Shape = tuple[int | str, ...]
Dims = tuple[int | None, ...]
DTYPES = ("float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool")
SILENT = ("Const", "Identity", "NoOp", "Placeholder", "ReadVariableOp")
"""Operators that compute nothing."""
UNSAFE = (
    "EagerPyFunc", "ImmutableConst", "MatchingFiles", "PyFunc", "PyFuncStateless", "ReadFile",
    "WholeFileReader", "WholeFileReaderV2", "WriteFile",
)  # fmt: skip
"""Operators that read or write files of their own choice, or call Python."""
FILE_STREAM = b"file://"


@dataclass(frozen=True, slots=True)
class Opened:
    """`function` maps {input: tensor} to {output: tensor}. `keep` owns the
    variables that it reads: they must live, and be written, with it.

    `inputs` and `outputs`: (name, dtype, shape), in the model's order. `loops` are layers that step
    through time and can be unrolled.
    """

    function: Callable[[dict[str, Any]], dict[str, Any]]
    keep: Any
    parameters: int
    inputs: tuple[tuple[str, str, Shape], ...]
    outputs: tuple[tuple[str, str, Shape], ...]
    operators: Mapping[str, int]
    written_by: str
    loops: tuple[Any, ...] = ()

    def told(self) -> dict[str, Any]:
        """For the other side."""
        return {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "operators": self.operators,
            "parameters": self.parameters,
            "written_by": self.written_by,
        }

    def concrete(self, rows: int | None) -> Any:
        """The traced function for `rows` rows; None leaves the batch free where the model does."""
        traced = tf.function(lambda **tensors: self.function(tensors), autograph=False)
        return traced.get_concrete_function(
            **{
                name: tf.TensorSpec(_sized(shape, rows), dtype, name=name)
                for name, dtype, shape in self.inputs
            }
        )

    @contextlib.contextmanager
    def unrolled(self) -> Iterator[None]:
        """What is traced inside the block has its steps through time one after another."""
        before = [layer.unroll for layer in self.loops]
        try:
            for layer in self.loops:
                layer.unroll = True
            yield
        finally:
            for layer, was in zip(self.loops, before, strict=True):
                layer.unroll = was

    def frozen(self, rows: int | None) -> Any:
        """The same with its weights as constants and its functions inlined."""
        return convert_variables_to_constants_v2(self.concrete(rows), lower_control_flow=False)

    def run(self, feeds: list[Any]) -> list[Any]:
        """Outputs in their order for any number of rows, computed in parts.

        Raises:
            InputError: the inputs differ in rows, or their number is not the model's.
        """
        if len(feeds) != len(self.inputs):
            raise InputError(f"takes {len(self.inputs)} inputs, got {len(feeds)}")
        free = all(shape[0] == BATCH for _, _, shape in self.inputs)
        rows = {len(one) for one in feeds}
        if len(rows) != 1:
            raise InputError(f"its inputs have {sorted(rows)} rows, expected the same of all")
        call, part, parts = self.concrete(None), ROWS if free else 1, []
        for start in range(0, rows.pop(), part):
            found = call(
                **{
                    name: tf.constant(feed[start : start + part], dtype)
                    for (name, dtype, _), feed in zip(self.inputs, feeds, strict=True)
                }
            )
            parts.append([found[name].numpy() for name, _, _ in self.outputs])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


def open_model(path: Path, shapes: Mapping[str, tuple[int, ...]], signature: str) -> Opened:
    """Open a .keras or .h5 file, or a SavedModel's folder; `shapes` by input fixes free dims.

    Raises:
        InputError: a dim is free, a tensor has a type that no engine takes, code in the file.
        Exception: whatever TensorFlow says of a broken file.
    """
    if path.is_dir():
        return _open_saved(path, shapes, signature)
    if path.read_bytes()[: len(HDF5)] == HDF5:
        _check_hdf5(path)
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    return _of_keras(model, shapes)


def _check_hdf5(path: Path) -> None:
    import h5py

    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
    if config is None:
        raise InputError("the file holds weights only, expected a whole model")
    refuse_code(json.loads(config))


def _of_keras(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> Opened:
    graph = getattr(model, "_functional", None) or model
    tensors = getattr(graph, "inputs", None) if model.built else None
    if not tensors:
        raise InputError(
            "the model does not say what its inputs are: build it with an Input before saving, or "
            "export it as a SavedModel"
        )
    declared = [
        (tensor._keras_history.operation.name, tensor.dtype, tuple(tensor.shape))
        for tensor in tensors
    ]
    inputs = _fixed(declared, shapes)
    structure = getattr(graph, "_inputs_struct", tensors)
    names = _output_names(graph)

    def function(given: dict[str, Any]) -> dict[str, Any]:
        flat = [given[name] for name, _, _ in inputs]
        found = model(tf.nest.pack_sequence_as(structure, flat), training=False)
        return dict(zip(names, tf.nest.flatten(found), strict=True))

    weights = [variable.value for variable in model.variables if not _seed(variable)]
    return Opened(
        function=function,
        keep=weights,
        parameters=sum(int(np.prod(one.shape)) for one in weights),
        inputs=inputs,
        outputs=_probed(function, inputs),
        operators=dict(sorted(Counter(type(one).__name__ for one in _layers(model)).items())),
        written_by="",
        loops=tuple(one for one in _layers(model) if hasattr(one, "unroll")),
    )


def _layers(model: Any) -> Iterator[Any]:
    """Its layers, those of a model inside it one by one."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _seed(variable: Any) -> bool:
    """Whether it is the state of a generator, which no prediction reads."""
    return "seed_generator" in variable.path


def _output_names(graph: Any) -> list[str]:
    """The keys of a dict of outputs, else the names of the layers that make them."""
    structure = graph._outputs_struct
    if isinstance(structure, Mapping) and all(
        not isinstance(one, (Mapping, list, tuple)) for one in structure.values()
    ):
        return sorted(structure)  # the order of tf.nest.flatten
    names = list(graph.output_names)
    return [
        name if names.count(name) == 1 else f"{name}_{names[:i].count(name)}"
        for i, name in enumerate(names)
    ]


def _open_saved(folder: Path, shapes: Mapping[str, tuple[int, ...]], signature: str) -> Opened:
    version = _check_graph(folder / "saved_model.pb")
    loaded = tf.saved_model.load(str(folder))
    known = sorted(name for name in loaded.signatures if not name.startswith("__"))
    chosen = signature or ("serving_default" if "serving_default" in known else "")
    if not chosen and len(known) == 1:
        chosen = known[0]
    if chosen not in known:
        wanted = f"no signature {signature!r}" if signature else "no signature serving_default"
        raise InputError(f"it has {wanted}; it has {', '.join(known) or 'none'}")
    served = loaded.signatures[chosen]
    specs, answers = served.structured_input_signature[1], served.structured_outputs
    declared = [(name, specs[name].dtype.name, _dims(specs[name], name)) for name in sorted(specs)]
    inputs = _fixed(declared, shapes)

    def function(given: dict[str, Any]) -> dict[str, Any]:
        found = served(**given)
        return {name: found[name] for name in sorted(answers)}

    opened = Opened(
        function=function,
        keep=loaded,
        parameters=sum(int(np.prod(one.shape)) for one in served.variables),
        inputs=inputs,
        outputs=_probed(function, inputs),
        operators={},
        written_by=version,
    )
    kinds = Counter(node.op for node in opened.frozen(None).graph.as_graph_def().node)
    counted = {kind: count for kind, count in sorted(kinds.items()) if kind not in SILENT}
    return replace(opened, operators=counted)


def _dims(spec: Any, name: str) -> tuple[int | None, ...]:
    if spec.shape.rank is None:
        raise InputError(f"input {name} has no declared number of dims")
    return tuple(spec.shape.as_list())


def _check_graph(path: Path) -> str:
    """The release of TensorFlow that wrote it.

    Raises:
        InputError: not a SavedModel, or an operator of its graph reaches outside.
    """
    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString(path.read_bytes())
    except DecodeError:
        raise InputError(f"{path.name} is no SavedModel, or was cut off") from None
    if not saved.meta_graphs:
        raise InputError(f"{path.name} holds no graph")
    for meta in saved.meta_graphs:
        functions = [node for one in meta.graph_def.library.function for node in one.node_def]
        for node in [*meta.graph_def.node, *functions]:
            to_file = node.op == "PrintV2" and node.attr["output_stream"].s.startswith(FILE_STREAM)
            if node.op in UNSAFE or to_file:
                raise InputError(
                    f"its operator {plain(node.name)} ({node.op}) reaches files or Python code, "
                    "which no model that is converted may do"
                )
    version = saved.meta_graphs[0].meta_info_def.tensorflow_version
    return f"TensorFlow {plain(version, 40)}"


def _fixed(
    declared: Sequence[tuple[str, str, Dims]],
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[tuple[str, str, Shape], ...]:
    """The inputs with every dim a size, but for the batch.

    Raises:
        InputError: names every input with a free dim, a shape given that does not fit, a type that
            no engine takes.
    """
    names = [name for name, _, _ in declared]
    if unknown := sorted(set(shapes) - set(names)):
        raise InputError(f"it has no input {unknown[0]}; its inputs are {', '.join(names)}")
    inputs: list[tuple[str, str, Shape]] = []
    free: list[tuple[str, Any]] = []
    for name, dtype, dims in declared:
        if dtype not in DTYPES:
            raise InputError(f"input {name} has the type {dtype}, expected {', '.join(DTYPES)}")
        given = shapes.get(name)
        shape = _merged(name, dims, given) if given else list(dims)
        if not shape:
            raise InputError(f"input {name} is a single number, expected a first dim for the batch")
        if shape[0] not in (None, 1):
            raise InputError(
                f"input {name} has a fixed batch of {shape[0]}, expected 1 or a free one"
            )
        if None in shape[1:]:
            free.append((name, shape))
        inputs.append((name, dtype, (shape[0] or BATCH, *(dim or 0 for dim in shape[1:]))))
    if free:
        told = "; ".join(
            f"input {name} is ({', '.join('free' if d is None else str(d) for d in shape)})"
            for name, shape in free
        )
        example = ",".join(str(d or 224) for d in (1, *free[0][1][1:]))
        raise InputError(
            f"engines want fixed shapes behind the batch, and {told}: "
            f"give --shape {free[0][0]}={example} with sizes of yours"
        )
    return tuple(inputs)


def _merged(name: str, dims: Dims, given: tuple[int, ...]) -> list[int | None]:
    """`dims` with the free ones given; a first 1 leaves a free batch free."""
    told = ",".join(map(str, given))
    fits = len(dims) == len(given) and all(
        size > 0 and dim in (None, size) for dim, size in zip(dims, given, strict=True)
    )
    if not fits or given[0] != 1:
        wanted = ", ".join("free" if dim is None else str(dim) for dim in dims)
        raise InputError(
            f"--shape {name}={told} does not fit the input's ({wanted}); the batch is given as 1"
        )
    return [dims[0], *given[1:]]


def _probed(
    function: Callable[[dict[str, Any]], dict[str, Any]],
    inputs: tuple[tuple[str, str, Shape], ...],
) -> tuple[tuple[str, str, Shape], ...]:
    """The outputs, from what zeros of one row and, where the batch is free, of three give."""
    free = all(shape[0] == BATCH for _, _, shape in inputs)
    found = []
    for rows in PROBED if free else PROBED[:1]:
        zeros = {name: tf.zeros(_sized(shape, rows), dtype) for name, dtype, shape in inputs}
        found.append({name: (one.dtype.name, one.shape) for name, one in function(zeros).items()})
    outputs = []
    for name, (dtype, shape) in found[0].items():
        if dtype not in DTYPES:
            raise InputError(f"output {name} has the type {dtype}, expected {', '.join(DTYPES)}")
        dims: list[int | str] = shape.as_list()
        other = found[-1][name][1].as_list()
        if free and dims[:1] + other[:1] == list(PROBED):
            dims[0] = other[0] = BATCH
        if dims != other or not dims:
            raise InputError(
                f"output {name} is {shape.as_list()} for one row and {other} for three; expected "
                "the batch first and all else fixed"
            )
        outputs.append((name, dtype, tuple(dims)))
    return tuple(outputs)


def _sized(shape: Shape, rows: int | None) -> list[int | None]:
    return [rows if dim == BATCH else int(dim) for dim in shape]
