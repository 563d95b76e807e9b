"""What stands around a brought model: the source's own word, the recipe's where it says otherwise.

A format that knows nothing of pixels or labels (ONNX, Keras, TFLite, a bare module) leaves it to
the recipe. What can only be meant one way is filled in: the one input's name, the labels of the
step that needs them, and the steps behind the model, where softmax is left out if its outputs are
shares already: that is seen in its answers, not guessed from its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from converters.data import Dataset
from converters.recipe import Recipe
from converters.rows import Rows
from converters.samples import Declared, read_samples
from converters.sources.interface import FloatModel, Interface
from edge_runtime.bundle.manifest import Step
from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.fields import Json
from edge_runtime.inference.tasks.table import PREPROCESS, TASKS, unknown_options

TOP_K = 5
FEW = 4
"""Rows that the model is asked to see what its outputs are."""
NEEDS_INPUT = ("normalize", "audio_tensor", "columns")
NEEDS_LABELS = ("top_k", "spans", "boxes", "class_map")


def before(model: FloatModel, recipe: Recipe) -> Interface:
    """The interface with its task, labels and the steps before the model.

    Raises:
        InputError: nobody says how an input is made.
    """
    found = model.interface
    written = recipe.steps
    steps = found.preprocess if written.preprocess is None else written.preprocess
    labels = written.labels or _labels_of(written.postprocess or ()) or found.labels
    task = TASKS[recipe.task]
    if not steps and "tensors" not in task.takes:
        starts = [name for name, one in PREPROCESS.items() if set(one.takes) & set(task.takes)]
        raise InputError(
            f"{recipe.where}: model {model.name} does not say how its inputs are made; write "
            f"[[preprocess]] steps, the first of them {' or '.join(starts)} (docs/bundle-format.md)"
        )
    if task.answers == "labels":
        _check_labels(replace(found, labels=labels), recipe)
    inputs = [spec.name for spec in found.inputs]
    if len(inputs) == 1:
        steps = tuple(_filled(step, NEEDS_INPUT, "input", inputs[0]) for step in steps)
    return replace(found, task=recipe.task, preprocess=steps, labels=labels, postprocess=())


def after(interface: Interface, model: FloatModel, recipe: Recipe, calibration: Rows) -> Interface:
    """The same with the steps behind the model, whole.

    Raises:
        InputError: labels are missing, or as many as the model's outputs are not.
    """
    written = recipe.steps.postprocess
    steps = model.interface.postprocess if written is None else written
    if recipe.steps.labels is not None and written is None:
        # The source's own steps with the recipe's labels.
        steps = tuple(_relabelled(step, interface.labels) for step in steps)
    answers = TASKS[recipe.task].answers
    if not steps:
        steps = _usual(interface, model, answers, calibration, recipe)
    if interface.labels:
        labels: Json = list(interface.labels)
        steps = tuple(_filled(step, NEEDS_LABELS, "labels", labels) for step in steps)
    done = replace(interface, postprocess=steps)
    if not interface.labels:
        done = replace(done, labels=_labels_of(steps))
    if answers == "labels":
        _check_labels(done, recipe)
    check_steps(done, recipe)
    return done


def check_steps(interface: Interface, recipe: Recipe) -> None:
    """The steps are known, whole, and lead through the model to the task's result.

    Raises:
        InputError: not so.
    """
    try:
        _ = Declared(recipe.name, interface).steps
    except IncompatibleError as reason:
        raise InputError(f"{recipe.where}: {reason}") from None
    for step in (*interface.preprocess, *interface.postprocess):
        # A device lets pass what a newer converter may have written; a person's typo it should not.
        if unknown := unknown_options(step):
            raise InputError(f"{recipe.where}: step {step.step} has no option {unknown[0]!r}")


def check_answers(interface: Interface, model: FloatModel, data: Dataset) -> None:
    """The first rows of either split go through steps and model, and come back as numbers.

    Raises:
        InputError: a row is not what the model takes, or its answer is not finite.
    """
    for rows in (data.calibration, data.test):
        sample = read_samples(interface, rows.first(1), name=model.name)[0]
        for name, value in model.run(sample.tensors()).items():
            if not np.isfinite(value).all():
                raise InputError(
                    f"model {model.name}: output {name} is not finite for {rows.named(0)}; do its "
                    "weights, or the row, hold NaN or infinity?"
                )


def _filled(step: Step, names: Sequence[str], key: str, value: Json) -> Step:
    """The step with `key` where it is one that needs it and nobody gave it."""
    if step.step not in names or key in step.options:
        return step
    return Step(step.step, {**step.options, key: value})


def _relabelled(step: Step, labels: Sequence[str]) -> Step:
    if step.step not in NEEDS_LABELS or "labels" not in step.options:
        return step
    return Step(step.step, {**step.options, "labels": list(labels)})


def _labels_of(steps: Sequence[Step]) -> tuple[str, ...]:
    """Labels that a step itself was given."""
    for step in steps:
        found = step.options.get("labels")
        if isinstance(found, (list, tuple)):
            return tuple(str(label) for label in found)
    return ()


def _usual(
    interface: Interface, model: FloatModel, answers: str, calibration: Rows, recipe: Recipe
) -> tuple[Step, ...]:
    """The steps behind a model of which nobody says any."""
    count = len(interface.labels)
    if answers == "labels":
        top = Step("top_k", {"k": min(TOP_K, max(count, 1))})
        shares = _are_shares(interface, model, calibration)
        return (top,) if shares else (Step("softmax"), top)
    if answers == "vector":
        return (Step("l2_normalize"),)
    if answers == "values":
        width = interface.outputs[0].shape[-1]
        names = list(interface.labels) or [
            f"value_{at}" if isinstance(width, int) and width > 1 else "value"
            for at in range(width if isinstance(width, int) else 1)
        ]
        return (Step("values", {"names": names}),)
    if answers == "tensors":
        return ()
    if answers in ("spans", "mask") and count:
        return (Step("spans" if answers == "spans" else "class_map"),)
    raise InputError(
        f"{recipe.where}: model {model.name} does not say what its outputs mean; write "
        f"[[postprocess]] steps for task {recipe.task} (docs/bundle-format.md)"
    )


def _are_shares(interface: Interface, model: FloatModel, calibration: Rows) -> bool:
    """Whether every answer to a few rows is at least 0 and sums to 1."""
    for sample in read_samples(interface, calibration.first(FEW), name=model.name):
        values = np.asarray(model.run(sample.tensors())[interface.outputs[0].name], dtype=float)
        if values.min() < 0 or not np.allclose(values.sum(axis=-1), 1, atol=1e-3):
            return False
    return True


def _check_labels(interface: Interface, recipe: Recipe) -> None:
    width = interface.outputs[0].shape[-1] if interface.outputs[0].shape else 1
    count = len(interface.labels)
    if not count:
        raise InputError(
            f"{recipe.where}: labels are missing: the model has {width} outputs and does not say "
            "what they are called"
        )
    twice = next((one for one in interface.labels if interface.labels.count(one) > 1), None)
    if twice is not None:
        raise InputError(f"{recipe.where}: label {twice!r} stands for two outputs")
    strange = next((one for one in interface.labels if not one.isprintable()), None)
    if strange is not None:
        raise InputError(f"{recipe.where}: label {strange!r} holds what cannot be printed")
    if isinstance(width, int) and width != count:
        raise InputError(f"{recipe.where}: {count} labels, the model has {width} outputs")
