"""Every pass that a recipe may name: one visible table from its kind to what reads and runs it.

A pass is `Model × Config × Job → Model × figures`. The function that runs it is named, and imported
when it is reached, so that a faulty recipe loads nothing heavy. Passes stand in the order of their
stages: what changes weights comes first and may be repeated in any order; every later stage has one
pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from converters import words
from converters.configs import (
    ExportConfig,
    FinetuneConfig,
    FuseConfig,
    PackageConfig,
    VerifyConfig,
    parse_export,
    parse_finetune,
    parse_fuse,
    parse_package,
    parse_verify,
)
from converters.distil.config import DistilConfig, distil_words, parse_distil
from converters.prune.config import PruneConfig, parse_prune, prune_words
from converters.quantize.config import QuantizeConfig, parse_quantize
from converters.vocabulary.config import VocabularyConfig, parse_vocabulary, vocabulary_words
from edge_runtime.fields import Fields

PassConfig: TypeAlias = (
    FinetuneConfig
    | VocabularyConfig
    | PruneConfig
    | DistilConfig
    | ExportConfig
    | FuseConfig
    | QuantizeConfig
    | VerifyConfig
    | PackageConfig
)
STAGES = ("weights", "export", "fuse", "quantize", "verify", "package")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of pass: its configuration, who reads it, who runs it, who tells of it."""

    config: type[Any]
    parse: Callable[[Fields, Path], PassConfig]
    run: str
    words: Callable[[Mapping[str, Any]], str]
    stage: str = "weights"
    needed: bool = False


KINDS: Mapping[str, Kind] = {
    "finetune": Kind(
        FinetuneConfig, parse_finetune, "converters.finetune:finetune", words.finetune
    ),
    "vocabulary": Kind(
        VocabularyConfig, parse_vocabulary, "converters.vocabulary.trim:trim", vocabulary_words
    ),
    "prune": Kind(PruneConfig, parse_prune, "converters.prune.prune:prune", prune_words),
    "distil": Kind(DistilConfig, parse_distil, "converters.distil.distil:distil", distil_words),
    "export": Kind(
        ExportConfig, parse_export, "converters.steps:export", words.export, "export", True
    ),
    "fuse": Kind(FuseConfig, parse_fuse, "converters.steps:fuse", words.fuse, "fuse"),
    "quantize": Kind(
        QuantizeConfig, parse_quantize, "converters.steps:quantize", words.quantize, "quantize"
    ),
    "verify": Kind(
        VerifyConfig, parse_verify, "converters.verify:verify", words.verify, "verify", True
    ),
    "package": Kind(
        PackageConfig, parse_package, "converters.package:package", words.package, "package", True
    ),
}


def kind_of(config: PassConfig) -> str:
    """The name of the kind that `config` belongs to."""
    return next(name for name, kind in KINDS.items() if kind.config is type(config))


def pass_words(title: str, figures: Mapping[str, Any]) -> str:
    """The figures of a pass in one line; `title` is its kind, numbered where it is repeated."""
    return KINDS[title.partition(" ")[0]].words(figures)
