"""`accelerate launch -m converters.distil RECIPE`: the distillation of a recipe, on many processes.

Runs the recipe's passes up to its last distil pass and leaves the results in the cache, where
`edge-convert run` finds them. The first process of each host does what cannot be shared, the others
wait and read it; the distillation itself is done by all. Exit codes as `edge-convert` has them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from converters.cache import Cache, default_folder
from converters.data import load_dataset
from converters.distil.config import DistilConfig
from converters.distil.processes import Processes
from converters.model import Job, TextModel
from converters.passes import PassConfig
from converters.pipeline import begin, run_passes
from converters.progress import Silent, Terminal
from converters.recipe import Recipe, load_recipe
from edge_runtime.errors import EdgeError, InputError, exit_code
from edge_runtime.profile import load_profile
from edge_runtime.text import MAX_ERROR, plain

PROG = "python -m converters.distil"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog=PROG, description=(__doc__ or "").split("\n\n")[1])
    top.add_argument("recipe", type=Path, help="the recipe, a .toml file with a distil pass")
    top.add_argument("--quick", action="store_true", help="learn from fewer rows")
    top.add_argument(
        "--model", metavar="DIR", help="another model's folder than the recipe's, an absolute path"
    )
    top.add_argument(
        "--cache", type=Path, default=default_folder(), metavar="DIR",
        help="where results of passes are kept (default: %(default)s; $EDGE_CACHE)",
    )  # fmt: skip
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one process's part and return its exit code."""
    arguments = parser().parse_args(argv)
    processes = Processes()
    try:
        recipe = load_recipe(arguments.recipe)
        if arguments.model:
            recipe = replace(recipe, source=replace(recipe.source, model=arguments.model))
        job = Job(
            recipe=recipe,
            profile=load_profile("generic-x86_64"),  # nothing before the export asks for it
            data=load_dataset(recipe.data, recipe.task),
            cache=Cache(arguments.cache),
            progress=Terminal() if processes.first else Silent(),
            out=Path.cwd(),
            quick=arguments.quick,
        )
        distil_all(job, processes)
    except EdgeError as error:
        if processes.first:
            print(f"{PROG}: {plain(str(error), MAX_ERROR)}", file=sys.stderr)
        return exit_code(error)
    return 0


def distil_all(job: Job, processes: Processes) -> TextModel:
    """The model after the recipe's last distil pass."""
    with processes.first_here_goes_first():
        model = begin(job.recipe, job.data, job.cache)
    for config in _until_last(job.recipe):
        if isinstance(config, DistilConfig):
            model = run_passes(model, [config], job).text
            continue
        with processes.first_here_goes_first():
            model = run_passes(model, [config], job).text
    return model


def _until_last(recipe: Recipe) -> Sequence[PassConfig]:
    """The passes up to the last distil pass.

    Raises:
        InputError: there is none.
    """
    places = [place for place, one in enumerate(recipe.passes) if isinstance(one, DistilConfig)]
    if not places:
        raise InputError(f"{recipe.where}: has no distil pass")
    return recipe.passes[: places[-1] + 1]


if __name__ == "__main__":
    sys.exit(main())
