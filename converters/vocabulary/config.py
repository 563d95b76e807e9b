"""What a recipe may say of a vocabulary pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.fields import Fields

CHARACTERS = ("all", "seen")


@dataclass(frozen=True, slots=True)
class VocabularyConfig:
    """Tokens that occur `min_count` times in the recipe's texts are kept, `size` at most (0: all).

    Special tokens and single characters stay, so that every text still has an encoding;
    `characters` = "seen" keeps only ASCII's and those of the texts: others become unknown.
    """

    min_count: int
    size: int
    characters: str


def parse_vocabulary(f: Fields, folder: Path) -> VocabularyConfig:
    """Read the table; faults go to `f`."""
    return VocabularyConfig(
        min_count=f.integer("min_count", 1, low=1, high=1_000_000),
        size=f.integer("size", 0, low=0, high=10_000_000),
        characters=f.choice("characters", CHARACTERS, "all"),
    )


def vocabulary_words(figures: Mapping[str, Any]) -> str:
    """What the pass did, in one line."""
    return (
        f"{figures['before']:,} tokens → {figures['after']:,}; "
        f"at least {figures['new_texts_changed']:.1%} of new texts are cut otherwise"
    )
