"""What a recipe may say of a distil pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.configs import PRECISIONS
from edge_runtime.fields import Fields

FAKE = ("", "w8a8", "w4a8")


@dataclass(frozen=True, slots=True)
class DistilConfig:
    """The teacher is the original model; the student is the model as it is, or made smaller first.

    `depth` layers are kept (evenly spaced), or those in `layers`; 0 and empty keep all. Losses are
    weighted: `soft` is the KL divergence of the logits at `temperature` (text classification),
    `label` the cross entropy with labels, where rows have them; `embedding` is 1 − cosine of the
    pooled outputs, `similarity` the squared difference of the cosines between the texts of a batch,
    `hidden` the squared difference of hidden states, `relation` the attention-relation loss of the
    last layer. `rows` 0 means all: training rows and, where the recipe names them, unlabelled ones.
    `fake_quantize` trains through quantized weights and activations.
    """

    depth: int
    layers: tuple[int, ...]
    epochs: int
    lr: float
    head_lr: float
    batch: int
    max_length: int
    rows: int
    quick_rows: int
    temperature: float
    soft: float
    label: float
    embedding: float
    similarity: float
    hidden: float
    relation: float
    freeze_embeddings: bool
    fake_quantize: str
    precision: str


def parse_distil(f: Fields, folder: Path) -> DistilConfig:
    """Read the table; faults go to `f`."""
    layers = f.items("layers", (), 64, 0)
    if not all(type(one) is int and one >= 0 for one in layers):
        f.fault(f"{f.where}: layers must be indexes of layers, 0 or more")
        layers = []
    return DistilConfig(
        depth=f.integer("depth", 0, low=0, high=128),
        layers=tuple(layers),
        epochs=f.integer("epochs", 1, low=1, high=1000),
        lr=f.number("lr", 5e-4, low=0, high=1),
        head_lr=f.number("head_lr", 2e-3, low=0, high=10),
        batch=f.integer("batch", 32, low=1, high=4096),
        max_length=f.integer("max_length", 128, low=8, high=512),
        rows=f.integer("rows", 0),
        quick_rows=f.integer("quick_rows", 1200),
        temperature=f.number("temperature", 2.0, low=0.1, high=100),
        soft=f.number("soft", 1.0, low=0, high=1e6),
        label=f.number("label", 0.0, low=0, high=1e6),
        embedding=f.number("embedding", 1.0, low=0, high=1e6),
        similarity=f.number("similarity", 0.0, low=0, high=1e6),
        hidden=f.number("hidden", 0.0, low=0, high=1e6),
        relation=f.number("relation", 0.0, low=0, high=1e6),
        freeze_embeddings=f.boolean("freeze_embeddings", True),
        fake_quantize=f.choice("fake_quantize", FAKE, ""),
        precision=f.choice("precision", PRECISIONS, "auto"),
    )


def distil_words(figures: Mapping[str, Any]) -> str:
    """What the pass did, in one line."""
    return f"{figures['rows']:,} rows, {figures['epochs']} epochs"
