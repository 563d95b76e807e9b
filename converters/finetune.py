"""Train a classifier on the encoder: all of it, or a head on an encoder that stays as it is.

Batches hold rows of like length, so little is padding. The same seed, data and machine give the
same weights. The result is cached by everything it depends on, because it is the one pass that
takes minutes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from converters.cache import tool_versions
from converters.configs import FinetuneConfig
from converters.data import Rows
from converters.embed import embed_rows
from converters.encoding import collate, encode, load_tokenizer
from converters.model import Job, TextModel
from converters.network import (
    HEAD_FILE,
    TextNetwork,
    load_encoder,
    load_head,
    new_head,
    save_encoder,
    save_head,
)
from converters.source import files_digest
from converters.training import (
    length_batches,
    make_optimizer,
    seed_torch,
    steps_of,
    training_precision,
)
from edge_runtime.fields import Json

HISTORY = "history.json"
SHOWN_STEPS = 20
"""The loss and accuracy that are shown are means over this many steps."""


@dataclass(frozen=True, slots=True)
class Point:
    """Training loss and accuracy, a mean over the steps since the point before."""

    step: int
    loss: float
    accuracy: float


def finetune(
    model: TextModel, config: FinetuneConfig, job: Job
) -> tuple[TextModel, dict[str, Json]]:
    """The pass. A head-only pass needs `model` to hold the encoder and head it goes on from."""
    rows = _rows(config, job)
    precision = "float32" if config.freeze_backbone else training_precision(config.precision)
    parts: dict[str, object] = {
        "encoder": model.encoder_sha256,
        "head": model.head_sha256(),
        "tokenizer": model.tokenizer.sha256,
        "rows": rows.sha256,
        "classes": list(job.data.classes),
        "config": replace(config, continue_from=None, precision=precision),
        "seed": job.recipe.seed,
        "tools": tool_versions("torch", "transformers", "tokenizers"),
    }
    cached = job.cache.holds("finetune", parts)
    train = _train_head if config.freeze_backbone else _train_all
    folder = job.cache.folder(
        "finetune", parts, lambda made: train(made, model, config, job, rows, precision)
    )
    points = json.loads((folder / HISTORY).read_text())
    encoder, digest = (model.encoder, model.encoder_sha256)
    if not config.freeze_backbone:
        encoder = folder / "encoder"
        digest = files_digest([encoder / "config.json", encoder / "model.safetensors"])
    trained = replace(
        model,
        encoder=encoder,
        encoder_sha256=digest,
        head=folder / HEAD_FILE,
        classes=job.data.classes,
    )
    return trained, {
        "rows": len(rows),
        "epochs": config.epochs,
        "precision": precision,
        "trained": "head" if config.freeze_backbone else "encoder and head",
        "cached": cached,
        "history": points,
    }


def _rows(config: FinetuneConfig, job: Job) -> Rows:
    if job.data.train is None:
        raise RuntimeError("fine-tuning without training rows is refused with the recipe")
    return job.data.train.first(config.quick_rows if job.quick else config.rows)


def _train_all(
    out: Path, model: TextModel, config: FinetuneConfig, job: Job, rows: Rows, precision: str
) -> None:
    """Encoder and head; writes both and the history to `out`."""
    seed_torch(job.recipe.seed)
    encoder = load_encoder(model.encoder)
    network = TextNetwork(encoder, new_head(model.source.hidden, len(job.data.classes)))
    assert network.head is not None
    if config.freeze_embeddings:
        for parameter in encoder.get_input_embeddings().parameters():
            parameter.requires_grad = False
    tokenizer = load_tokenizer(model.tokenizer.path, max_length=config.max_length)
    texts, targets = encode(tokenizer, rows.texts), job.data.indexes(rows)
    groups = [
        {"params": [p for p in encoder.parameters() if p.requires_grad], "lr": config.lr},
        {"params": list(network.head.parameters()), "lr": config.head_lr},
    ]
    steps = steps_of(len(texts), batch=config.batch, epochs=config.epochs)
    optimizer, schedule = make_optimizer(groups, steps)
    batches = length_batches(
        [len(text) for text in texts],
        batch=config.batch,
        epochs=config.epochs,
        rng=random.Random(job.recipe.seed),
    )
    network.train()
    points: list[Point] = []
    history = _History(points, steps)
    with job.progress.count(f"training on {len(rows)} rows", steps) as advance:
        for batch in batches:
            inputs = collate([texts[index] for index in batch], model.source.pad_id)
            wanted = torch.from_numpy(targets[batch])
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                pooled = network.pooled(
                    torch.from_numpy(inputs.input_ids), torch.from_numpy(inputs.attention_mask)
                )
            loss = _step(network.head(pooled.float()), wanted, optimizer, schedule, history)
            advance(1, f"loss {loss.loss:.3f}, accuracy {loss.accuracy:.1%}")
    network.eval()
    save_encoder(encoder, out / "encoder")
    save_head(network.head, out)
    _write_history(out, points)


def _train_head(
    out: Path, model: TextModel, config: FinetuneConfig, job: Job, rows: Rows, precision: str
) -> None:
    """The head alone, on embeddings that are computed once; writes it and the history."""
    assert model.head is not None
    features = torch.from_numpy(embed_rows(model, rows, job))
    targets = torch.from_numpy(job.data.indexes(rows))
    seed_torch(job.recipe.seed)
    head = load_head(model.head.parent).train()
    steps = steps_of(len(rows), batch=config.batch, epochs=config.epochs)
    optimizer, schedule = make_optimizer(
        [{"params": list(head.parameters()), "lr": config.head_lr}], steps
    )
    points: list[Point] = []
    history = _History(points, steps)
    with job.progress.count(f"training the head on {len(rows)} rows", steps) as advance:
        for _ in range(config.epochs):
            for batch in torch.randperm(len(rows)).split(config.batch):
                logits = head(features[batch])
                point = _step(logits, targets[batch], optimizer, schedule, history)
                advance(1, f"loss {point.loss:.3f}, accuracy {point.accuracy:.1%}")
    save_head(head, out)
    _write_history(out, points)


class _History:
    """Means over `SHOWN_STEPS` steps, appended to a list as they fill up and at step `last`."""

    def __init__(self, points: list[Point], last: int) -> None:
        self._points = points
        self._last = last
        self._recent: list[tuple[float, float]] = []
        self._step = 0

    def add(self, loss: float, accuracy: float) -> Point:
        """The mean so far over the steps since the last point."""
        self._step += 1
        self._recent.append((loss, accuracy))
        losses, accuracies = zip(*self._recent, strict=True)
        count = len(self._recent)
        point = Point(self._step, sum(losses) / count, sum(accuracies) / count)
        if count == SHOWN_STEPS or self._step == self._last:
            self._points.append(point)
            self._recent.clear()
        return point


def _step(
    logits: torch.Tensor, targets: torch.Tensor, optimizer: Any, schedule: Any, history: _History
) -> Point:
    loss = torch.nn.functional.cross_entropy(logits, targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()
    right = float((logits.argmax(dim=1) == targets).float().mean())
    return history.add(float(loss.detach()), right)


def _write_history(out: Path, points: Sequence[Point]) -> None:
    rows = [[point.step, round(point.loss, 5), round(point.accuracy, 5)] for point in points]
    (out / HISTORY).write_text(json.dumps(rows) + "\n")
