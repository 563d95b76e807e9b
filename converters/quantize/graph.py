"""Where an ONNX graph keeps its weights: layers by name, the same in the plain and fused graph.

A layer is a node with a constant matrix: a MatMul, a fused Attention (query, key and value in one),
the Gather of an embedding table, or a convolution. The classifier head of a transformer, a Gemm, is
none: it is small, and every error there is an error of the answer. Where a net has no other
matrices, as convolutional and dense nets, its Gemms are layers, once `plain_gemms` has turned them
one way. `open_embeddings` takes fused embeddings apart, because the fused operator knows one scale
for a whole table only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from converters.ort import open_session
from converters.quantize.observers import Observer
from converters.quantize.samples import Sample

if TYPE_CHECKING:
    import onnx

CONTRIB = "com.microsoft"
CONVOLUTIONS = ("Conv", "ConvTranspose")
MATRICES = ("MatMul", "Attention")
WEIGHT_AT = {"MatMul": 1, "Attention": 1, "Gather": 0, "Conv": 1, "ConvTranspose": 1, "Gemm": 1}
"""Operator → which input holds the weight."""
SMALLEST_TABLE = 64
"""Rows: below, an embedding is not worth a scale."""
MASK_LIMIT, MASK_VALUE = -1e4, -30.0
"""A constant below the limit can only mask; e to the power of the value is nothing either."""


@dataclass(frozen=True, slots=True)
class Layer:
    """`op` is a key of WEIGHT_AT; `source` the tensor of its activations (or ids)."""

    name: str
    op: str
    source: str
    weight: str
    output: str


class Graph:
    """An ONNX model that is being rewritten: constants by name, nodes appended in order."""

    def __init__(self, model: bytes) -> None:
        import onnx

        self.proto = onnx.load_from_string(model)
        self.constants = {one.name: one for one in self.proto.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []

    def array(self, name: str) -> npt.NDArray[Any]:
        """The constant of that name."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name])

    def constant(self, name: str, value: npt.NDArray[Any] | np.generic) -> str:
        """Add a constant, or keep the one that is there; its name."""
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str] | str,
        domain: str = "", **attributes: Any,
    ) -> str:  # fmt: skip
        """Append a node, named after its first output, which is returned."""
        from onnx import helper

        outputs = [outputs] if isinstance(outputs, str) else list(outputs)
        name = f"{outputs[0]}/{op}"
        self.nodes.append(
            helper.make_node(op, list(inputs), outputs, name, domain=domain, **attributes)
        )
        return outputs[0]

    def finish(self) -> bytes:
        """The model with the appended nodes for its own, and only the constants they use."""
        from onnx import helper

        graph = self.proto.graph
        del graph.node[:]
        graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in _read(node)}
        used |= {output.name for output in graph.output}
        del graph.initializer[:]
        graph.initializer.extend(one for name, one in self.constants.items() if name in used)
        domains = {one.domain for one in self.proto.opset_import}
        if CONTRIB not in domains and any(node.domain == CONTRIB for node in self.nodes):
            self.proto.opset_import.append(helper.make_opsetid(CONTRIB, 1))
        return bytes(self.proto.SerializeToString())


def _read(node: onnx.NodeProto) -> set[str]:
    """Every tensor that a node reads, those that its subgraphs take from outside included."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names.update(*(_read(inner) for inner in graph.node))
            names.update(output.name for output in graph.output)
    return names


def find_layers(proto: onnx.ModelProto) -> tuple[Layer, ...]:
    """Every layer, in the order of the graph. A weight that several nodes share is left out."""
    shapes = {one.name: one.dims for one in proto.graph.initializer if one.data_type == 1}
    uses: dict[str, int] = {}
    for node in proto.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    layers = []
    for node in proto.graph.node:
        at = WEIGHT_AT.get(node.op_type)
        if at is None or len(node.input) <= at:
            continue
        weight = node.input[at]
        dims = shapes.get(weight, ())
        table, kernel = node.op_type == "Gather", node.op_type in CONVOLUTIONS
        fits = len(dims) > 2 if kernel else len(dims) == 2
        if not fits or uses[weight] != 1 or (table and dims[0] < SMALLEST_TABLE):
            continue
        given = node.input[1:]
        if node.op_type == "Gemm" and (node.attribute or any(n not in shapes for n in given)):
            continue
        source = node.input[1 - at]
        layers.append(Layer(_name(node, weight), node.op_type, source, weight, node.output[0]))
    gemms = not any(one.op in MATRICES for one in layers)
    return tuple(one for one in layers if one.op != "Gemm" or gemms)


def _name(node: onnx.NodeProto, weight: str) -> str:
    """`encoder.layer.0.attention.output.dense`: the module's path below the encoder."""
    if node.op_type == "Gather":
        path = weight.removesuffix(".weight")
    elif node.op_type == "Attention":
        path = node.output[0].strip("/").rpartition("/")[0].replace("/", ".") + ".qkv"
    else:
        path = (node.name or node.output[0]).strip("/").rpartition("/")[0].replace("/", ".")
    return path.removeprefix("network.").removeprefix("encoder.") or weight


def open_embeddings(model: bytes) -> bytes:
    """Every EmbedLayerNormalization as Gather, Add and LayerNormalization; others as they were."""
    if b"EmbedLayerNormalization" not in model:
        return model
    graph = Graph(model)
    for node in graph.proto.graph.node:
        if node.op_type == "EmbedLayerNormalization" and node.input[2] in graph.constants:
            _open(graph, node)
        else:
            graph.nodes.append(node)
    return graph.finish()


def _open(graph: Graph, node: onnx.NodeProto) -> None:
    """Append what `node` computes: words + positions + segments, normed; and the mask's sum."""
    from onnx import helper

    inputs = dict(enumerate(node.input))
    ids, segments, words, positions, kinds, gamma, beta = (inputs.get(n, "") for n in range(7))
    out = node.output[0]
    total = graph.node("Gather", [words, ids], f"{out}.words")
    place = inputs.get(8, "")
    if not place:
        shape = graph.node("Shape", [ids], f"{out}.shape")
        length = graph.node("Gather", [shape, graph.constant(f"{out}.one", np.int64(1))],
                            f"{out}.length")  # fmt: skip
        zero, one = graph.constant(f"{out}.zero", np.int64(0)), f"{out}.one"
        place = graph.node("Range", [zero, length, one], f"{out}.places")
    if kinds and segments:
        extra = graph.node("Gather", [kinds, segments], f"{out}.kinds")
        total = graph.node("Add", [total, extra], f"{out}.typed")
    placed = graph.node("Gather", [positions, place], f"{out}.positions")
    total = graph.node("Add", [total, placed], f"{out}.sum")
    settings = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    epsilon = float(settings.get("epsilon", 1e-12))
    graph.node("LayerNormalization", [total, gamma, beta], out, axis=-1, epsilon=epsilon)
    if len(node.output) > 1 and node.output[1]:
        axis = graph.constant(f"{out}.axis", np.array([1], dtype=np.int64))
        graph.node("ReduceSum", [inputs[7], axis], node.output[1], keepdims=0)


def plain_gemms(model: bytes) -> bytes:
    """Every Gemm with constants as `x @ W + b`, W (in, out), if no layer is a matrix already."""
    if b"Gemm" not in model:
        return model
    graph = Graph(model)
    if any(one.op in MATRICES for one in find_layers(graph.proto)):
        return model
    turned = [_straighten(graph, node) for node in graph.proto.graph.node]
    if not any(turned):
        return model
    graph.nodes.extend(graph.proto.graph.node)
    return graph.finish()


def _straighten(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether `node` was a Gemm with settings; they are in its constants now."""
    from onnx import helper

    settings = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type != "Gemm" or not settings or settings.get("transA", 0):
        return False
    _, weight, bias = [*node.input, ""][:3]
    wanted = [weight, bias] if bias else [weight]
    if any(name not in graph.constants or graph.constants[name].data_type != 1 for name in wanted):
        return False
    matrix = graph.array(weight) * np.float32(settings.get("alpha", 1.0))
    if settings.get("transB", 0):
        matrix = np.ascontiguousarray(matrix.T)
    node.input[1] = graph.constant(f"{weight}.matrix", matrix)
    if bias and settings.get("beta", 1.0) != 1:
        shift = graph.array(bias) * np.float32(settings["beta"])
        node.input[2] = graph.constant(f"{bias}.shift", shift.astype(np.float32))
    del node.attribute[:]
    return True


def clamp_masks(model: bytes) -> bytes:
    """Scalars such as -3e38 as -30: they only mask, and would be the range of what they touch."""
    from onnx import numpy_helper

    graph = Graph(model)
    tensors = list(graph.proto.graph.initializer) + [
        attribute.t
        for node in graph.proto.graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    ]
    for tensor in tensors:
        if tensor.data_type == 1 and int(np.prod(tensor.dims)) == 1:
            value = numpy_helper.to_array(tensor)
            if float(value.reshape(-1)[0]) < MASK_LIMIT:
                clamped = np.full_like(value, MASK_VALUE)
                tensor.CopyFrom(numpy_helper.from_array(clamped, tensor.name))
    return bytes(graph.proto.SerializeToString())


@dataclass(frozen=True, slots=True)
class Seen:
    """Of each source: its range over the texts, and XᵀX where that was asked for."""

    observers: Mapping[str, Observer]
    grams: Mapping[str, npt.NDArray[np.float32]]


def observe(
    model: bytes,
    texts: Sequence[Sample],
    sources: Sequence[str],
    *,
    grams: Sequence[str] = (),
    histograms: bool = True,
) -> Seen:
    """Run every text once and keep, for each tensor, a histogram and perhaps a Gram matrix.

    Without `histograms` only extremes are kept, which is quicker.
    """
    names = sorted({*sources, *grams})
    observers = {name: Observer(histogram=histograms) for name in sources}
    sums: dict[str, npt.NDArray[np.float32]] = {}
    if not names:
        return Seen(observers, sums)
    session = open_session(model, extra_outputs=names)
    for text in texts:
        for name, value in zip(names, session.run(names, text.tensors()), strict=True):
            if name in observers:
                observers[name].see(value)
            if name in grams:
                rows = value.reshape(-1, value.shape[-1])
                sums[name] = sums.get(name, np.float32(0)) + rows.T @ rows
    return Seen(observers, sums)
