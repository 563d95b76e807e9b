"""Scales that are powers of two, one a tensor, for accelerators that shift instead of scaling.

A file with quantizers is rewritten: every scale becomes 2**k, and every stored tensor is rounded
anew on its new grid. For activations k is the smallest that still covers the old range, so nothing
is cut off that was not before. For weights the k with the least squared error is taken, and one
scale stands for all channels. A bias gets the product of its layer's two scales, as the arithmetic
has it. The rewritten file runs in any engine: its answers are the simulation of such a chip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edge_runtime.errors import InputError

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
SEARCHED = 4
"""Powers below the covering one that are tried for weights."""
Floats = npt.NDArray[np.float64]


def power_of_two(model: bytes) -> bytes:
    """`model` with scales of 2**k only; a file that has them so stays as it is, name by name.

    Raises:
        InputError: there are no quantizers, one is not symmetric, or a scale is no constant.
    """
    proto = onnx.load_from_string(model)
    rewriter = _Rewriter(proto)
    if not rewriter.quantizers:
        raise InputError("power-of-two scales: the file has no quantizers")
    rewriter.activations()
    rewriter.weights()
    rewriter.biases()
    rewriter.finish()
    return bytes(proto.SerializeToString())


def covering(scale: float) -> float:
    """The smallest power of two that is not less than `scale`.

    Raises:
        InputError: it is no positive number.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"power-of-two scales: found the scale {scale}")
    fraction, exponent = math.frexp(scale)
    return math.ldexp(1.0, exponent - 1 if fraction == 0.5 else exponent)


def fitting(values: Floats, low: int, high: int) -> float:
    """The power of two with the least squared error for `values` on the integers low..high."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0:
        return 1.0
    widest = covering(largest / high)
    tried = [math.ldexp(widest, -less) for less in range(SEARCHED)]
    return min(tried, key=lambda scale: _error(values, scale, low, high))


def rounded(values: Floats, scale: float, low: int, high: int) -> Floats:
    """`values` on the grid, as integers: half to even, as the engines round."""
    return np.clip(np.rint(values / scale), low, high)


def _error(values: Floats, scale: float, low: int, high: int) -> float:
    return float(np.square(rounded(values, scale, low, high) * scale - values).sum())


class _Rewriter:
    """The file's quantizers and stored tensors, and what is to become of them."""

    def __init__(self, proto: Any) -> None:
        self._graph = proto.graph
        self._stored = {one.name: one for one in self._graph.initializer}
        self._maker = {name: one for one in self._graph.node for name in one.output}
        self.quantizers = [one for one in self._graph.node if one.op_type in (QUANTIZE, DEQUANTIZE)]
        self._scales: dict[str, float] = {}
        for node in self.quantizers:
            if self._array(node, 1).size == 0 or (
                len(node.input) > 2 and node.input[2] and self._array(node, 2).any()
            ):
                raise InputError(
                    f"power-of-two scales: {node.name or node.output[0]} has a zero point other "
                    "than 0; quantize symmetrically first"
                )

    def activations(self) -> None:
        """New scales of quantizers of what is computed; a pair has the same, as it had before."""
        for node in self.quantizers:
            if node.op_type == DEQUANTIZE and node.input[0] in self._stored:
                continue
            scales = self._array(node, 1)
            if scales.size != 1:
                raise InputError(
                    f"power-of-two scales: {node.name or node.output[0]} has a scale for each "
                    "channel of what is computed"
                )
            self._set(node, covering(float(scales.reshape(-1)[0])))

    def weights(self) -> None:
        """New scales of stored tensors, biases aside, and the tensors rounded anew."""
        for node in self._dequantizers():
            stored = self._array(node, 0)
            if stored.dtype == np.int32:
                continue
            values, limits = self._floats(node), np.iinfo(stored.dtype)
            low = -limits.max if limits.min < 0 else 0
            scale = fitting(values, low, limits.max)
            self._store(node, rounded(values, scale, low, limits.max).astype(stored.dtype), scale)

    def biases(self) -> None:
        """Stored tensors of 32 bits, at the product of the scales beside them."""
        for node in self._dequantizers():
            stored = self._array(node, 0)
            if stored.dtype != np.int32:
                continue
            values, limits = self._floats(node), np.iinfo(np.int32)
            scale = self._beside(node) or covering(float(self._array(node, 1).max()))
            kept = rounded(values, scale, limits.min, limits.max).astype(np.int32)
            self._store(node, kept, scale)

    def finish(self) -> None:
        """Drop what nothing reads any more."""
        read = {name for one in self._graph.node for name in one.input}
        read |= {one.name for one in self._graph.output}
        kept = [one for one in self._graph.initializer if one.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _dequantizers(self) -> list[Any]:
        return [
            one
            for one in self.quantizers
            if one.op_type == DEQUANTIZE and one.input[0] in self._stored
        ]

    def _floats(self, node: Any) -> Floats:
        """What a stored tensor stands for."""
        stored = self._array(node, 0).astype(np.float64)
        scales = self._array(node, 1).astype(np.float64)
        if scales.size > 1:
            axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
            shape = [1] * stored.ndim
            shape[axis] = -1
            scales = scales.reshape(shape)
        return np.asarray(stored * scales, dtype=np.float64)

    def _beside(self, bias: Any) -> float:
        """Product of the scales of the other inputs of the bias's layer; 0 where unknown."""
        layer = next((one for one in self._graph.node if bias.output[0] in one.input[2:]), None)
        if layer is None:
            return 0.0
        makers = [self._maker.get(name) for name in layer.input[:2]]
        if not all(one is not None and one.op_type == DEQUANTIZE for one in makers):
            return 0.0
        return math.prod(self._scales[one.output[0]] for one in makers if one is not None)

    def _store(self, node: Any, values: npt.NDArray[Any], scale: float) -> None:
        name = f"{node.output[0]}_stored"
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        node.input[0] = name
        self._stored[name] = self._graph.initializer[-1]
        self._set(node, scale)

    def _set(self, node: Any, scale: float) -> None:
        """Give the quantizer one scale, and drop the axis that it had."""
        self._scales[node.output[0]] = scale
        dtype = numpy_helper.to_array(self._stored[node.input[1]]).dtype
        name = f"scale_2_to_{int(math.log2(scale))}_{dtype}"
        if name not in self._stored:
            self._graph.initializer.append(numpy_helper.from_array(np.array(scale, dtype), name))
            self._stored[name] = self._graph.initializer[-1]
        node.input[1] = name
        if len(node.input) > 2 and node.input[2]:
            zero = self._array(node, 2)
            if zero.ndim:
                self._zero(node, zero.dtype)
        kept = [one for one in node.attribute if one.name not in ("axis", "block_size")]
        del node.attribute[:]
        node.attribute.extend(kept)

    def _zero(self, node: Any, dtype: np.dtype[Any]) -> None:
        name = f"zero_{dtype}"
        if name not in self._stored:
            self._graph.initializer.append(numpy_helper.from_array(np.zeros((), dtype), name))
            self._stored[name] = self._graph.initializer[-1]
        node.input[2] = name

    def _array(self, node: Any, place: int) -> npt.NDArray[Any]:
        name = node.input[place]
        if name not in self._stored:
            raise InputError(
                f"power-of-two scales: {node.name or node.output[0]} gets {name or 'nothing'} "
                "where a constant is expected"
            )
        return np.asarray(numpy_helper.to_array(self._stored[name]))


def scales_of(model: bytes) -> Mapping[str, npt.NDArray[Any]]:
    """Quantizer, by its output → its scales, where they are constants."""
    graph = onnx.load_from_string(model).graph
    stored = {one.name: one for one in graph.initializer}
    return {
        one.output[0]: np.asarray(numpy_helper.to_array(stored[one.input[1]]))
        for one in graph.node
        if one.op_type in (QUANTIZE, DEQUANTIZE) and one.input[1] in stored
    }
