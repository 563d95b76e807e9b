"""The pass: what goes is counted out, chosen, taken out and made good for, and all of it measured.

The texts are the first of the calibration set; where that has too few, unlabelled ones follow. The
last of the calibration set are kept back, and every figure of what the output lost is of those.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from converters.anatomy import ROLES, layers_of
from converters.cache import tool_versions
from converters.data import Rows
from converters.encoding import encode, load_tokenizer
from converters.model import Job, TextModel
from converters.network import CONFIG_FILE, WEIGHTS_FILE, load_encoder, load_head, save_encoder
from converters.ort import host_threads
from converters.prune import sparse, structured
from converters.prune.allocate import Curve, by_curves, uniform
from converters.prune.config import PruneConfig
from converters.prune.parts import PARTS, Part, check, cut
from converters.prune.sensitivity import measure
from converters.prune.stream import Batch, enter, finish
from converters.prune.structured import Method, prune_layers
from converters.source import files_digest
from edge_runtime.errors import InputError
from edge_runtime.fields import Json

BATCH = 16
HELD = 64
"""Calibration texts that are kept back to measure by; a fifth where there are few."""
FIGURES = "figures.json"
WEIGHT_STEPS = 32
"""Shares of a layer's weights are told apart this finely when they are allocated."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What the steps of one pass share; `fit` and `held` stand before the first layer."""

    encoder: Any
    head: torch.nn.Linear | None
    fit: list[Batch]
    held: list[Batch]
    config: PruneConfig
    job: Job

    @property
    def method(self) -> Method:
        return Method(self.config.criterion, self.config.reconstruct)


def prune(model: TextModel, config: PruneConfig, job: Job) -> tuple[TextModel, dict[str, Json]]:
    """The pass. Tokenizer, head and the number of layers stay as they are.

    Raises:
        InputError: an unknown architecture, or one whose heads cannot go; too few texts.
    """
    fit, held = texts_for(config, job)
    parts: dict[str, object] = {
        "encoder": model.encoder_sha256,
        "head": model.head_sha256(),
        "tokenizer": model.tokenizer.sha256,
        "fit": fit.sha256,
        "held": held.sha256,
        "max_length": job.recipe.data.max_length,
        "config": config,
        "tools": tool_versions("torch", "transformers", "tokenizers"),
    }

    def make(out: Path) -> None:
        torch.set_num_threads(host_threads())
        pruned, figures = _prune(_start(model, config, job, fit, held))
        save_encoder(pruned, out / "encoder")
        (out / FIGURES).write_text(json.dumps(figures))

    folder = job.cache.folder("prune", parts, make) / "encoder"
    digest = files_digest([folder / CONFIG_FILE, folder / WEIGHTS_FILE])
    figures: dict[str, Json] = json.loads((folder.parent / FIGURES).read_text())
    return replace(model, encoder=folder, encoder_sha256=digest), figures


def texts_for(config: PruneConfig, job: Job) -> tuple[Rows, Rows]:
    """The texts to fit to, `config.rows` where there are as many, and those to measure by.

    Raises:
        InputError: fewer than two calibration texts.
    """
    rows = job.data.calibration
    if len(rows) < 2:
        raise InputError(f"data {rows.path}: pruning needs 2 calibration texts or more, found 1")
    back = max(1, min(HELD, len(rows) // 5))
    held = replace(
        rows, inputs=rows.texts[-back:], labels=None, sha256=f"{rows.sha256}: last {back}"
    )
    fit = rows.first(min(config.rows, len(rows) - back))
    more = job.data.unlabelled
    if len(fit) < config.rows and more:
        added = more.first(config.rows - len(fit))
        fit = replace(fit, inputs=fit.texts + added.texts, sha256=f"{fit.sha256} + {added.sha256}")
    return fit, held


def _start(model: TextModel, config: PruneConfig, job: Job, fit: Rows, held: Rows) -> _Work:
    encoder = load_encoder(model.encoder)
    layers = layers_of(encoder)
    if config.parts in PARTS:
        check(layers, PARTS[config.parts])
    tokenizer = load_tokenizer(model.tokenizer.path, max_length=job.recipe.data.max_length)
    fitted, kept_back = (
        enter(encoder, encode(tokenizer, rows.texts), size=BATCH, pad_id=model.source.pad_id)
        for rows in (fit, held)
    )
    head = load_head(model.head.parent) if model.head else None
    return _Work(encoder, head, fitted, kept_back, config, job)


def _prune(work: _Work) -> tuple[Any, dict[str, Json]]:
    """The pruned encoder and the figures of the pass."""
    with torch.no_grad():
        if work.config.parts == "weights":
            return _prune_weights(work)
        return _prune_parts(work, PARTS[work.config.parts])


def _prune_parts(work: _Work, part: Part) -> tuple[Any, dict[str, Json]]:
    """Heads or neurons, out of every layer."""
    pruned = copy.deepcopy(work.encoder)
    counts = [part.count(layer) for layer in layers_of(pruned)]
    step = work.config.round_to if part.name == "neurons" else 1
    trials = partial(structured.trials, part=part, step=step, method=work.method)
    curves = _curves(work, lambda layer, whole: trials(layer, whole=whole))
    ratio = work.config.ratio
    keep = by_curves(counts, curves, ratio, step) if curves else uniform(counts, ratio, step)
    with work.job.progress.count(f"pruning {part.name}", len(keep)) as advance:
        kept = prune_layers(pruned, part, keep, work.method, work.fit, lambda: advance(1, ""))
    bare = copy.deepcopy(work.encoder)
    for layer, chosen in zip(layers_of(bare), kept, strict=True):
        cut(layer, part, torch.tensor(chosen))
    return pruned, {
        **_figures(work, pruned, bare),
        "before": sum(counts),
        "after": sum(keep),
        "layers": _layer_figures(counts, keep, curves),
    }


def _prune_weights(work: _Work) -> tuple[Any, dict[str, Json]]:
    """Zeros in every layer."""
    pruned, config = copy.deepcopy(work.encoder), work.config
    counts = [sparse.zeros(layer)[1] for layer in layers_of(pruned)]
    curves = _curves(work, lambda layer, whole: sparse.trials(layer, work.method, whole))
    shares = _shares(work, counts, curves)
    bare = copy.deepcopy(work.encoder)
    plain = Method(config.criterion if config.criterion != "obs" else "activation", False)
    with work.job.progress.count("pruning weights", 2 * len(shares)) as advance:
        for encoder, method in ((pruned, work.method), (bare, plain)):
            pattern = bool(config.pattern)
            sparse.sparsify(encoder, shares, pattern, method, work.fit, lambda: advance(1, ""))
    keep = [all - zero for zero, all in map(sparse.zeros, layers_of(pruned))]
    return pruned, {
        **_figures(work, pruned, bare),
        "before": sum(counts),
        "after": sum(keep),
        "layers": _layer_figures(counts, keep, curves),
        "packed_bytes_before": sparse.packed_bytes(work.encoder),
        "packed_bytes_after": sparse.packed_bytes(pruned),
    }


def _shares(work: _Work, counts: list[int], curves: list[Curve]) -> list[float]:
    """The share of zeros in each layer."""
    ratio = work.config.ratio
    if work.config.allocate == "global":
        return sparse.global_shares(work.encoder, ratio)
    if not curves:
        return [ratio] * len(counts)
    step = max(1, min(counts) // WEIGHT_STEPS)
    keep = by_curves(counts, curves, ratio, step)
    return [1 - left / count for left, count in zip(keep, counts, strict=True)]


def _curves(work: _Work, trials: Any) -> list[Curve]:
    """Each layer's sensitivity where the recipe asks for it; else none."""
    if work.config.allocate != "sensitivity":
        return []
    count = len(layers_of(work.encoder))
    with work.job.progress.count("sensitivity of layers", count) as advance:
        return measure(work.encoder, trials, work.fit, work.head, lambda: advance(1, ""))


def _figures(work: _Work, pruned: Any, bare: Any) -> dict[str, Json]:
    """What the output lost on the texts kept back; `bare` is pruned alike and not refitted."""
    whole, now, then = (finish(layers_of(one), work.held) for one in (work.encoder, pruned, bare))
    cosines = torch.nn.functional.cosine_similarity(now, whole)
    without = torch.nn.functional.cosine_similarity(then, whole)
    figures: dict[str, Json] = {
        "parts": work.config.parts,
        "ratio": work.config.ratio,
        "parameters_before": _parameters(work.encoder),
        "parameters_after": _parameters(pruned),
        "texts": sum(len(batch.order) for batch in work.fit),
        "held_texts": len(whole),
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
        "cosine_mean_without_refit": float(without.mean()),
    }
    if work.head is not None:
        answers = [work.head(one).argmax(1) for one in (whole, now)]
        figures["agreement"] = float((answers[0] == answers[1]).double().mean())
    return figures


def _layer_figures(
    counts: Sequence[int], keep: Sequence[int], curves: Sequence[Curve]
) -> list[Json]:
    """Before and after of each layer, and its sensitivity: [share gone, loss] pairs."""
    figures: list[Json] = []
    for index, (count, left) in enumerate(zip(counts, keep, strict=True)):
        one: dict[str, Json] = {"before": count, "after": left}
        if curves:
            one["sensitivity"] = [[gone / count, loss] for gone, loss in curves[index].points]
        figures.append(one)
    return figures


def _parameters(encoder: Any) -> int:
    """Weights and biases of the layers' linear maps that are not zero."""
    maps = (layer.linear(role) for layer in layers_of(encoder) for role in ROLES)
    return sum(int((one.weight != 0).sum()) + one.bias.numel() for one in maps)
