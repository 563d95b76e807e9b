"""One layer of an ONNX graph in its scheme: the nodes that take the place of the float one.

`EMIT` maps what a scheme does with activations to the function that writes the nodes. Weights are
written once, by `_codes`: as int8, or as the indices of a codebook with the nodes that look them
up. The engine folds those when it loads the file, so a codebook costs nothing while it runs.
Convolutions that compute in integers are `convolutions`' business; here they have small weights.
Activations are quantized once, however many layers read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from converters.quantize.graph import CONTRIB, CONVOLUTIONS, Graph, Layer, Seen
from converters.quantize.observers import RANGES, affine, symmetric
from converters.quantize.rounding import gptq
from converters.quantize.scheme import Scheme
from converters.quantize.weights import FloatArray, Grid, grid_of, pack_nibbles

if TYPE_CHECKING:
    import onnx

KEPT = ("num_heads", "unidirectional", "mask_filter_value", "scale", "do_rotary")
"""Attributes that the integer Attention has too."""


@dataclass(slots=True)
class Rewriter:
    """The graph that is written, what is known of its activations, and what was already made."""

    graph: Graph
    seen: Seen
    calibration: str
    percentile: float
    symmetric: bool = False
    made: dict[tuple[str, str], tuple[str, str, str]] = field(default_factory=dict)

    def rewrite(self, node: onnx.NodeProto, layer: Layer, scheme: Scheme) -> None:
        """Append `node`, which is `layer`, as `scheme` has it."""
        if scheme.activations == "float":
            self.graph.nodes.append(node)
        elif layer.op == "Gather":
            _embedding(self, layer, scheme)
        elif layer.op == "MatMul" and scheme.block:
            _blocks(self, layer, scheme)
        elif layer.op == "Gemm":
            _gemm(self, node, layer, scheme)
        elif layer.op in CONVOLUTIONS:  # those in integers were rewritten before, see above
            _weight_only(self, node, layer, scheme)
        else:
            EMIT[scheme.activations](self, node, layer, scheme)

    def quantized(self, layer: Layer, scheme: Scheme) -> tuple[Grid, npt.NDArray[np.int64]]:
        """The grid of the layer's weight and the index of every weight on it, (in, out)."""
        weight = as_matrix(self.graph.array(layer.weight).astype(np.float32), layer.op)
        grid = grid_of(weight, scheme)
        gram = self.seen.grams.get(layer.source)
        return grid, grid.all_indices(weight) if gram is None else gptq(weight, gram, grid)


def _gemm(at: Rewriter, node: onnx.NodeProto, layer: Layer, scheme: Scheme) -> None:
    """As a MatMul and, where it has a bias, an Add; `node` has no attributes."""
    from onnx import helper

    biased = len(node.input) > 2
    product = f"{layer.output}.product" if biased else layer.output
    matmul = helper.make_node("MatMul", node.input[:2], [product], node.name)
    at.rewrite(matmul, replace(layer, op="MatMul", output=product), scheme)
    if biased:
        at.graph.node("Add", [product, node.input[2]], layer.output)


def as_matrix(weight: FloatArray, op: str) -> FloatArray:
    """`weight` as (in, out): of a kernel, all that one output channel reads is a column."""
    if op not in CONVOLUTIONS:
        return weight
    at = 0 if op == "Conv" else 1
    return np.ascontiguousarray(np.moveaxis(weight, at, -1).reshape(-1, weight.shape[at]))


def _as_kernel(at: Rewriter, layer: Layer, matrix: str) -> str:
    """The node's weight from its matrix, by nodes that the engine folds: undoes `as_matrix`."""
    if layer.op not in CONVOLUTIONS:
        return matrix
    graph, name = at.graph, layer.weight
    axis = 0 if layer.op == "Conv" else 1
    dims = list(graph.constants[name].dims)
    out = dims.pop(axis)
    shape = graph.constant(f"{name}.dims", np.array([*dims, out]))
    order = list(range(len(dims)))
    order.insert(axis, len(dims))
    reshaped = graph.node("Reshape", [matrix, shape], f"{name}.shaped")
    return graph.node("Transpose", [reshaped], f"{name}.kernel", perm=order)


def _codes(
    at: Rewriter, name: str, grid: Grid, indices: npt.NDArray[np.int64], scheme: Scheme
) -> str:
    """A tensor of codes, int8 or, where the codebook is float, float32; shape of `indices`."""
    graph, exact = at.graph, not np.all(grid.codes == np.rint(grid.codes))
    codes = grid.codes if exact else grid.codes.astype(np.int8)
    if scheme.kind == "w" and scheme.bits > 4:
        return graph.constant(f"{name}.q", codes[indices])
    book = graph.constant(f"{name}.codebook", codes)
    return graph.node("Gather", [book, _indices(graph, name, indices, grid)], f"{name}.codes")


def _indices(graph: Graph, name: str, indices: npt.NDArray[np.int64], grid: Grid) -> str:
    """int32 indices, stored in four bits where that is enough."""
    if len(grid.codes) > 16 or indices.shape[1] % 2:
        stored = graph.constant(f"{name}.indices", indices.astype(np.uint8))
    else:
        packed = graph.constant(f"{name}.packed", pack_nibbles(indices))
        stored = _unpack(graph, name, packed)
    return graph.node("Cast", [stored], f"{name}.index", to=6)


def _unpack(graph: Graph, name: str, packed: str) -> str:
    """The nodes that undo `pack_nibbles` along the last axis; uint8."""
    sixteen = graph.constant("edge.sixteen", np.uint8(16))
    low = graph.node("Mod", [packed, sixteen], f"{name}.low")
    high = graph.node("Div", [packed, sixteen], f"{name}.high")
    return graph.node("Concat", [low, high], f"{name}.nibbles", axis=-1)


def _float_weight(at: Rewriter, layer: Layer, scheme: Scheme) -> str:
    """The weight as float32, decoded when the engine loads the file."""
    graph, name = at.graph, layer.weight
    if layer.op in CONVOLUTIONS and scheme.block:  # a kernel rarely has whole blocks of inputs
        scheme = replace(scheme, block=0, share="channel")
    grid, indices = at.quantized(layer, scheme)
    codes = _codes(at, name, grid, indices, scheme)
    if np.all(grid.codes == np.rint(grid.codes)):
        codes = graph.node("Cast", [codes], f"{name}.float", to=1)
    if not grid.block:
        scale = graph.constant(f"{name}.scale", grid.scale)
        return graph.node("Mul", [codes, scale], f"{name}.weight")
    rows, columns = indices.shape
    scale = graph.constant(f"{name}.scale", grid.scale[:, None, :])
    shape = graph.constant(f"{name}.blocks", np.array([-1, grid.block, columns]))
    whole = graph.constant(f"{name}.whole", np.array([rows, columns]))
    cut = graph.node("Reshape", [codes, shape], f"{name}.cut")
    return graph.node("Reshape", [graph.node("Mul", [cut, scale], f"{name}.scaled"), whole],
                      f"{name}.weight")  # fmt: skip


def _integer_weight(at: Rewriter, layer: Layer, scheme: Scheme) -> tuple[str, str, str]:
    """Names of the int8 codes, their scale, (out,) or scalar, and a zero point of that shape."""
    graph, name = at.graph, layer.weight
    grid, indices = at.quantized(layer, scheme)
    codes = _codes(at, name, grid, indices, scheme)
    scale = grid.scale.reshape(-1) if scheme.share == "channel" else grid.scale.reshape(())
    return (
        codes,
        graph.constant(f"{name}.scale", scale),
        graph.constant(f"{name}.zero", np.zeros(scale.shape, np.int8)),
    )


def _weight_only(at: Rewriter, node: onnx.NodeProto, layer: Layer, scheme: Scheme) -> None:
    """The same operator, its weight decoded from the grid."""
    node.input[1] = _as_kernel(at, layer, _float_weight(at, layer, scheme))
    at.graph.nodes.append(node)


def _dynamic(at: Rewriter, node: onnx.NodeProto, layer: Layer, scheme: Scheme) -> None:
    """Integer arithmetic, the scale of activations measured while it runs."""
    graph, source = at.graph, layer.source
    if scheme.block:  # Attention, whose integer kernel knows no blocks
        return _weight_only(at, node, layer, scheme)
    if (source, "dynamic") not in at.made:
        outputs = [f"{source}.{part}" for part in ("dq", "dq_scale", "dq_zero")]
        graph.node("DynamicQuantizeLinear", [source], outputs)
        at.made[source, "dynamic"] = (outputs[0], outputs[1], outputs[2])
    activation = at.made[source, "dynamic"]
    weight = _integer_weight(at, layer, scheme)
    if layer.op == "Attention":
        return _integer_attention(at, node, layer, activation, weight)
    product, out = f"{layer.output}.int32", layer.output
    graph.node("MatMulInteger", [activation[0], weight[0], activation[2], weight[2]], product)
    total = graph.node("Cast", [product], f"{out}.total", to=1)
    scale = graph.node("Mul", [activation[1], weight[1]], f"{out}.total_scale")
    graph.node("Mul", [total, scale], out)
    return None


def _static(at: Rewriter, node: onnx.NodeProto, layer: Layer, scheme: Scheme) -> None:
    """QuantizeLinear and DequantizeLinear around activations and weight; the output stays float."""
    graph = at.graph
    activation = _static_activation(at, layer.source, scheme)
    weight = _integer_weight(at, layer, scheme)
    if layer.op == "Attention" and scheme.width == 8:
        return _integer_attention(at, node, layer, activation, weight)
    domain = CONTRIB if scheme.width == 16 else ""
    read = f"{layer.source}.q{scheme.width}_float"
    if (layer.source, read) not in at.made:
        graph.node("DequantizeLinear", activation, read, domain)
        at.made[layer.source, read] = (read, "", "")
    node.input[0] = read
    node.input[1] = graph.node("DequantizeLinear", weight, f"{layer.weight}.float", axis=1)
    graph.nodes.append(node)
    return None


def _static_activation(at: Rewriter, source: str, scheme: Scheme) -> tuple[str, str, str]:
    """Codes of `source`, their scale and zero point, from calibration.

    Codes are uint8 or uint16; signed, with a zero point of 0, where that is demanded.
    """
    key = (source, f"q{scheme.width}")
    if key not in at.made:
        levels = 2**scheme.width
        low, high = RANGES[at.calibration](at.seen.observers[source], levels, at.percentile)
        dtype: type[np.integer[Any]] = np.uint8 if scheme.width == 8 else np.uint16
        if at.symmetric:
            dtype = np.int8 if scheme.width == 8 else np.int16
            step, middle = symmetric(low, high, levels), 0
        else:
            step, middle = affine(low, high, levels)
        name = f"{source}.{key[1]}"
        scale = at.graph.constant(f"{name}_scale", np.float32(step))
        zero = at.graph.constant(f"{name}_zero", dtype(middle))
        domain = CONTRIB if scheme.width == 16 else ""
        codes = at.graph.node("QuantizeLinear", [source, scale, zero], name, domain)
        at.made[key] = (codes, scale, zero)
    return at.made[key]


def _integer_attention(
    at: Rewriter,
    node: onnx.NodeProto,
    layer: Layer,
    activation: tuple[str, str, str],
    weight: tuple[str, str, str],
) -> None:
    from onnx import helper

    given = [*node.input, "", "", ""]
    bias, mask, past = given[2], given[3], given[4]
    inputs = [activation[0], weight[0], bias, activation[1], weight[1], mask, activation[2],
              weight[2], past]  # fmt: skip
    while not inputs[-1]:
        inputs.pop()
    attributes = {
        one.name: helper.get_attribute_value(one) for one in node.attribute if one.name in KEPT
    }
    at.graph.node("QAttention", inputs, list(node.output), CONTRIB, **attributes)


def _blocks(at: Rewriter, layer: Layer, scheme: Scheme) -> None:
    """MatMulNBits: blocks of `scheme.block` inputs share a scale; a kernel of its own."""
    graph, name = at.graph, layer.weight
    grid, indices = at.quantized(layer, scheme)
    rows, columns = indices.shape
    padded = np.pad(indices + 1, ((0, -rows % scheme.block), (0, 0)), constant_values=8)
    codes = padded.T.reshape(columns, -1, scheme.block // 2, 2).astype(np.uint8)
    packed = codes[..., 0] | (codes[..., 1] << 4)
    graph.node(
        "MatMulNBits",
        [layer.source, graph.constant(f"{name}.q", packed),
         graph.constant(f"{name}.scale", np.ascontiguousarray(grid.scale.T))],
        layer.output, CONTRIB, K=rows, N=columns, bits=4, block_size=scheme.block,
        accuracy_level=4 if scheme.activations == "dynamic" else 0,
    )  # fmt: skip


def _embedding(at: Rewriter, layer: Layer, scheme: Scheme) -> None:
    """Rows are looked up as codes; each row has its own scale, whatever weights elsewhere share."""
    graph, name, out = at.graph, layer.weight, layer.output
    table: FloatArray = at.graph.array(layer.weight).astype(np.float32)
    by_row = Scheme(scheme.name, "dynamic", scheme.kind, scheme.bits)
    grid = grid_of(table.T, by_row)
    indices = grid.all_indices(table.T).T
    codes, ids = grid.codes.astype(np.int8), layer.source
    if scheme.kind == "w" and scheme.bits > 4:
        found = graph.node("Gather", [graph.constant(f"{name}.q", codes[indices]), ids],
                           f"{out}.codes")  # fmt: skip
    else:
        small = len(codes) <= 16 and indices.shape[1] % 2 == 0
        stored = pack_nibbles(indices) if small else indices.astype(np.uint8)
        rows = graph.node("Gather", [graph.constant(f"{name}.packed", stored), ids], f"{out}.rows")
        rows = _unpack(graph, out, rows) if small else rows
        index = graph.node("Cast", [rows], f"{out}.index", to=6)
        book = graph.constant(f"{name}.codebook", codes)
        found = graph.node("Gather", [book, index], f"{out}.codes")
    scale = graph.constant(f"{name}.scale", grid.scale.T)
    steps = graph.node("Gather", [scale, ids], f"{out}.steps")
    graph.node("Mul", [graph.node("Cast", [found], f"{out}.float", to=1), steps], out)


EMIT: Mapping[str, Callable[[Rewriter, onnx.NodeProto, Layer, Scheme], None]] = {
    "weight": _weight_only,
    "dynamic": _dynamic,
    "static": _static,
}
"""What a scheme does with activations → what writes a MatMul or an Attention that way."""
