"""A recipe as TOML: what `load_recipe` reads back as the same recipe, with comments for people.

Paths are written relative to the folder that the file goes to. Fields that hold their default are
written too: a recipe that a search found should say all that it depends on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import tomli_w

from converters.configs import VerifyConfig
from converters.passes import PassConfig, kind_of
from converters.quantize.config import ENGINE_FIELDS, QuantizeConfig
from converters.recipe import Recipe
from converters.source import PACKAGE


def recipe_toml(recipe: Recipe, folder: Path, comment: str) -> str:
    """The recipe as a file in `folder`; `comment` goes on top, a line each."""
    shapes = {name: list(sizes) for name, sizes in recipe.source.shapes.items()}
    written: dict[str, Any] = {
        "name": recipe.name,
        "version": recipe.version,
        "task": recipe.task,
        "created": recipe.created,
        "seed": recipe.seed,
        **_steps(recipe),
        "source": {
            "model": _model(recipe, folder),
            "licence": recipe.source.licence,
            **({"shape": shapes} if shapes else {}),
        },
        "data": _table(recipe.data, folder),
        "pass": [_pass(config, recipe.path.parent, folder) for config in recipe.passes],
    }
    head = "".join(f"# {line}\n" if line else "#\n" for line in comment.splitlines())
    return f"{head}\n{tomli_w.dumps(written)}"


def _model(recipe: Recipe, folder: Path) -> str:
    """The model's name; that of a file or folder relative to ours."""
    model = recipe.source.model
    if model.startswith(PACKAGE):
        return model
    file, colon, function = model.rpartition(":") if ".py:" in model else (model, "", "")
    path = Path(os.path.normpath(recipe.path.parent / Path(file).expanduser()))
    return f"{_relative(path, folder)}{colon}{function}" if path.exists() else model


def _steps(recipe: Recipe) -> dict[str, Any]:
    """The steps and labels that the recipe says itself."""
    steps = recipe.steps
    written: dict[str, Any] = {}
    if steps.labels is not None:
        written["labels"] = list(steps.labels)
    for key, some in (("preprocess", steps.preprocess), ("postprocess", steps.postprocess)):
        if some is not None:
            written[key] = [{"step": one.step, **one.options} for one in some]
    return written


def _pass(config: PassConfig, base: Path, folder: Path) -> dict[str, Any]:
    if isinstance(config, QuantizeConfig):  # a table for each engine, beside the kind
        engines = {name: _table(one, folder) for name, one in config.engines.items()}
        for table in engines.values():  # what is left is a profile's to demand
            for key in table.keys() - set(ENGINE_FIELDS):
                del table[key]
        return {"kind": kind_of(config), **engines}
    table = _table(config, folder)
    if isinstance(config, VerifyConfig) and ":" in config.metric:
        file, _, function = config.metric.rpartition(":")
        table["metric"] = f"{_relative(base / file, folder)}:{function}"
    return {"kind": kind_of(config), **table}


def _table(config: Any, folder: Path) -> dict[str, Any]:
    """A configuration's fields by name; None is left out, as are empty words and lists."""
    values = {one.name: _value(getattr(config, one.name), folder) for one in fields(config)}
    return {name: value for name, value in values.items() if value not in (None, "", [], {})}


def _value(value: object, folder: Path) -> object:
    if isinstance(value, Path):
        return _relative(value, folder)
    if isinstance(value, (list, tuple)):
        return [_value(one, folder) for one in value]
    if is_dataclass(value):
        return _table(value, folder)
    if isinstance(value, Mapping):
        return {key: _value(one, folder) for key, one in value.items()}
    return value


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(Path(path).absolute(), folder.absolute())
