"""What a recipe may say of each pass that has no package of its own: its fields and their bounds.

One frozen dataclass a pass, and beside it the parser that reads it from its table in the recipe.
Parsers report every fault through `Fields` and do nothing else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.fields import Fields

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """Training of encoder and head, or of the head alone on the encoder of another recipe.

    Lengths are in tokens. `quick_rows` replaces `rows` in quick mode; 0 means all rows.
    """

    epochs: int
    lr: float
    head_lr: float
    batch: int
    max_length: int
    rows: int
    quick_rows: int
    freeze_backbone: bool
    freeze_embeddings: bool
    continue_from: Path | None
    precision: str


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """`exporter` is "torch" or "optimum" (an extra of its own)."""

    opset: int
    exporter: str


@dataclass(frozen=True, slots=True)
class FuseConfig:
    """Fused operators for ONNX Runtime; no choices."""


@dataclass(frozen=True, slots=True)
class VerifyConfig:
    """What a variant must reach to be packed, and how much is measured.

    Fractions are 0..1; `quick_rows` bounds the test rows in quick mode. Float variants that are
    not packed are judged on `float_rows` rows, because they only prove that the export is right;
    0 means all.
    """

    metric: str
    max_drop: float
    min_agreement: float
    min_cosine: float
    golden_cases: int
    latency_runs: int
    quick_rows: int
    float_rows: int


@dataclass(frozen=True, slots=True)
class PackageConfig:
    """`keep_float` packs the float variants too, behind the quantized ones.

    `engines` names those whose variants are packed, in this order; empty: the profile's.
    """

    keep_float: bool
    engines: tuple[str, ...] = ()


def path_field(f: Fields, key: str, folder: Path) -> Path | None:
    """The path under `key`, relative to `folder`; None where there is none."""
    if not f.present(key):
        return None
    text: str = f.text(key, max_len=1024)
    return Path(os.path.normpath(folder / text))


def parse_finetune(f: Fields, folder: Path) -> FinetuneConfig:
    """Read the table of a finetune pass; faults go to `f`."""
    config = FinetuneConfig(
        epochs=f.integer("epochs", 1, low=1, high=1000),
        lr=f.number("lr", 1e-4, low=0, high=1),
        head_lr=f.number("head_lr", 2e-3, low=0, high=10),
        batch=f.integer("batch", 32, low=1, high=4096),
        max_length=f.integer("max_length", 128, low=8, high=512),
        rows=f.integer("rows", 0),
        quick_rows=f.integer("quick_rows", 1200),
        freeze_backbone=f.boolean("freeze_backbone", False),
        freeze_embeddings=f.boolean("freeze_embeddings", True),
        continue_from=path_field(f, "continue_from", folder),
        precision=f.choice("precision", PRECISIONS, "auto"),
    )
    if config.freeze_backbone and config.continue_from is None:
        f.fault(
            f"{f.where}: freeze_backbone needs continue_from, the recipe whose backbone is kept"
        )
    if config.continue_from and not config.freeze_backbone:
        f.fault(f"{f.where}: continue_from needs freeze_backbone = true; only the head goes on")
    return config


def parse_export(f: Fields, folder: Path) -> ExportConfig:
    """Read the table of a export pass; faults go to `f`."""
    return ExportConfig(
        opset=f.integer("opset", 17, low=14, high=20),
        exporter=f.choice("exporter", ("torch", "optimum"), "torch"),
    )


def parse_fuse(f: Fields, folder: Path) -> FuseConfig:
    """Read the table of a fuse pass; faults go to `f`."""
    return FuseConfig()


def parse_verify(f: Fields, folder: Path) -> VerifyConfig:
    """Read the table of a verify pass; faults go to `f`."""
    return VerifyConfig(
        metric=f.text("metric", ""),
        max_drop=f.number("max_drop", 0.01, low=0, high=1e9),
        min_agreement=f.number("min_agreement", 0.97, low=0, high=1),
        min_cosine=f.number("min_cosine", 0.95, low=-1, high=1),
        golden_cases=f.integer("golden_cases", 8, low=1, high=64),
        latency_runs=f.integer("latency_runs", 40, low=1, high=10_000),
        quick_rows=f.integer("quick_rows", 600, low=1),
        float_rows=f.integer("float_rows", 200),
    )


def parse_package(f: Fields, folder: Path) -> PackageConfig:
    """Read the table of a package pass; faults go to `f`."""
    return PackageConfig(
        keep_float=f.boolean("keep_float", False),
        engines=f.texts("engines", (), max_items=16),
    )
