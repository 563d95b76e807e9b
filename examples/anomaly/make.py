"""Data, model and recipe of the example, in one command; what was made before is kept."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from examples.anomaly.data import make_data
from examples.anomaly.features import NAMES
from examples.workbench import SPLITS, Bench, Front, run, tensorflow_python

RECIPE = Path(__file__).parent / "recipe.toml"
PACKAGE = "examples.anomaly"
SOURCE = tuple(f"{PACKAGE}.{name}" for name in ("machine", "features", "data"))
DIGITS = 4


def read(path: Path) -> list[dict[str, float]]:
    """The numbers of each row by name."""
    return [json.loads(line)["row"] for line in path.read_text().splitlines()]


def faults(path: Path) -> list[str]:
    """What each row has."""
    return [json.loads(line)["fault"] for line in path.read_text().splitlines()]


def write_recipe(path: Path, train: Sequence[dict[str, float]], threshold: float) -> None:
    """The recipe with the columns' scale, that of training, and the threshold."""
    values = np.array([[row[name] for name in NAMES] for row in train])
    mean, std = values.mean(axis=0), values.std(axis=0)
    columns = [
        {"name": name, "mean": round(float(m), DIGITS), "std": round(float(s), DIGITS)}
        for name, m, s in zip(NAMES, mean, std, strict=True)
    ]
    steps = {
        "preprocess": [{"step": "columns", "input": "features", "columns": columns}],
        "postprocess": [{"step": "anomaly", "error": "mse", "threshold": round(threshold, DIGITS)}],
    }
    # Top-level keys of TOML stand before its first table.
    top, table, rest = RECIPE.read_text().partition("[source]")
    path.write_text(f"{top}{tomli_w.dumps(steps)}\n{table}{rest}")


def write_rows(bench: Bench, recipe: Path, path: Path) -> None:
    """Every split through the recipe's steps: `train_x`, `train_fault`, …; x float32, (n, 128)."""
    arrays: dict[str, Any] = {}
    for split in SPLITS:
        rows = read(bench.out / "data" / f"{split}.jsonl")
        if split == "train":
            write_recipe(recipe, rows, 0.0)
            front = Front(recipe)
        arrays[f"{split}_x"] = np.stack([front(row)["features"] for row in rows])
        arrays[f"{split}_fault"] = np.array(faults(bench.out / "data" / f"{split}-details.jsonl"))
    with path.open("wb") as file:
        np.savez(file, **arrays)


def make(bench: Bench, seed: int, tensorflow: Path | None) -> None:
    """Every stage in turn.

    Raises:
        InputError: TensorFlow is missing, or the trainer failed.
    """
    python = tensorflow_python(tensorflow)
    recipe, tensors = bench.out / "recipe.toml", bench.out / "tensors.npz"
    model = bench.out / "autoencoder.keras"
    data = bench.out / "data"
    bench.stage("data", SOURCE, seed, lambda: make_data(data, bench.progress, seed=seed))
    source = [*SOURCE, "examples.workbench", f"{PACKAGE}.make"]
    trainer = f"{PACKAGE}.train_autoencoder"

    def train() -> None:
        write_rows(bench, recipe, tensors)
        words = ("--tensors", str(tensors), "--seed", str(seed), "--out", str(model))
        bench.train(trainer, *words, python=python)
        found = json.loads(model.with_suffix(".json").read_text())
        write_recipe(recipe, read(data / "train.jsonl"), found["threshold"])

    bench.stage("autoencoder", [*source, trainer], [seed, RECIPE.read_text()], train)


def main() -> int:
    """Command line; 0 when data, model and recipe are there."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.anomaly.make",
        description="Simulate healthy machines and train a network that knows how they sound.",
    )
    parser.add_argument("--out", type=Path, default=Path("build/anomaly"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tensorflow", type=Path, metavar="PYTHON", help="has TensorFlow")
    parsed = parser.parse_args()
    return run(lambda bench: make(bench, parsed.seed, parsed.tensorflow), parsed.out)


if __name__ == "__main__":
    raise SystemExit(main())
