"""What taking heads and neurons out costs, way by way, before any training.

    python -m benchmarks.compression_pruning [--reference RECIPE ...] [--only WORD] [--json]

Every row is the prune pass of a recipe, run on the model that the reference's recipe fine-tunes:
fitted to its calibration texts, judged on those of them that the pass keeps back. Cosines are those
of the pooled embedding with the whole network's; agreement is a classifier's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.trained import CLASSIFIER, EXAMPLE, WORK, trained
from converters.progress import Progress, Terminal
from converters.prune.config import PruneConfig
from converters.prune.prune import prune
from edge_runtime.errors import EdgeError, exit_code

METHODS = (
    ("l2", False), ("activation", False), ("l2", True), ("activation", True), ("obs", True),
)  # fmt: skip
"""Criterion, and whether what stays is refitted."""
RATIOS = {"neurons": (0.25, 0.5, 0.67), "heads": (1 / 12, 0.25, 0.5)}
ALLOCATED = (("neurons", 0.5), ("heads", 0.25))
"""Parts and share that are also allocated by sensitivity."""
ROWS = 256


def cases() -> tuple[PruneConfig, ...]:
    """Every row of the table."""
    found = [
        _case(parts, ratio, criterion, "uniform", refit=refit)
        for parts, ratios in RATIOS.items()
        for ratio in ratios
        for criterion, refit in METHODS
    ]
    found += [_case(parts, ratio, "obs", "sensitivity", refit=True) for parts, ratio in ALLOCATED]
    return tuple(found)


def _case(parts: str, ratio: float, criterion: str, allocate: str, *, refit: bool) -> PruneConfig:
    return PruneConfig(
        parts=parts, ratio=ratio, criterion=criterion, allocate=allocate, pattern="",
        reconstruct=refit, rows=ROWS, round_to=32,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compression_pruning", description=(__doc__ or "").split("\n")[0]
    )
    both = [EXAMPLE / "recipe-embedding.toml", CLASSIFIER]
    add = parser.add_argument
    add("--reference", type=Path, nargs="+", default=both, metavar="RECIPE")
    add("--only", default="", metavar="WORD", help="cases that hold it, such as heads or obs")
    add("--json", action="store_true", help="JSON instead of tables")
    options = parser.parse_args(argv)
    progress = Terminal()
    try:
        found = {recipe.stem: _of(recipe, options.only, progress) for recipe in options.reference}
    except EdgeError as reason:
        progress.say(f"benchmarks.compression_pruning: {reason}")
        return exit_code(reason)
    if options.json:
        json.dump(found, sys.stdout, indent=1)
        print()
        return 0
    for name, rows in found.items():
        _show(name, rows)
    return 0


def _of(recipe: Path, only: str, progress: Progress) -> list[dict[str, Any]]:
    """One row a case: what was asked for and the pass's figures."""
    model, job = trained(recipe, WORK, progress)
    wanted = {_words(config): config for config in cases() if only in _words(config)}
    rows = []
    for number, (words, config) in enumerate(wanted.items(), 1):
        progress.say(f"{recipe.stem} {number} of {len(wanted)}: {words}")
        rows.append({"case": words, **prune(model, config, job)[1]})
    return rows


def _words(config: PruneConfig) -> str:
    refit = "refitted" if config.reconstruct else "as it is"
    return (
        f"{config.parts} −{config.ratio:.0%}, {config.criterion}, {refit}"
        f"{', by sensitivity' if config.allocate == 'sensitivity' else ''}"
    )


def _show(name: str, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    judged = f"{rows[0]['texts']} texts to fit to, {rows[0]['held_texts']} to judge by"
    table = Table(title=f"{name}: {judged}", title_justify="left")
    table.add_column("gone, by what, and then")
    for column in ("left", "parameters", "cosine mean", "min", "agreement"):
        table.add_column(column, justify="right")
    for one in rows:
        agreement = one.get("agreement")
        table.add_row(
            one["case"],
            f"{one['after']:,} of {one['before']:,}",
            f"{one['parameters_after'] / one['parameters_before']:.0%}",
            f"{one['cosine_mean']:.3f}",
            f"{one['cosine_min']:.3f}",
            "" if agreement is None else f"{agreement:.0%}",
        )
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main())
