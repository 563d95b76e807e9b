"""What a recipe may say of a distil pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.configs import PRECISIONS, path_field
from edge_runtime.fields import Fields

FAKE = ("", "w8a8", "w4a8")
LOSSES = ("soft", "label", "embedding", "similarity", "hidden", "relation")


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """Another recipe whose fine-tuned model teaches too, and the weight of its soft labels."""

    recipe: Path
    weight: float


@dataclass(frozen=True, slots=True)
class DistilConfig:
    """The teacher is the original model; the student is the model as it is, or made smaller first.

    `depth` layers are kept (evenly spaced), or those in `layers`; 0 and empty keep all. `width` is
    the student's hidden size; 0 keeps it. Losses are weighted: `soft` is the KL divergence of the
    logits at `temperature` (text classification), `label` the cross entropy with labels, where rows
    have them; `embedding` is 1 − cosine of the pooled outputs, `similarity` the squared difference
    of the cosines between the texts of a batch, `hidden` the squared difference of hidden states,
    `relation` the attention-relation loss of the last layer. `rows` 0 means all: training rows and,
    where the recipe names them, unlabelled ones. `steps` ends the training after so many batches; 0
    leaves that to `epochs`. `fake_quantize` trains through quantized weights and activations.
    `tasks` are further tasks that the same encoder learns.
    """

    depth: int
    layers: tuple[int, ...]
    width: int
    epochs: int
    steps: int
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
    tasks: tuple[TaskConfig, ...] = ()

    @property
    def live(self) -> bool:
        """Whether a loss needs the teacher's network, not only what it said once."""
        return bool(self.hidden or self.relation)


def parse_distil(f: Fields, folder: Path) -> DistilConfig:
    """Read the table; faults go to `f`."""
    layers = f.items("layers", (), 64, 0)
    if not all(type(one) is int and one >= 0 for one in layers) or len(set(layers)) < len(layers):
        f.fault(f"{f.where}: layers must be different indexes of layers, 0 or more")
        layers = []
    config = DistilConfig(
        depth=f.integer("depth", 0, low=0, high=128),
        layers=tuple(layers),
        width=f.integer("width", 0, low=0, high=65_536),
        epochs=f.integer("epochs", 1, low=1, high=1000),
        steps=f.integer("steps", 0, low=0, high=10_000_000),
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
        tasks=tuple(_task(one, folder) for one in f.objects("tasks", (), max_items=16)),
    )
    if config.depth and config.layers:
        f.fault(f"{f.where}: depth and layers both choose layers; expected one of them")
    if not any(getattr(config, name) for name in LOSSES):
        f.fault(f"{f.where}: {', '.join(LOSSES)} are all 0; there is nothing to learn")
    return config


def _task(f: Fields, folder: Path) -> TaskConfig:
    f.text("recipe", max_len=1024)
    recipe = path_field(f, "recipe", folder) or folder
    config = TaskConfig(recipe, f.number("weight", 1.0, low=0, high=1e6))
    for key in f.unknown():
        f.fault(f"{f.where}: {key} is not a field of a task")
    return config


def distil_words(figures: Mapping[str, Any]) -> str:
    """What the pass did, in one line."""
    before, after = figures["parameters"]
    held = figures["held_out"]
    metric = "agreement" if "agreement" in held else "cosine"
    shown = f"{held['agreement']:.1%}" if metric == "agreement" else f"{held['cosine']:.4f}"
    return (
        f"{figures['rows']:,} rows, {figures['steps']:,} steps; {before:,} parameters → {after:,}; "
        f"{metric} with the teacher {shown} on {held['n']} held-out rows"
    )
