"""A recipe as a reference: the model that it fine-tunes, as a folder that tools can read.

The training comes from the converter's cache where `edge-convert` has run the recipe before, so the
tools start from the very weights that our own bundles come from.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.compression.reference import TOKENIZER_FILE
from converters.cache import Cache, default_folder
from converters.data import load_dataset
from converters.model import Job, TextModel
from converters.network import HEAD_FILE, load_encoder, save_encoder
from converters.pipeline import begin, run_passes
from converters.progress import Progress
from converters.recipe import load_recipe
from converters.search.recipes import weights_passes
from edge_runtime.profile import load_profile

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "debian-sections"
CLASSIFIER = EXAMPLE / "recipe-search.toml"
WORK = Path("build/peers")
ANY_PROFILE = "generic-x86_64"
"""Fine-tuning does not look at it."""


def trained(path: Path, work: Path, progress: Progress) -> tuple[TextModel, Job]:
    """The model that the recipe at `path` fine-tunes, and the job that did it.

    Raises:
        InputError: the recipe, its data or its model is not as it should be.
    """
    recipe = load_recipe(path)
    data = load_dataset(recipe.data, recipe.task)
    cache = Cache(default_folder())
    job = Job(recipe, load_profile(ANY_PROFILE), data, cache, progress, work)
    return run_passes(begin(recipe, data, cache), weights_passes(recipe), job).text, job


def reference_folder(path: Path, work: Path, progress: Progress) -> Path:
    """`path` where it is a folder; of a recipe, a folder under `work` with what it trains.

    Raises:
        InputError: as for `trained`.
    """
    if path.suffix != ".toml":
        return path
    model, job = trained(path, work, progress)
    folder = work / "references" / job.recipe.name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "encoder").mkdir(parents=True)
    save_encoder(load_encoder(model.encoder), folder / "encoder")
    shutil.copyfile(model.tokenizer.path, folder / TOKENIZER_FILE)
    if model.head is not None:
        shutil.copyfile(model.head, folder / HEAD_FILE)
    return folder
