"""How an example is made: stages that are cached, trainers in their own Python, splits as tensors.

An example is a few stages in order: make data, see it through the device's own steps, train. A
stage that was done with the same options by the same source is not done again; what it made lies
in the example's folder. Nothing here knows an example.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomllib
from numpy.typing import NDArray

from converters.progress import Progress, Terminal
from edge_runtime.bundle.manifest import Step
from edge_runtime.errors import EdgeError, InputError, exit_code
from edge_runtime.fields import Fields
from edge_runtime.inference.tasks.items import Item
from edge_runtime.inference.tasks.table import PACKAGE, PREPROCESS

ROOT = Path(__file__).resolve().parent.parent
SPLITS = ("train", "calibration", "test")
SUFFIXES = (".png", ".jpg", ".wav")


@dataclass(frozen=True, slots=True)
class Bench:
    """An example's folder `out`, and where it tells what it does."""

    out: Path
    progress: Progress

    def stage(
        self, name: str, modules: Sequence[str], options: object, work: Callable[[], object]
    ) -> None:
        """Do `work`, unless it was done: `modules` (their source) and `options` say what it is."""
        digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
        for module in modules:
            digest.update(source_of(module).read_bytes())
        stamp = self.out / f".{name}.stamp"
        if stamp.exists() and stamp.read_text() == digest.hexdigest():
            self.progress.say(f"  {name}: as it was made before")
            return
        stamp.unlink(missing_ok=True)
        begin_s = time.monotonic()
        work()
        stamp.write_text(digest.hexdigest())
        self.progress.say(f"  {name}: {time.monotonic() - begin_s:.0f} s")

    def train(self, module: str, *arguments: str, python: Path | None = None) -> None:
        """Run the trainer `module` in `python`, its talk before the user's eyes.

        Raises:
            InputError: it failed.
        """
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "HF_HUB_OFFLINE": "1",
        }
        done = subprocess.run(
            [str(python or sys.executable), "-m", module, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise InputError(f"{module}: ended with exit code {done.returncode}, expected 0")


def source_of(module: str) -> Path:
    """The file of a module of ours, found without importing it."""
    return ROOT / Path(*module.split(".")).with_suffix(".py")


def run(work: Callable[[Bench], None], out: Path) -> int:
    """`work` in the folder `out`; a command's exit code, its error told in one sentence."""
    progress = Terminal()
    begin_s = time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
        work(Bench(out, progress))
    except EdgeError as reason:
        progress.say(f"stopped: {reason}")
        return exit_code(reason)
    progress.say(f"done in {time.monotonic() - begin_s:.0f} s, in {out}")
    return 0


def tensorflow_python(given: Path | None) -> Path:
    """The Python that has TensorFlow: `given`, this one, or that of `.venv-tensorflow`.

    Raises:
        InputError: there is none.
    """
    if given:
        return given
    if importlib.util.find_spec("tensorflow"):
        return Path(sys.executable)
    beside = ROOT / ".venv-tensorflow" / "bin" / "python"
    if beside.exists():
        return beside
    raise InputError(
        f"TensorFlow: neither in {sys.executable} nor in {beside}; "
        "pip install 'edge-runtime[keras]' in an environment and name its Python by --tensorflow"
    )


class Front:
    """The steps before the model as a recipe declares them, on the device's own code."""

    def __init__(self, recipe: Path) -> None:
        self.declared = _declared(recipe)
        self._steps = [_made(step, recipe) for step in self.declared]

    def __call__(self, raw: object) -> dict[str, NDArray[np.float32]]:
        """One input, as a client sends it, to the model's tensors.

        Raises:
            InputError: it is not what the steps take.
        """
        value: Any = raw
        for step in self._steps:
            value = step(value)
        if not isinstance(value, Item):
            raise RuntimeError("the steps of a recipe end in the model's tensors")
        return {name: np.asarray(one, dtype=np.float32) for name, one in value.tensors.items()}


def _declared(recipe: Path) -> list[Step]:
    """The recipe's `preprocess`, a table of a step's name and its options."""
    tables: list[dict[str, Any]] = tomllib.loads(recipe.read_text())["preprocess"]
    return [
        Step(table["step"], {key: value for key, value in table.items() if key != "step"})
        for table in tables
    ]


def _made(step: Step, recipe: Path) -> Callable[[Any], Any]:
    module, _, name = PREPROCESS[step.step].path.partition(":")
    kind = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
    made: Callable[[Any], Any] = kind.parse(
        Fields(step.options, f"recipe {recipe}: step {step.step}", InputError)
    )
    return made


def classes_of(folder: Path) -> tuple[str, ...]:
    """The classes of a split: its folders' names, sorted. A model's outputs stand in this order."""
    return tuple(sorted(one.name for one in folder.iterdir() if one.is_dir()))


def files_of(folder: Path) -> list[tuple[Path, int]]:
    """Every picture or sound of a split with its class, in a fixed order."""
    return [
        (path, place)
        for place, name in enumerate(classes_of(folder))
        for path in sorted((folder / name).iterdir())
        if path.suffix in SUFFIXES
    ]


def write_tensors(bench: Bench, data: Path, recipe: Path, path: Path) -> None:
    """Every split of `data` through the recipe's steps, to one .npz: `train_x`, `train_y`, ….

    x is float32, (n, …) as the model takes it; y is int64, (n,); `labels` are the classes.
    """
    front = Front(recipe)
    arrays: dict[str, Any] = {"labels": np.array(classes_of(data / "train"))}
    for split in SPLITS:
        files = files_of(data / split)
        rows = []
        with bench.progress.count(f"{split}: the device's steps", len(files)) as advance:
            for file, _ in files:
                (tensor,) = front(file.read_bytes()).values()
                rows.append(tensor)
                advance(1, "")
        arrays[f"{split}_x"] = np.stack(rows)
        arrays[f"{split}_y"] = np.array([place for _, place in files], dtype=np.int64)
    with path.open("wb") as file_out:
        np.savez(file_out, **arrays)


def write_report(path: Path, found: Mapping[str, object]) -> None:
    """What training found, as JSON beside the model."""
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
