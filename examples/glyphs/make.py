"""Data and models of the example, in one command; what was made before is kept."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from examples.glyphs.data import make_data
from examples.workbench import Bench, run, tensorflow_python, write_tensors

RECIPE = Path(__file__).parent / "recipe-keras.toml"
PACKAGE = "examples.glyphs"
MODELS = ("cnn", "vit", "mobilenet")


def make(bench: Bench, models: list[str], seed: int, tensorflow: Path | None) -> None:
    """Every stage in turn.

    Raises:
        InputError: a font, a package or TensorFlow is missing, or a trainer failed.
    """
    python = tensorflow_python(tensorflow) if "cnn" in models else None
    data, tensors = bench.out / "data", bench.out / "tensors.npz"
    source = [f"{PACKAGE}.data", f"{PACKAGE}.fonts"]
    bench.stage("data", source, seed, lambda: make_data(data, bench.progress, seed=seed))
    source.append("examples.workbench")
    options: list[object] = [seed, RECIPE.read_text()]
    bench.stage("tensors", source, options, lambda: write_tensors(bench, data, RECIPE, tensors))
    given = ("--tensors", str(tensors), "--seed", str(seed))
    if "cnn" in models:
        trainer = f"{PACKAGE}.train_keras"
        bench.stage(
            "cnn",
            [*source, trainer],
            options,
            lambda: bench.train(
                trainer, *given, "--out", str(bench.out / "cnn.keras"), python=python
            ),
        )
    by_torch = f"{PACKAGE}.train_torch"
    for name in ("vit", "mobilenet"):
        if name in models:
            words = (*given, "--data", str(data), "--kind", name, "--out", str(bench.out / name))
            bench.stage(
                name,
                [*source, by_torch],
                [*options, name],
                partial(bench.train, by_torch, *words),
            )


def main() -> int:
    """Command line; 0 when data and models are there."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.glyphs.make",
        description="Render letters and digits in many fonts and train networks on them.",
    )
    parser.add_argument("--out", type=Path, default=Path("build/glyphs"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["cnn", "vit"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tensorflow", type=Path, metavar="PYTHON", help="has TensorFlow")
    parsed = parser.parse_args()
    return run(lambda bench: make(bench, parsed.models, parsed.seed, parsed.tensorflow), parsed.out)


if __name__ == "__main__":
    raise SystemExit(main())
