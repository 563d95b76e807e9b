"""SmoothQuant on an ONNX graph: move large activation channels into the weights.

`x @ W = (x / s) @ (s * W)` for any s > 0 per input channel. With `s = max|x|^a / max|W|^(1-a)`
both factors quantize well. The division is one Mul before the nodes that share the input; the
product goes into the weights. Only the backbone is touched and only its output is judged, so a
head that is trained further on the same backbone leaves every byte of it as it was.

Source: Xiao et al., "SmoothQuant", 2022, equation 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from converters.ort import open_session
from converters.quantize.samples import Sample
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import onnx

FloatArray = npt.NDArray[np.float32]
WEIGHTED = {"MatMul": 1, "Attention": 1}
"""Operator → which input holds the weight, (in, out)."""
ALPHAS = (0.6, 0.7, 0.8, 0.9)
FITTED, JUDGED = 96, 48
"""Texts from which ranges are taken, and other texts on which the strengths are compared."""
TINY = 1e-5
MIN_GAIN = 1e-5
"""Less is the noise of float arithmetic: the weaker smoothing is kept."""


@dataclass(frozen=True, slots=True)
class Smoothed:
    """The best strength, its quantized model, and the mean cosine of the pooled output.

    `ranges` are the magnitudes of channels that the strengths were tried with.
    """

    alpha: float
    quantized: bytes
    cosine_before: float
    cosine_after: float
    ranges: Mapping[str, FloatArray]


def search_smoothing(
    model: bytes, calibration: Sequence[Sample], quantize: Callable[[bytes], bytes]
) -> Smoothed:
    """Quantize at each strength and keep the one closest to float; 0 is no smoothing.

    Raises:
        InputError: fewer than four calibration texts.
    """
    if len(calibration) < 4:
        raise InputError(f"smoothing needs 4 or more calibration texts, found {len(calibration)}")
    split = len(fitted(calibration))
    fit, judge = calibration[:split], calibration[split : split + JUDGED]
    ranges = activation_ranges(model, fit)
    pooled = _pooled_name(model)
    reference = _run(model, pooled, judge)

    def closeness(quantized: bytes) -> float:
        found = _run(quantized, pooled, judge)
        return float(np.mean([_cosine(a, b) for a, b in zip(reference, found, strict=True)]))

    plain = quantize(model)
    before = closeness(plain)
    best = Smoothed(0.0, plain, before, before, ranges)
    for alpha in ALPHAS:
        candidate = quantize(smooth(model, ranges, alpha))
        after = closeness(candidate)
        if after > best.cosine_after + MIN_GAIN:
            best = Smoothed(alpha, candidate, before, after, ranges)
    return best


def fitted(calibration: Sequence[Sample]) -> Sequence[Sample]:
    """The texts that a search may fit to; it judges on the ones after them."""
    return calibration[: min(FITTED, len(calibration) * 2 // 3)]


def smooth(model: bytes, ranges: Mapping[str, FloatArray], alpha: float) -> bytes:
    """The graph with smoothed weights and one Mul for each input in `ranges`; same outputs."""
    import onnx
    from onnx import helper, numpy_helper

    proto = onnx.load_from_string(model)
    graph = proto.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers = _weighted_readers(graph)
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        source = node.input[0] if node.input else ""
        if source in ranges and any(reader is node for reader in readers.get(source, ())):
            if source not in done:
                arrays = [
                    numpy_helper.to_array(weights[reader.input[1]]) for reader in readers[source]
                ]
                scale = _scales(ranges[source], arrays, alpha)
                factor = numpy_helper.from_array((1 / scale).astype(np.float32), f"{source}.smooth")
                graph.initializer.append(factor)
                nodes.append(
                    helper.make_node(
                        "Mul", [source, factor.name], [f"{source}.smoothed"], f"{source}.smoother"
                    )
                )
                for reader, array in zip(readers[source], arrays, strict=True):
                    scaled = numpy_helper.from_array(array * scale[:, None], reader.input[1])
                    weights[reader.input[1]].CopyFrom(scaled)
                done.add(source)
            node.input[0] = f"{source}.smoothed"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(proto.SerializeToString())


def weighted_sources(model: bytes) -> tuple[str, ...]:
    """The tensors that smoothing may divide; () where the graph has no matrices of its own."""
    import onnx

    return tuple(sorted(_weighted_readers(onnx.load_from_string(model).graph)))


def activation_ranges(model: bytes, texts: Sequence[Sample]) -> dict[str, FloatArray]:
    """Largest magnitude of every channel of every input of a weighted node, over `texts`."""
    import onnx

    proto = onnx.load_from_string(model)
    sources = sorted(_weighted_readers(proto.graph))
    ranges: dict[str, FloatArray] = {}
    session = open_session(model, extra_outputs=sources)
    for text in texts:
        for name, value in zip(sources, session.run(sources, text.tensors()), strict=True):
            peak = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            ranges[name] = np.maximum(ranges[name], peak) if name in ranges else peak
    return ranges


def _scales(peak: FloatArray, arrays: Sequence[FloatArray], alpha: float) -> FloatArray:
    """`s` per input channel, shape of `peak`; the weights of all readers count as one."""
    weight = np.max([np.abs(array).max(axis=1) for array in arrays], axis=0)
    scale = np.maximum(peak, TINY) ** alpha / np.maximum(weight, TINY) ** (1 - alpha)
    bounded: FloatArray = np.clip(scale, TINY, 1 / TINY).astype(np.float32)
    return bounded


def _weighted_readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Tensor → the nodes that multiply it with a constant 2-D weight, each weight used once."""
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type in WEIGHTED:
            weight = node.input[WEIGHTED[node.op_type]]
            if weight in weights and uses[weight] == 1:
                readers.setdefault(node.input[0], []).append(node)
    return readers


def _pooled_name(model: bytes) -> str:
    """The tensor that holds the pooled output: the head's input, or the output without a head."""
    import onnx

    graph = onnx.load_from_string(model).graph
    heads = [node.input[0] for node in graph.node if node.op_type == "Gemm"]
    return heads[-1] if heads else str(graph.output[0].name)


def _run(model: bytes, name: str, texts: Sequence[Sample]) -> list[FloatArray]:
    """The tensor `name` for each text."""
    session = open_session(model, extra_outputs=[name])
    return [session.run([name], text.tensors())[0] for text in texts]


def _cosine(a: FloatArray, b: FloatArray) -> float:
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12))
