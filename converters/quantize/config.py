"""What a recipe may say of the quantize pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.fields import Fields


@dataclass(frozen=True, slots=True)
class QuantizeConfig:
    """Recipes by engine where the profile's are not wanted; empty: the profile's."""

    recipes: Mapping[str, str]


def parse_quantize(f: Fields, folder: Path) -> QuantizeConfig:
    """Read the table; faults go to `f`."""
    recipes = f.object("recipes", {})
    names = f.mapping("recipes", {})
    return QuantizeConfig({engine: recipes.text(engine) for engine in names})
