"""Which layers bear quantization: measured one at a time on the engine, then chosen greedily.

`sensitivities` quantizes one layer, runs a bounded number of calibration texts once through it and
compares the network's output with the float one: no gradient, no proxy, and the same code that
makes the final file. The losses are relative squared errors, which add up over layers as long as
they are small. `greedy` then spends a budget: of all steps to a cheaper scheme it takes the one
that costs the least loss for what it saves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from converters.ort import open_session
from converters.quantize import quantizer
from converters.quantize.config import Options
from converters.quantize.graph import Graph, find_layers
from converters.quantize.litert_file import answers_litert, layer_sizes
from converters.quantize.onnxruntime import prepare
from converters.quantize.samples import Sample
from converters.quantize.scheme import FLOAT
from converters.quantize.weights import FloatArray
from edge_runtime.errors import InputError

TEXTS = 24
"""Texts that are enough to rank layers; more only cost time."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """`loss`: the squared error of the output over its square, with this layer alone in `scheme`.

    `weights` is how many numbers the layer holds.
    """

    layer: str
    scheme: str
    loss: float
    weights: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One scheme for one layer; `cost` in the unit of the budget (ms, or bytes)."""

    layer: str
    scheme: str
    loss: float
    cost: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Layer → scheme, what it loses and costs in all, and whether the budget is met."""

    schemes: Mapping[str, str]
    loss: float
    cost: float
    met: bool


@dataclass(frozen=True, slots=True)
class _Engine:
    """How a file of an engine is looked into: weights by layer, and its answers to texts."""

    layers: Callable[[bytes], Mapping[str, int]]
    answers: Callable[[bytes, Sequence[Sample]], FloatArray]


def sensitivities(
    backend: str,
    model: bytes,
    texts: Sequence[Sample],
    options: Options,
    *,
    step: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Sensitivity, ...]:
    """The loss that each layer causes in the scheme of `options`, the largest first.

    `step` hears of every layer that is done. Texts beyond `TEXTS` are not run, but calibrate.

    Raises:
        InputError: no texts.
    """
    if not texts:
        raise InputError("sensitivity needs calibration texts, found none")
    engine = _ENGINES[backend]
    judged = _spread(texts)
    weights = engine.layers(model)
    reference = engine.answers(model, judged)
    found = []
    for done, (layer, count) in enumerate(weights.items(), 1):
        only = replace(
            options, scheme=FLOAT, smooth=0.0, integer=False, layers={layer: options.scheme}
        )
        made = quantizer(backend, only)(model, tuple(texts)).model
        loss = _loss(engine.answers(made, judged), reference)
        found.append(Sensitivity(layer, options.scheme, loss, count))
        step(done, len(weights))
    return tuple(sorted(found, key=lambda one: (-one.loss, one.layer)))


def greedy(choices: Sequence[Choice], budget: float) -> Plan:
    """One scheme a layer, total cost within `budget`, by least loss for what is saved.

    Starts where every layer loses least. Where nothing meets the budget the plan is the cheapest.
    """
    layers: dict[str, list[Choice]] = {}
    for choice in choices:
        layers.setdefault(choice.layer, []).append(choice)
    chosen = {
        layer: min(some, key=lambda one: (one.loss, one.cost, one.scheme))
        for layer, some in layers.items()
    }
    while sum(one.cost for one in chosen.values()) > budget:
        steps = [
            (max(other.loss - chosen[layer].loss, 0.0) / (chosen[layer].cost - other.cost),
             layer, other.cost, other.scheme, other)
            for layer, some in layers.items()
            for other in some
            if other.cost < chosen[layer].cost
        ]  # fmt: skip
        if not steps:
            break
        best = min(steps, key=lambda one: one[:4])
        chosen[best[1]] = best[4]
    cost = sum(one.cost for one in chosen.values())
    return Plan(
        {layer: one.scheme for layer, one in chosen.items()},
        sum(one.loss for one in chosen.values()),
        cost,
        cost <= budget,
    )


def _spread(texts: Sequence[Sample]) -> tuple[Sample, ...]:
    """`TEXTS` texts at even distances of those given."""
    if len(texts) <= TEXTS:
        return tuple(texts)
    return tuple(texts[place * len(texts) // TEXTS] for place in range(TEXTS))


def _loss(found: FloatArray, reference: FloatArray) -> float:
    return float(((found - reference) ** 2).sum() / max(float((reference**2).sum()), 1e-12))


def _onnx_layers(model: bytes) -> Mapping[str, int]:
    graph = Graph(prepare(model))
    return {
        layer.name: int(np.prod(graph.constants[layer.weight].dims))
        for layer in find_layers(graph.proto)
    }


def _onnx_answers(model: bytes, texts: Sequence[Sample]) -> FloatArray:
    session = open_session(model)
    return np.concatenate([session.run(None, text.tensors())[0] for text in texts])


_ENGINES: Mapping[str, _Engine] = {
    "onnxruntime": _Engine(_onnx_layers, _onnx_answers),
    "litert": _Engine(layer_sizes, answers_litert),
}
