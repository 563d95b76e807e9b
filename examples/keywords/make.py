"""Data, stream and model of the example, in one command; what was made before is kept."""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.keywords.data import make_data
from examples.keywords.stream import write_stream
from examples.workbench import Bench, run, tensorflow_python, write_tensors

RECIPE = Path(__file__).parent / "recipe.toml"
PACKAGE = "examples.keywords"
SOURCE = tuple(f"{PACKAGE}.{name}" for name in ("voices", "speech", "mixing", "data"))


def make(bench: Bench, seed: int, tensorflow: Path | None) -> None:
    """Every stage in turn.

    Raises:
        InputError: espeak-ng or TensorFlow is missing, or the trainer failed.
    """
    python = tensorflow_python(tensorflow)
    data, tensors = bench.out / "data", bench.out / "tensors.npz"
    bench.stage("data", SOURCE, seed, lambda: make_data(data, bench.progress, seed=seed))
    bench.stage(
        "stream",
        [*SOURCE, f"{PACKAGE}.stream"],
        seed,
        lambda: write_stream(bench.out / "stream.wav", seed=seed),
    )
    source = [*SOURCE, "examples.workbench"]
    options = [seed, RECIPE.read_text()]
    bench.stage("tensors", source, options, lambda: write_tensors(bench, data, RECIPE, tensors))
    trainer = f"{PACKAGE}.train_dscnn"
    words = (
        "--tensors",
        str(tensors),
        "--seed",
        str(seed),
        "--out",
        str(bench.out / "dscnn.keras"),
    )
    bench.stage(
        "dscnn", [*source, trainer], options, lambda: bench.train(trainer, *words, python=python)
    )


def main() -> int:
    """Command line; 0 when data and model are there."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.keywords.make",
        description="Speak keywords in many voices and train a network that spots them.",
    )
    parser.add_argument("--out", type=Path, default=Path("build/keywords"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tensorflow", type=Path, metavar="PYTHON", help="has TensorFlow")
    parsed = parser.parse_args()
    return run(lambda bench: make(bench, parsed.seed, parsed.tensorflow), parsed.out)


if __name__ == "__main__":
    raise SystemExit(main())
