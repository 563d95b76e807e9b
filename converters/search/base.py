"""The recipe that a search starts from: a file, or one made from a model and a folder of data.

A folder of data holds train, calibration, test and perhaps unlabelled, each as .jsonl or .jsonl.xz.
Rows with a label are a text classification, rows without one are texts to embed.
"""

from __future__ import annotations

import json
import lzma
import re
import time
from pathlib import Path
from typing import Any

import tomli_w

from converters.data import open_rows
from converters.recipe import Recipe, load_recipe, parse_recipe
from converters.sources.table import Asked, format_of
from edge_runtime.errors import InputError

SPLITS = ("train", "calibration", "test", "unlabelled")
SUFFIXES = (".jsonl", ".jsonl.xz")
BASE_FILE = "base.toml"
EPOCHS = 3
FIRST_LINE_BYTES = 1 << 20


def base_recipe(model: str, data: Path | None, out: Path) -> Recipe:
    """The recipe at `model` where that is a .toml file; else one for `model` and the folder `data`.

    Raises:
        InputError: a file is missing or faulty, or there is neither recipe nor data.
    """
    if model.endswith(".toml"):
        if data is not None:
            raise InputError(f"recipe {model}: names its data itself; leave --data out")
        return load_recipe(Path(model))
    source = Asked(model, Path.cwd())
    if source.path.exists() and format_of(source) != "Hugging Face":
        raise InputError(
            f"model {model}: in {format_of(source)}, which does not say what stands around it; "
            "expected a recipe that does, a .toml file (docs/models.md)"
        )
    if data is None:
        raise InputError(f"model {model}: needs --data, a folder with {', '.join(SPLITS[:3])}")
    written = _written(model, data)
    return parse_recipe(tomli_w.dumps(written).encode(), out / BASE_FILE)


def _written(model: str, data: Path) -> dict[str, Any]:
    if not data.is_dir():
        there = "a file" if data.exists() else "nothing"
        raise InputError(f"data {data}: expected a folder, found {there}")
    files = {name: found for name in SPLITS if (found := _file(data, name))}
    missing = [name for name in ("calibration", "test") if name not in files]
    if missing:
        raise InputError(
            f"data {data}: {' and '.join(missing)} missing; expected a folder with "
            f"{', '.join(SPLITS)}, each as {' or '.join(SUFFIXES)} (the last is optional; train "
            "may be left out for embeddings)"
        )
    labelled = "train" in files and _has_label(files["train"])
    if "train" not in files and _has_label(files["test"]):
        raise InputError(
            f"data {data}: rows of {files['test'].name} have a label, but train is missing; "
            "expected it for a classifier, or rows without label for embeddings"
        )
    name = re.sub(r"[^a-z0-9._-]+", "-", data.resolve().name.lower()).strip("-._") or "model"
    passes: list[dict[str, Any]] = [
        {"kind": kind} for kind in ("export", "fuse", "quantize", "verify", "package")
    ]
    if labelled:
        passes.insert(0, {"kind": "finetune", "epochs": EPOCHS})
    return {
        "name": name,
        "version": "1.0.0",
        "task": "text-classification" if labelled else "embedding",
        "created": time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime()),
        "source": {"model": str(Path(model).absolute()) if Path(model).is_dir() else model},
        "data": {split: str(path.absolute()) for split, path in files.items()},
        "pass": passes,
    }


def _file(data: Path, name: str) -> Path | None:
    return next((path for end in SUFFIXES if (path := data / f"{name}{end}").is_file()), None)


def _has_label(path: Path) -> bool:
    """Whether the first row has a label; what else is wrong with it is told when it is read."""
    try:
        with open_rows(path) as file:
            row = json.loads(file.readline(FIRST_LINE_BYTES))
    except (OSError, lzma.LZMAError, EOFError, ValueError, RecursionError):
        return True
    return isinstance(row, dict) and "label" in row
