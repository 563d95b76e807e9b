"""Who is learned from: the original model, and the models of other recipes for a student of several
tasks.

A teacher is its pooled outputs for all rows and its head, so its logits are one small product a
batch. Another recipe's teacher is that recipe's fine-tuned model, trained now unless it is cached,
on this recipe's encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from converters.configs import FinetuneConfig
from converters.data import Rows, load_dataset
from converters.distil.config import TaskConfig
from converters.distil.lessons import Lessons, pooled_outputs
from converters.model import Job, TextModel
from converters.network import load_head
from converters.recipe import load_recipe
from edge_runtime.errors import InputError

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Task:
    """One task of the student: its teacher, and the weight of its soft labels."""

    name: str
    model: TextModel
    weight: float
    train: Rows | None = None


@dataclass(frozen=True, slots=True)
class Teacher:
    """What one teacher says: `pooled` float32 (rows, hidden); `head` maps it to logits, or None."""

    name: str
    weight: float
    pooled: torch.Tensor
    head: torch.nn.Linear | None

    def logits(self, rows: Sequence[int]) -> torch.Tensor:
        """(rows, classes) of these rows."""
        assert self.head is not None
        with torch.no_grad():
            found: torch.Tensor = self.head(self.pooled[list(rows)])
        return found


def tasks_of(model: TextModel, configs: Sequence[TaskConfig], job: Job) -> list[Task]:
    """The recipe's own task first, weight 1, then the others'.

    Raises:
        InputError: another recipe is no classifier with a fine-tuning of its own.
    """
    return [
        Task(job.recipe.name, model.original, 1.0),
        *(_other(model, config, job) for config in configs),
    ]


def _other(model: TextModel, config: TaskConfig, job: Job) -> Task:
    from converters.finetune import finetune

    recipe = load_recipe(config.recipe)
    trains = recipe.config(FinetuneConfig)
    if trains is None or trains.freeze_backbone:
        raise InputError(
            f"{recipe.where}: cannot teach a task; expected a finetune pass that trains an encoder"
        )
    source, original = model.source, model.original
    start = TextModel(original.source, original.tokenizer, source.folder, source.sha256)
    recipe = replace(recipe, source=job.recipe.source)
    data = load_dataset(recipe.data, recipe.task)
    trained, _ = finetune(start, trains, replace(job, recipe=recipe, data=data))
    return Task(recipe.name, trained, config.weight, data.train)


def teachers_of(
    tasks: Sequence[Task], lessons: Lessons, job: Job, max_length: int
) -> list[Teacher]:
    """What each task's teacher says of every row: computed now unless it is cached."""
    return [
        Teacher(
            task.name,
            task.weight,
            torch.from_numpy(pooled_outputs(task.model, lessons, job, max_length)),
            load_head(task.model.head.parent) if task.model.head else None,
        )
        for task in tasks
    ]
