"""A recipe: which model, which data, which passes. One TOML file, read whole or refused whole.

`load_recipe` reports every fault in one go, each with the file and the field. Paths in the file
are relative to the file. The recipe reads no data and loads no model: that is `data` and `source`.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from converters.configs import path_field
from converters.passes import KINDS, STAGES, PassConfig, kind_of
from edge_runtime.bundle.manifest import CREATED, MAX_RANK, NAME, VERSION, Step
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.table import TASKS
from edge_runtime.profile import load_toml

MAX_RECIPE_BYTES = 256 << 10
MAX_LABELS = 4096
TRAINED = ("text-classification", "embedding")
"""Tasks whose encoder passes may train; a model of any other is taken as it is brought."""


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """`model`: a Hugging Face id, a folder, `python-package:NAME`, a file of ONNX, Keras or TFLite,
    a SavedModel's folder, or `FILE.py:FUNCTION`.

    `shapes` fix dimensions that the model leaves free, by input. `seconds` is how long a clip is
    that a model of bare samples hears, 0 for one second; `tower` "text" or "image" of a model that
    has both.
    """

    model: str
    licence: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    tower: str = ""


@dataclass(frozen=True, slots=True)
class StepsConfig:
    """Steps around the model and its labels, where the recipe says them; None: the source must."""

    preprocess: tuple[Step, ...] | None = None
    postprocess: tuple[Step, ...] | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Files of JSON lines, plain or .xz, or folders of files, and the columns that count.

    `text` and `pair` are columns of texts, `file` of a picture's or sound's path.
    """

    train: Path | None
    calibration: Path | None
    test: Path | None
    unlabelled: Path | None
    text: str
    label: str
    max_length: int
    pair: str = "text_pair"
    file: str = "file"


ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe, valid by construction. `sha256` is of the file's bytes."""

    path: Path
    name: str
    version: str
    task: str
    created: str
    seed: int
    source: SourceConfig
    data: DataConfig
    passes: tuple[PassConfig, ...]
    sha256: str
    steps: StepsConfig = StepsConfig()

    @property
    def where(self) -> str:
        return f"recipe {self.path}"

    def config(self, kind: type[ConfigT]) -> ConfigT | None:
        """The configuration of the pass of this kind, if there is one."""
        return next((found for found in self.passes if isinstance(found, kind)), None)

    @property
    def shapes_weights(self) -> bool:
        """Whether a pass trains or changes weights: then the source must be an encoder of texts."""
        return any(KINDS[kind_of(one)].stage == STAGES[0] for one in self.passes)


def load_recipe(path: Path) -> Recipe:
    """Read and check the recipe at `path`. SOURCE_DATE_EPOCH, where set, replaces `created`.

    Raises:
        InputError: it cannot be read, is not TOML, or holds faults; all of them are named.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECIPE_BYTES + 1)
    except OSError as reason:
        raise InputError(f"recipe {path}: cannot be read ({reason.strerror})") from None
    return parse_recipe(data, path)


def parse_recipe(data: bytes, path: Path) -> Recipe:
    """The recipe in `data`; `path` says where it stands, for messages and relative paths."""
    where = f"recipe {path}"
    faults: list[str] = []
    f = Fields(load_toml(data, MAX_RECIPE_BYTES, where), where, InputError, faults)
    task = f.choice("task", tuple(TASKS))
    source = f.object("source")
    recipe = Recipe(
        path=path,
        name=_formed(f, faults, "name"),
        version=_formed(f, faults, "version"),
        task=task,
        created=_formed(f, faults, "created"),
        seed=f.integer("seed", 0, high=2**31),
        source=SourceConfig(
            source.text("model", max_len=1024),
            source.text("licence", "unknown"),
            _shapes(source.object("shape", {})),
            source.number("seconds", 0.0, low=0, high=3600),
            source.choice("tower", ("text", "image"), "") if source.present("tower") else "",
        ),
        data=_data(f.object("data"), path.parent),
        passes=tuple(_passes(f, path.parent)),
        sha256=hashlib.sha256(data).hexdigest(),
        steps=_steps_config(f, path.parent),
    )
    _refuse_unknown(source)
    _refuse_unknown(f)
    _check_order(recipe, f)
    f.done()
    return replace(recipe, created=_created(recipe.created))


def _shapes(f: Fields) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name in f.rest():
        sizes = f.numbers(name, max_items=MAX_RANK, min_items=1)
        if not all(size == int(size) and size > 0 for size in sizes):
            f.fault(f"{f.where}: {name} is {list(sizes)}, expected sizes, whole numbers above 0")
        shapes[name] = tuple(int(size) for size in sizes)
    return shapes


def _steps_config(f: Fields, folder: Path) -> StepsConfig:
    return StepsConfig(
        _steps(f, "preprocess"), _steps(f, "postprocess"), _labels(f, folder)
    )  # fmt: skip


def _steps(f: Fields, key: str) -> tuple[Step, ...] | None:
    """Tables whose key `step` is a name and all else options, which are checked later."""
    if not f.present(key):
        return None
    tables = f.objects(key, max_items=32)
    return tuple(Step(one.text("step"), dict(one.rest("step"))) for one in tables)


def _labels(f: Fields, folder: Path) -> tuple[str, ...] | None:
    """A list, or the name of a file with a label a line, in the order of the outputs."""
    if not f.present("labels"):
        return None
    if not isinstance(f.rest()["labels"], str):
        return tuple(f.texts("labels", max_items=MAX_LABELS))
    path = folder / f.text("labels", max_len=1024)
    try:
        with path.open(encoding="utf-8") as file:
            lines = tuple(line.strip() for line in file.read(MAX_RECIPE_BYTES).splitlines())
    except (OSError, UnicodeDecodeError) as reason:
        f.fault(f"{f.where}: labels: {path} cannot be read ({reason})")
        return None
    return tuple(line for line in lines if line)


FORMS: Mapping[str, tuple[str, str]] = {
    "name": (NAME, "lower-case letters, digits, '.', '_' and '-', such as debian-sections"),
    "version": (VERSION, "three numbers with dots between, such as 1.0.0 or 1.2.0-rc1"),
    "created": (CREATED, "a time in UTC, such as 2026-01-31T12:00:00Z"),
}
"""Pattern of a field, and how a person is told of it."""


def _formed(f: Fields, faults: list[str], key: str) -> str:
    """The string under `key`, in the form that `FORMS` asks for."""
    pattern, words = FORMS[key]
    before = len(faults)
    value = f.text(key)
    if len(faults) == before and not re.fullmatch(pattern, value):
        f.fault(f"{f.where}: {key} is {value!r}, expected {words}")
    return value


def _data(f: Fields, folder: Path) -> DataConfig:
    config = DataConfig(
        train=path_field(f, "train", folder),
        calibration=path_field(f, "calibration", folder),
        test=path_field(f, "test", folder),
        unlabelled=path_field(f, "unlabelled", folder),
        text=f.text("text", "text"),
        label=f.text("label", "label"),
        max_length=f.integer("max_length", 128, low=8, high=512),
        pair=f.text("pair", "text_pair"),
        file=f.text("file", "file"),
    )
    if config.calibration is None:
        f.fault(
            f"{f.where}: calibration is missing, expected a file or folder of inputs that "
            "quantization may look at"
        )
    if config.test is None:
        f.fault(f"{f.where}: test is missing, expected a file or folder of inputs")
    for name in ("calibration", "train", "unlabelled"):
        path = getattr(config, name)
        if path and path == config.test:
            f.fault(f"{f.where}: {name} and test are the same file; a figure would flatter itself")
    _refuse_unknown(f)
    return config


def _passes(f: Fields, folder: Path) -> list[PassConfig]:
    """The configured passes in the file's order; a fault for each unknown kind."""
    configs: list[PassConfig] = []
    for one in f.objects("pass", max_items=32, min_items=1):
        kind = one.choice("kind", tuple(KINDS))
        if kind in KINDS:
            configs.append(KINDS[kind].parse(one, folder))
            _refuse_unknown(one)
    return configs


def _check_order(recipe: Recipe, f: Fields) -> None:
    """Stages in the order of `STAGES`, with what nothing can do without.

    Only what changes weights may be repeated; fine-tuning makes what the others compress.
    """
    kinds = [kind_of(config) for config in recipe.passes]
    stages = [STAGES.index(KINDS[kind].stage) for kind in kinds]
    once = [stage for stage in stages if STAGES[stage] != "weights"]
    if stages != sorted(stages) or len(once) != len(set(once)):
        f.fault(
            f"{f.where}: passes must stand in the order {', '.join(KINDS)}; only vocabulary, prune "
            "and distil may be repeated, in any order among themselves"
        )
    if "finetune" in kinds[1:]:
        f.fault(f"{f.where}: finetune must be the first pass, and the only one of its kind")
    missing = [name for name, kind in KINDS.items() if kind.needed and name not in kinds]
    if missing and recipe.passes:
        f.fault(f"{f.where}: the passes {', '.join(missing)} are missing")
    if recipe.passes:
        _check_weights(recipe, kinds, f)


def _check_weights(recipe: Recipe, kinds: Sequence[str], f: Fields) -> None:
    """What passes on weights need: a task that they can train for, and rows to train on."""
    changing = [name for name in kinds if name in KINDS and KINDS[name].stage == STAGES[0]]
    if not changing or recipe.task not in TASKS:
        return
    if recipe.task not in TRAINED:
        f.fault(
            f"{f.where}: the pass {changing[0]} changes an encoder of texts, task {recipe.task} is "
            f"none of {', '.join(TRAINED)}"
        )
        return
    if recipe.task == "text-classification":
        if "finetune" not in kinds:
            f.fault(f"{f.where}: the passes finetune are missing")
        if recipe.data.train is None:
            f.fault(f"{f.where}: data.train is missing, expected a .jsonl or .jsonl.xz file")
    for name in ("preprocess", "postprocess", "labels"):
        if getattr(recipe.steps, name) is not None:
            f.fault(f"{f.where}: {name} is for models that are taken as they are, leave it out")


def _refuse_unknown(f: Fields) -> None:
    for key in f.unknown():
        f.fault(f"{f.where}: {key} is not a field of a recipe")


def _created(written: str) -> str:
    """The recipe's time stamp, or SOURCE_DATE_EPOCH (seconds since 1970) where that is set."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:
        return written
    if not re.fullmatch(r"\d{1,11}", epoch):
        raise InputError(f"SOURCE_DATE_EPOCH is {epoch!r}, expected seconds since 1970")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(epoch)))
