"""A distillation in a process of its own, which may be killed, or be one of several.

`python -m tests.converters.student_process FILE`, a JSON object: `workshop`, `cache`, the files of
the `encoder`, the `head` and the `tokenizer`, the pass's `settings`, `kill_at` (a step, or 0), and
`out`, where the first process writes the figures. Checkpoints are written at every step.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from converters.cache import Cache
from converters.data import load_dataset
from converters.distil import distil as module
from converters.distil.config import parse_distil
from converters.model import Artifact, Job, TextModel
from converters.progress import Silent
from converters.recipe import load_recipe
from converters.source import files_digest, load_source
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields
from edge_runtime.profile import load_profile


class Deadly(Silent):
    """Ends the process, as a power cut would, when a training has taken so many steps."""

    def __init__(self, step: int) -> None:
        self._step = step

    @contextlib.contextmanager
    def count(self, title: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """Counts steps of a training alone."""
        done = 0

        def advance(more: int, note: str) -> None:
            nonlocal done
            done += more
            if self._step and done >= self._step and title.startswith("distil"):
                os.kill(os.getpid(), signal.SIGKILL)

        yield advance


def model_in(told: dict[str, Any], job: Job) -> TextModel:
    """The model that the files hold, as its own teacher."""
    source = load_source(job.recipe.source, base=Path(told["workshop"]), max_length=8)
    encoder = Path(told["encoder"])
    digest = files_digest([encoder / "config.json", encoder / "model.safetensors"])
    found = TextModel(
        source, Artifact.of(Path(told["tokenizer"])), encoder, digest,
        head=Path(told["head"]), classes=job.data.classes,
    )  # fmt: skip
    return replace(found, uncompressed=found)


def main(path: str) -> None:
    told = json.loads(Path(path).read_text())
    workshop = Path(told["workshop"])
    recipe = load_recipe(workshop / "recipe.toml")
    job = Job(
        recipe, load_profile(str(workshop / "board.toml")), load_dataset(recipe.data, recipe.task),
        Cache(Path(told["cache"])), Deadly(told["kill_at"]), workshop,
    )  # fmt: skip
    config = parse_distil(Fields(told["settings"], "settings", InputError), workshop)
    setattr(module, "SECONDS_BETWEEN", 0.0)  # noqa: B010 - it is no export of that module
    done, figures = module.distil(model_in(told, job), config, job)
    if os.environ.get("RANK", "0") == "0":
        digests = {"encoder": done.encoder_sha256, "head": done.head_sha256()}
        Path(told["out"]).write_text(json.dumps(figures | digests))


if __name__ == "__main__":
    main(sys.argv[1])
