"""A scheme for each layer where one for all does not do: greedy, by loss for what is saved.

Two cases. A variant loses more than may be lost, and its float twin does not: layers go back to
float, the most sensitive first, as far as the latency allows. A variant is too large: layers go to
four bits, the least sensitive for what they weigh first. The losses are measured one layer at a
time on calibration texts, see `quantize.sensitivity`; costs are shares of what was measured of the
whole variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from converters.encoding import Encoded, encode, load_tokenizer
from converters.model import FLOAT as FLOAT_PRECISION
from converters.model import Candidate, Job, TextModel
from converters.quantize.config import Options, QuantizeConfig
from converters.quantize.scheme import FLOAT
from converters.quantize.sensitivity import Choice, Plan, Sensitivity, greedy, sensitivities
from converters.search.budget import Budget
from converters.search.result import Finalist

LOST = {"drop", "golden"}
"""Bounds of what may be lost; a layer in float gives some of it back."""
FEWER_BITS = {"litert": "dynamic_w4_block32", "onnxruntime": "dynamic_c4_channel"}
"""Engine → the scheme of four bits that its layers can take beside INT8."""
FLOAT_MS = 3.0
"""A layer in float takes about so many times as long as in INT8 (MiniLM, both engines, VNNI)."""
ROOM = 1.25
"""Without a bound of latency, a mixed variant may take so many times as long as the INT8 one."""


def mixed(
    model: TextModel, finalists: Sequence[Finalist], budget: Budget, job: Job
) -> Mapping[str, Options]:
    """Engine → a scheme for each layer that should bring its variant within the budget.

    `finalists` are the variants of `model`, whose candidates hold their files. Every engine whose
    variant can be mended is there: which of them turns out well is measured.
    """
    chosen = mendable(finalists, budget)
    if not chosen:
        return {}
    texts = encode(
        load_tokenizer(model.tokenizer.path, max_length=job.recipe.data.max_length),
        job.data.calibration.texts,
    )
    found: dict[str, Options] = {}
    for one in chosen:
        layers, whole = _planned(one, model, budget, job, texts)
        if layers:
            found[one.backend] = replace(whole, layers=layers)
    return found


def _planned(
    one: Finalist, model: TextModel, budget: Budget, job: Job, texts: Sequence[Encoded]
) -> tuple[Mapping[str, str], Options]:
    """The layers that get another scheme, none where that would not do; and what all others get."""
    backend, whole = one.backend, _options(one.backend, job)
    data = _float_of(one, model).artifact.path.read_bytes()
    if LOST & set(budget.broken(one.cost)):
        losses = sensitivities(backend, data, texts, whole)
        plan = greedy(against_loss(losses, one, whole.scheme), _latency(one, budget))
    else:
        fewer = replace(whole, scheme=FEWER_BITS[backend], smooth=0.0, rounding="nearest")
        losses = sensitivities(backend, data, texts, fewer)
        plan = greedy(against_size(losses, one, whole.scheme, fewer.scheme), budget.size_bytes)
    return (_changed(plan, whole.scheme) if plan.met else {}), whole


def _options(backend: str, job: Job) -> Options:
    """How the recipe, or else the profile, has this engine's files quantized."""
    config = job.recipe.config(QuantizeConfig) or QuantizeConfig({})
    engine = next(one for one in job.profile.engines if one.backend == backend)
    return config.options(backend, engine.quantization)


def mendable(finalists: Sequence[Finalist], budget: Budget) -> list[Finalist]:
    """The variants that only what is lost, or only size, keeps out; none where one is within."""
    quantized = [one for one in finalists if one.quantized]
    if any(not budget.broken(one.cost) for one in quantized):
        return []
    found = []
    for one in quantized:
        broken = set(budget.broken(one.cost))
        if broken == {"size_bytes"} or (broken <= LOST and _float_is_good(one, finalists, budget)):
            found.append(one)
    return found


def _float_is_good(one: Finalist, finalists: Sequence[Finalist], budget: Budget) -> bool:
    """Whether the same model in float loses no more than may be lost."""
    return any(
        not LOST & set(budget.broken(other.cost))
        for other in finalists
        if not other.quantized and other.backend == one.backend
    )


def _float_of(one: Finalist, model: TextModel) -> Candidate:
    return next(
        other
        for other in model.candidates
        if other.backend == one.backend and other.precision == FLOAT_PRECISION
    )


def _latency(one: Finalist, budget: Budget) -> float:
    return budget.latency_ms or ROOM * one.cost.latency_ms


def against_loss(losses: Sequence[Sensitivity], one: Finalist, scheme: str) -> list[Choice]:
    """Float or `scheme` for each layer; costs in ms, in all those of the variant `one`."""
    total = sum(layer.weights for layer in losses if not _looked_up(layer)) or 1
    choices = []
    for layer in losses:
        ms = 0.0 if _looked_up(layer) else one.cost.latency_ms * layer.weights / total
        choices.append(Choice(layer.layer, scheme, layer.loss, ms))
        choices.append(Choice(layer.layer, FLOAT, 0.0, FLOAT_MS * ms))
    return choices


def _looked_up(layer: Sensitivity) -> bool:
    """Whether it is a table that rows are read from, which costs no time."""
    return layer.layer.startswith("embeddings")


def against_size(
    losses: Sequence[Sensitivity], one: Finalist, scheme: str, fewer: str
) -> list[Choice]:
    """`scheme` or `fewer` for each layer; costs in bytes, in all those of the variant `one`."""
    total = sum(layer.weights for layer in losses)
    choices = []
    for layer in losses:
        size = one.cost.size_bytes * layer.weights / total
        choices.append(Choice(layer.layer, scheme, 0.0, size))
        choices.append(Choice(layer.layer, fewer, layer.loss, size / 2))
    return choices


def _changed(plan: Plan, scheme: str) -> Mapping[str, str]:
    """The layers that are not in `scheme`."""
    return {layer: found for layer, found in sorted(plan.schemes.items()) if found != scheme}
