"""An opened model, written: as a .tflite file by TensorFlow's converter, as ONNX by tf2onnx.

Names of inputs and outputs are the interface's in both. A .tflite file has batch 1 and one entry
point; an ONNX file has "batch" where the model's is free. Pictures stay NHWC. An operator that a
format lacks is refused by name: tf2onnx would write it down all the same.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from converters.tensorflow.opened import BATCH, Opened
from converters.tensorflow.ways import Way
from edge_runtime.errors import InputError
from edge_runtime.text import plain

ENTRY = "serving_default"
LARGE_BYTES = 1 << 30
"""Of weights: above, protobuf's limit of 2 GiB comes near."""


def tflite(opened: Opened, way: Way, samples: list[Any]) -> bytes:
    """The model as a .tflite file.

    `samples`: for each input an array (rows, …) of what it really gets; unused where activations
    stay float.

    Raises:
        InputError: no samples where they are needed.
        Exception: the converter's, whatever it is.
    """
    root = tf.Module()
    root.keep = opened.keep
    # The converter crashes where it calibrates a loop.
    with opened.unrolled() if way.needs_samples else contextlib.nullcontext():
        concrete = opened.concrete(1)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(root, folder, signatures={ENTRY: concrete})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[ENTRY])
        if way.weights != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if way.weights == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if way.needs_samples:
            _fix(converter, way, opened, samples)
        return bytes(converter.convert())


def _fix(converter: Any, way: Way, opened: Opened, samples: list[Any]) -> None:
    """Tell the converter to compute in integers, with ranges from `samples`."""
    if not samples or not len(samples[0]):
        raise InputError(f"{way.activations} activations need samples for their ranges, got none")
    sets = tf.lite.OpsSet
    operators = {
        "int8": sets.TFLITE_BUILTINS_INT8,
        "int16": sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
    }

    def rows() -> Iterator[dict[str, Any]]:
        for i in range(len(samples[0])):
            yield {
                name: np.asarray(column[i : i + 1], dtype)
                for (name, dtype, _), column in zip(opened.inputs, samples, strict=True)
            }

    converter.representative_dataset = rows
    converter.target_spec.supported_ops = [operators[way.activations]]
    if way.integer_io:
        converter.inference_input_type = tf.as_dtype(way.activations)
        converter.inference_output_type = tf.as_dtype(way.activations)


def onnx(opened: Opened, opset: int) -> bytes:
    """The model as an ONNX file of `opset`.

    Raises:
        InputError: it is too large for one file, or ONNX lacks an operator of it.
        Exception: tf2onnx's, whatever it is.
    """
    import onnx as library
    from tf2onnx import optimizer, tf_loader, tfonnx
    from tf2onnx.handler import tf_op

    tf_op("Erfc")(_Erfc)
    concrete = opened.concrete(None)
    inputs = {f"{name}:0": name for name, _, _ in opened.inputs}
    outputs = {concrete.structured_outputs[name].name: name for name, _, _ in opened.outputs}
    found = {one.name for one in concrete.inputs}
    if missing := sorted(set(inputs) - found):
        raise InputError(f"the input {missing[0]} got another name in its graph")
    graph = tf_loader.from_function(concrete, list(inputs), list(outputs))
    if graph.ByteSize() > LARGE_BYTES:
        raise InputError(
            f"its weights take {graph.ByteSize()} bytes, an ONNX file may hold {LARGE_BYTES}"
        )
    with tf.Graph().as_default() as inside:
        tf.import_graph_def(graph, name="")
        made = tfonnx.process_tf_graph(
            inside,
            opset=opset,
            input_names=list(inputs),
            output_names=list(outputs),
            tensors_to_rename=inputs | outputs,
        )
        model = optimizer.optimize_graph(made).make_model("made of TensorFlow")
    lacking = {
        node.op_type
        for node in model.graph.node
        if node.domain not in ("", "ai.onnx")
        or not library.defs.has(node.op_type, max_inclusive_version=opset, domain="")
    }
    if lacking:
        names = ", ".join(sorted(map(plain, lacking)))
        raise InputError(f"ONNX of opset {opset} has no operator for {names}")
    _name_dims(model, opened)
    return bytes(model.SerializeToString())


class _Erfc:
    """Keras's exact GELU; ONNX has Erf only."""

    @classmethod
    def version_9(cls, context: Any, node: Any, **_rest: Any) -> None:
        """erfc(x) = 1 − erf(x)."""
        shape, dtype = node.output_shapes, node.output_dtypes
        kept = context.make_const(f"{node.name}_one", np.ones((), np.float32)).output[0]
        source, target = node.input[0], node.output[0]
        context.remove_node(node.name)
        erf = context.make_node("Erf", [source], shapes=shape, dtypes=dtype)
        context.make_node(
            "Sub", [kept, erf.output[0]], outputs=[target], shapes=shape, dtypes=dtype
        )


def _name_dims(model: Any, opened: Opened) -> None:
    """Declare the interface's shapes, with its names of free dims."""
    declared = {name: shape for name, _, shape in (*opened.inputs, *opened.outputs)}
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for size in declared[value.name]:
            if size == BATCH:
                shape.dim.add().dim_param = BATCH
            else:
                shape.dim.add().dim_value = int(size)
    del model.graph.value_info[:]
