"""A recipe: which model, which data, which passes. One TOML file, read whole or refused whole.

`load_recipe` reports every fault in one go, each with the file and the field. Paths in the file
are relative to the file. The recipe reads no data and loads no model: that is `data` and `source`.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, TypeVar

from edge_runtime.bundle.manifest import CREATED, NAME, VERSION
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields
from edge_runtime.profile import load_toml

MAX_RECIPE_BYTES = 256 << 10
TASKS = ("text-classification", "embedding")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """`model`: a Hugging Face id, a folder, or `python-package:NAME`."""

    model: str
    licence: str


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Files of JSON lines, plain or .xz, and the columns that count."""

    train: Path | None
    calibration: Path | None
    test: Path | None
    text: str
    label: str
    max_length: int


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """Training of encoder and head, or of the head alone on the encoder of another recipe.

    Lengths are in tokens. `quick_rows` replaces `rows` in quick mode; 0 means all rows.
    """

    epochs: int
    lr: float
    head_lr: float
    batch: int
    max_length: int
    rows: int
    quick_rows: int
    freeze_backbone: bool
    freeze_embeddings: bool
    continue_from: Path | None
    precision: str


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """`exporter` is "torch" or "optimum" (an extra of its own)."""

    opset: int
    exporter: str


@dataclass(frozen=True, slots=True)
class FuseConfig:
    """Fused operators for ONNX Runtime; no choices."""


@dataclass(frozen=True, slots=True)
class QuantizeConfig:
    """Recipes by engine where the profile's are not wanted; empty: the profile's."""

    recipes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class VerifyConfig:
    """What a variant must reach to be packed, and how much is measured.

    Fractions are 0..1; `quick_rows` bounds the test rows in quick mode. Float variants that are
    not packed are judged on `float_rows` rows, because they only prove that the export is right;
    0 means all.
    """

    max_accuracy_drop: float
    min_agreement: float
    min_cosine: float
    golden_cases: int
    latency_runs: int
    quick_rows: int
    float_rows: int


@dataclass(frozen=True, slots=True)
class PackageConfig:
    """`keep_float` packs the float variants too, behind the quantized ones."""

    keep_float: bool


ConfigT = TypeVar("ConfigT")
PassConfig: TypeAlias = (
    FinetuneConfig | ExportConfig | FuseConfig | QuantizeConfig | VerifyConfig | PackageConfig
)


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

    @property
    def where(self) -> str:
        return f"recipe {self.path}"

    def config(self, kind: type[ConfigT]) -> ConfigT | None:
        """The configuration of the pass of this kind, if there is one."""
        return next((found for found in self.passes if isinstance(found, kind)), None)


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
    task = f.choice("task", TASKS)
    source = f.object("source")
    recipe = Recipe(
        path=path,
        name=_formed(f, faults, "name"),
        version=_formed(f, faults, "version"),
        task=task,
        created=_formed(f, faults, "created"),
        seed=f.integer("seed", 0, high=2**31),
        source=SourceConfig(source.text("model", max_len=1024), source.text("licence", "unknown")),
        data=_data(f.object("data"), path.parent, task),
        passes=tuple(_passes(f, path.parent)),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    _refuse_unknown(source)
    _refuse_unknown(f)
    _check_order(recipe, f)
    f.done()
    return replace(recipe, created=_created(recipe.created))


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


def _data(f: Fields, folder: Path, task: str) -> DataConfig:
    config = DataConfig(
        train=_path(f, "train", folder),
        calibration=_path(f, "calibration", folder),
        test=_path(f, "test", folder),
        text=f.text("text", "text"),
        label=f.text("label", "label"),
        max_length=f.integer("max_length", 128, low=8, high=512),
    )
    if config.calibration is None:
        f.fault(
            f"{f.where}: calibration is missing, expected a .jsonl or .jsonl.xz file of texts that "
            "quantization may look at"
        )
    wanted = {"test": config.test}
    if task == "text-classification":
        wanted["train"] = config.train
    for name, value in wanted.items():
        if value is None:
            f.fault(f"{f.where}: {name} is missing, expected a .jsonl or .jsonl.xz file")
    for name in ("calibration", "train"):
        path = getattr(config, name)
        if path and path == config.test:
            f.fault(f"{f.where}: {name} and test are the same file; a figure would flatter itself")
    _refuse_unknown(f)
    return config


def _path(f: Fields, key: str, folder: Path) -> Path | None:
    if not f.present(key):
        return None
    text: str = f.text(key, max_len=1024)
    return Path(os.path.normpath(folder / text))


def _passes(f: Fields, folder: Path) -> list[PassConfig]:
    """The configured passes in the file's order; a fault for each unknown kind."""
    configs: list[PassConfig] = []
    for one in f.objects("pass", max_items=32, min_items=1):
        kind = one.choice("kind", tuple(PARSERS))
        if kind in PARSERS:
            configs.append(PARSERS[kind](one, folder))
            _refuse_unknown(one)
    return configs


def _finetune(f: Fields, folder: Path) -> FinetuneConfig:
    config = FinetuneConfig(
        epochs=f.integer("epochs", 1, low=1, high=1000),
        lr=f.number("lr", 1e-4, low=0, high=1),
        head_lr=f.number("head_lr", 2e-3, low=0, high=10),
        batch=f.integer("batch", 32, low=1, high=4096),
        max_length=f.integer("max_length", 128, low=8, high=512),
        rows=f.integer("rows", 0),
        quick_rows=f.integer("quick_rows", 1200),
        freeze_backbone=f.boolean("freeze_backbone", False),
        freeze_embeddings=f.boolean("freeze_embeddings", True),
        continue_from=_path(f, "continue_from", folder),
        precision=f.choice("precision", PRECISIONS, "auto"),
    )
    if config.freeze_backbone and config.continue_from is None:
        f.fault(
            f"{f.where}: freeze_backbone needs continue_from, the recipe whose backbone is kept"
        )
    if config.continue_from and not config.freeze_backbone:
        f.fault(f"{f.where}: continue_from needs freeze_backbone = true; only the head goes on")
    return config


def _export(f: Fields, folder: Path) -> ExportConfig:
    return ExportConfig(
        opset=f.integer("opset", 17, low=14, high=20),
        exporter=f.choice("exporter", ("torch", "optimum"), "torch"),
    )


def _fuse(f: Fields, folder: Path) -> FuseConfig:
    return FuseConfig()


def _quantize(f: Fields, folder: Path) -> QuantizeConfig:
    recipes = f.object("recipes", {})
    names = f.mapping("recipes", {})
    return QuantizeConfig({engine: recipes.text(engine) for engine in names})


def _verify(f: Fields, folder: Path) -> VerifyConfig:
    return VerifyConfig(
        max_accuracy_drop=f.number("max_accuracy_drop", 0.01, low=0, high=1),
        min_agreement=f.number("min_agreement", 0.97, low=0, high=1),
        min_cosine=f.number("min_cosine", 0.95, low=-1, high=1),
        golden_cases=f.integer("golden_cases", 8, low=1, high=64),
        latency_runs=f.integer("latency_runs", 40, low=1, high=10_000),
        quick_rows=f.integer("quick_rows", 600, low=1),
        float_rows=f.integer("float_rows", 500),
    )


def _package(f: Fields, folder: Path) -> PackageConfig:
    return PackageConfig(keep_float=f.boolean("keep_float", False))


PARSERS: Mapping[str, Callable[[Fields, Path], PassConfig]] = {
    "finetune": _finetune,
    "export": _export,
    "fuse": _fuse,
    "quantize": _quantize,
    "verify": _verify,
    "package": _package,
}
"""Kinds of passes, in the order in which they may stand."""

ORDER = (
    FinetuneConfig, ExportConfig, FuseConfig, QuantizeConfig, VerifyConfig, PackageConfig,
)  # fmt: skip
NEEDED = {ExportConfig: "export", VerifyConfig: "verify", PackageConfig: "package"}


def _check_order(recipe: Recipe, f: Fields) -> None:
    """Each kind once, in the order of `ORDER`, with what nothing can do without."""
    places = [ORDER.index(type(config)) for config in recipe.passes]
    if places != sorted(set(places)):
        f.fault(f"{f.where}: passes must stand once each, in the order {', '.join(PARSERS)}")
    present = {type(config) for config in recipe.passes}
    missing = [name for kind, name in NEEDED.items() if kind not in present]
    if recipe.task == "text-classification" and FinetuneConfig not in present:
        missing.insert(0, "finetune")
    if missing and recipe.passes:
        f.fault(f"{f.where}: the passes {', '.join(missing)} are missing")


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
