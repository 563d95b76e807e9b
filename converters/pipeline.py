"""A recipe and a profile to a bundle: the passes in the recipe's order, from one visible table.

A pass is `Model × Config × Job → Model × figures`. The table names a function for each kind of
configuration, imported when it is reached, so that nothing heavy is loaded for a faulty recipe.
Order: read everything, check everything, then work.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from converters.cache import Cache, tool_versions
from converters.checks import check_continued, check_engines, check_metric, check_output
from converters.configs import FinetuneConfig
from converters.data import Dataset, load_dataset, load_splits
from converters.declare import after, before, check_answers
from converters.interrupt import stop_if_interrupted
from converters.model import Artifact, BroughtModel, Job, Model, TextModel
from converters.passes import KINDS, PassConfig, kind_of, pass_words
from converters.progress import Progress
from converters.quiet import quiet
from converters.recipe import Recipe, load_recipe
from converters.samples import Declared
from converters.source import find_folder, is_text_encoder, load_source
from converters.sources.table import Asked, format_of, open_model
from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.fields import Json
from edge_runtime.inference.tasks.table import TASKS
from edge_runtime.profile import DeviceProfile

Pass: TypeAlias = Callable[[Model, Any, Job], tuple[Model, dict[str, Json]]]

TOKENIZER_FILE = "tokenizer.json"
COMPRESSED = "weights"
"""The stage that makes another model of the one that is the reference."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What came of a recipe's passes, or of some of them, for one profile.

    `passes` has figures by pass, in order; `seconds` how long each took here, now.
    """

    recipe: Recipe
    profile: DeviceProfile
    model: Model
    passes: Mapping[str, Mapping[str, Json]]
    seconds: Mapping[str, float]
    quick: bool

    @property
    def text(self) -> TextModel:
        """The model of a recipe whose passes change weights."""
        return text_model(self.model)


@dataclass(frozen=True, slots=True)
class Options:
    """How to convert, apart from what."""

    out: Path
    cache: Path
    quick: bool = False
    source: str | None = None
    """Another model than the recipe's, where given."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Dimensions that the model leaves free, instead of the recipe's."""
    allow_fallback: bool = False
    """Whether accelerators may be left more of a model than the profile's floor allows."""
    require_proof: bool = False
    """Whether it is a failure where nothing tells what an accelerator will run."""


def convert(
    recipe_path: Path, profiles: Sequence[DeviceProfile], options: Options, progress: Progress
) -> list[Conversion]:
    """One conversion for each profile; later ones reuse what the first computed.

    Raises:
        EdgeError: the recipe, its data, its model or a result is not as it should be.
    """
    written = load_recipe(recipe_path)
    check_engines(written, profiles)
    check_continued(written)
    check_metric(written)
    recipe = _with_source(written, options)
    cache = Cache(options.cache)
    check_output(options.out)
    model, data = open_recipe(recipe, cache, progress)
    done = []
    for profile in profiles:
        job = Job(
            recipe, profile, data, cache, progress, options.out, options.quick,
            options.allow_fallback, options.require_proof,
        )  # fmt: skip
        progress.say(f"{recipe.name} {recipe.version} for {profile.name}")
        done.append(run_passes(model, recipe.passes, job))
    return done


def run_passes(model: Model, passes: Sequence[PassConfig], job: Job) -> Conversion:
    """Let each pass work on what the one before made of `model`; each is told of in a line."""
    figures: dict[str, Mapping[str, Json]] = {}
    seconds: dict[str, float] = {}
    for config in passes:
        name = title_of(kind_of(config), figures)
        started = time.monotonic()
        if isinstance(config, FinetuneConfig):
            model = _continued(text_model(model), config, job) if config.continue_from else model
        elif KINDS[kind_of(config)].stage == COMPRESSED and text_model(model).uncompressed is None:
            model = replace(text_model(model), uncompressed=text_model(model))
        model, figures[name] = find_pass(config)(model, config, job)
        _give_back()
        stop_if_interrupted()
        seconds[name] = round(time.monotonic() - started, 2)
        job.progress.say(f"  {name:8}  {pass_words(name, figures[name])} ({seconds[name]:.1f} s)")
    return Conversion(job.recipe, job.profile, model, figures, seconds, job.quick)


def _give_back() -> None:
    """Memory that a pass has freed, to the system: the C library keeps it for itself, and what the
    next pass takes, another library's, would come on top. See malloc_trim(3); glibc only.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def title_of(kind: str, figures: Mapping[str, object]) -> str:
    """The name that a pass's figures get: its kind, numbered from the second of it on."""
    number = 1 + sum(title.partition(" ")[0] == kind for title in figures)
    return kind if number == 1 else f"{kind} {number}"


def find_pass(config: PassConfig) -> Pass:
    """The function that `KINDS` names for `config`."""
    module, _, name = KINDS[kind_of(config)].run.partition(":")
    with quiet():  # toolchains find fault with each other when they are imported
        found: Pass = getattr(importlib.import_module(module), name)
    return found


def text_model(model: Model) -> TextModel:
    """`model` as one whose weights passes change; a recipe is checked not to want it of others."""
    if not isinstance(model, TextModel):
        raise RuntimeError(f"{model.name} is no encoder of texts")
    return model


def is_encoder(recipe: Recipe) -> bool:
    """Whether the source is an encoder of texts that passes may work on: a pass does, or the task
    is embedding and the source's architecture is one of them.
    """
    return recipe.shapes_weights or (
        recipe.task == "embedding"
        and format_of(asked(recipe)) == "Hugging Face"
        and is_text_encoder(find_folder(recipe.source.model, recipe.path.parent))
    )


def asked(recipe: Recipe) -> Asked:
    """What the recipe says of its model."""
    return Asked(
        recipe.source.model,
        recipe.path.parent,
        recipe.source.licence,
        recipe.task,
        recipe.data.max_length,
        recipe.source.shapes,
        recipe.source.seconds,
        recipe.source.tower,
    )


def open_recipe(recipe: Recipe, cache: Cache, progress: Progress) -> tuple[Model, Dataset]:
    """The recipe's model before any pass, and its data.

    Raises:
        InputError: either is not as it should be.
    """
    if is_encoder(recipe):
        data = load_dataset(recipe.data, recipe.task)
        return begin(recipe, data, cache), data
    with progress.busy(f"opening {recipe.source.model}"):
        return bring(recipe)


def bring(recipe: Recipe) -> tuple[BroughtModel, Dataset]:
    """The source as it was brought, with the steps around it, and its data.

    Raises:
        InputError: the model or the data is not as it should be, or nobody says what stands around
            the model.
    """
    with quiet():
        opened = open_model(asked(recipe))
    interface = before(opened, recipe)
    try:
        takes, _ = Declared(recipe.name, interface).reader()
    except IncompatibleError as reason:
        raise InputError(f"{recipe.where}: {reason}") from None
    data = load_splits(recipe.data, takes, TASKS[recipe.task].answers, interface.labels)
    check_answers(interface, opened, data)
    interface = after(interface, opened, recipe, data.calibration)
    return BroughtModel(opened, interface), data


def begin(recipe: Recipe, data: Dataset, cache: Cache) -> TextModel:
    """The source as it is, its tokenizer freed of padding and truncation of its own."""
    source = load_source(recipe.source, base=recipe.path.parent, max_length=_longest(recipe))

    def make(out: Path) -> None:
        from converters.encoding import load_tokenizer

        tokenizer = load_tokenizer(source.folder / TOKENIZER_FILE, max_length=8)
        tokenizer.no_truncation()
        if tokenizer.get_vocab_size() > source.vocabulary:
            raise InputError(
                f"model {source.name}: the tokenizer has {tokenizer.get_vocab_size()} tokens, "
                f"the embedding {source.vocabulary}; they do not belong together"
            )
        tokenizer.save(str(out / TOKENIZER_FILE), pretty=False)

    parts: dict[str, object] = {"source": source.sha256, "tools": tool_versions("tokenizers")}
    folder = cache.folder("tokenizer", parts, make)
    return TextModel(
        source=source,
        tokenizer=Artifact.of(folder / TOKENIZER_FILE),
        encoder=source.folder,
        encoder_sha256=source.sha256,
    )


def _longest(recipe: Recipe) -> int:
    """The most tokens that the encoder will see, in training too."""
    training = recipe.config(FinetuneConfig)
    if training is not None and training.continue_from is not None:
        return max(recipe.data.max_length, _longest(load_recipe(training.continue_from)))
    return max(recipe.data.max_length, training.max_length if training else 0)


def _continued(model: TextModel, config: FinetuneConfig, job: Job) -> TextModel:
    """The encoder and head of the recipe to go on from, trained now unless cached."""
    assert config.continue_from is not None
    before = load_recipe(config.continue_from)
    earlier = before.config(FinetuneConfig)
    assert earlier is not None  # checked at the start
    before = replace(before, source=job.recipe.source)
    job_before = replace(job, recipe=before, data=load_dataset(before.data, before.task))
    trained, _ = find_pass(earlier)(model, earlier, job_before)
    return text_model(trained)


def _with_source(recipe: Recipe, options: Options) -> Recipe:
    source = recipe.source
    if options.source is not None:
        named = options.source
        if Path(named).exists():
            named = str(Path(named).absolute())
        elif ".py:" in named and not Path(named).is_absolute():
            named = str(Path.cwd() / named)
        source = replace(source, model=named, licence="unknown")
    if options.shapes:
        source = replace(source, shapes=options.shapes)
    return replace(recipe, source=source)
