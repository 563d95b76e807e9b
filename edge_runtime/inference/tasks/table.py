"""The tables of steps and tasks, and how a manifest's declarations become calls.

Steps are data in the manifest and code only here: a bundle names them and brings no code. An
unknown name is refused, the known ones listed, before the model is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.bundle.manifest import Manifest, Step, TensorSpec
from edge_runtime.errors import IncompatibleError
from edge_runtime.fields import Fields
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.tasks.postprocess import TopK
from edge_runtime.inference.tasks.results import Classification, Embedding, FloatArray, Result
from edge_runtime.inference.tasks.tokenize import TokenizeOptions

PREPROCESS: dict[str, str] = {
    "tokenize": "edge_runtime.inference.tasks.tokenize:TokenizeOptions",
}
POSTPROCESS: dict[str, str] = {
    "softmax": "edge_runtime.inference.tasks.postprocess:Softmax",
    "l2_normalize": "edge_runtime.inference.tasks.postprocess:L2Normalize",
    "top_k": "edge_runtime.inference.tasks.postprocess:TopK",
}


@dataclass(frozen=True, slots=True)
class Task:
    """What a task takes and answers, for those who describe it to clients."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranked: bool
    """Whether the steps must end in top_k."""


TEXT = TensorSpec("text", "bytes", ("batch",))
TASKS: dict[str, Task] = {
    "text-classification": Task(
        "text-classification",
        (TEXT,),
        (TensorSpec("label", "bytes", ("batch",)), TensorSpec("score", "float32", ("batch",))),
        ranked=True,
    ),
    "embedding": Task(
        "embedding",
        (TEXT,),
        (TensorSpec("embedding", "float32", ("batch", "dimension")),),
        ranked=False,
    ),
}


@dataclass(frozen=True, slots=True)
class Steps:
    """A manifest's declared steps, checked and ready."""

    task: Task
    tokenize: TokenizeOptions
    output: str
    """The model's output that the postprocess steps read."""
    apply: tuple[Callable[[FloatArray], FloatArray], ...]
    top_k: TopK | None

    def results(self, values: Mapping[str, Tensor], truncated: Sequence[bool]) -> list[Result]:
        """One typed result for each row of the model's output."""
        rows: FloatArray = values[self.output]
        if rows.dtype != np.float32 or rows.ndim != 2:
            rows = rows.astype(np.float32).reshape(len(truncated), -1)
        for step in self.apply:
            rows = step(rows)
        if self.top_k is None:
            return [Embedding(row, cut) for row, cut in zip(rows, truncated, strict=True)]
        return [
            Classification(best[0][0], best[0][1], best, cut)
            for best, cut in zip(self.top_k(rows), truncated, strict=True)
        ]


def declared_steps(manifest: Manifest) -> Steps:
    """The steps of `manifest`.

    Raises:
        IncompatibleError: an unknown task or step (the known ones are listed), faulty options,
            or steps that do not add up to the task.
    """
    where = f"bundle {manifest.name} {manifest.version}"
    if manifest.task not in TASKS:
        raise IncompatibleError(
            f"{where}: task {manifest.task!r} is not known to this software; "
            f"known are {', '.join(TASKS)}"
        )
    task = TASKS[manifest.task]
    before = [_make(PREPROCESS, "preprocess", step, where) for step in manifest.preprocess]
    after = [_make(POSTPROCESS, "postprocess", step, where) for step in manifest.postprocess]
    if len(before) != 1 or not isinstance(before[0], TokenizeOptions):
        raise IncompatibleError(
            f"{where}: task {task.name} needs the preprocess step tokenize and no other"
        )
    names = {spec.name for spec in manifest.inputs}
    if names != set(before[0].inputs):
        raise IncompatibleError(
            f"{where}: the step tokenize makes {', '.join(before[0].inputs)}, "
            f"the model takes {', '.join(sorted(names))}"
        )
    ranked = [step for step in after if isinstance(step, TopK)]
    if len(ranked) != task.ranked or (ranked and after[-1] is not ranked[0]):
        ending = "end in one step top_k" if task.ranked else "have no step top_k"
        raise IncompatibleError(f"{where}: the postprocess steps of {task.name} must {ending}")
    return Steps(
        task=task,
        tokenize=before[0],
        output=manifest.outputs[0].name,
        apply=tuple(step for step in after if not isinstance(step, TopK)),
        top_k=ranked[0] if ranked else None,
    )


def _make(table: Mapping[str, str], kind: str, step: Step, where: str) -> Any:
    """`step` made from its options, by its entry in `table`."""
    if step.step not in table:
        raise IncompatibleError(
            f"{where}: {kind} step {step.step!r} is not known to this software; "
            f"known are {', '.join(table)}"
        )
    module, _, attribute = table[step.step].partition(":")
    options = Fields(step.options, f"{where}: step {step.step}", IncompatibleError)
    return getattr(importlib.import_module(module), attribute).parse(options)
