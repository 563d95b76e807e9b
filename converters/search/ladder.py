"""The rungs of a search: shapes are pruned and taught a little, the better ones more and more.

A shape's place is decided by the rows that are held out of its training. How long a step takes is
first estimated and then known from the rungs before; what a cached rung took when it was run counts
as if it were run now, so that a search that goes on decides as one that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converters.model import Job, TextModel
from converters.passes import PassConfig, kind_of
from converters.pipeline import run_passes, title_of
from converters.search.halving import Rung, plan, shares, survivors
from converters.search.recipes import lesson, shaping, teaching
from converters.search.show import trained_row
from converters.search.space import Encoder, Shape
from converters.search.speed import step_seconds
from edge_runtime.errors import InputError
from edge_runtime.fields import Json

WARNING_SHARE = 0.9
"""Of the time; after that nothing new is begun, because what is left is needed to measure."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A shape on its way: its weights so far, the passes that made them, and what they are worth.

    `rungs` are the steps of each training, `seconds` what they took; `loss` is of the held-out rows
    in `held_out`, lower is better. `figures` are those of each pass so far, by title.
    """

    shape: Shape
    model: TextModel
    passes: tuple[PassConfig, ...]
    rungs: tuple[int, ...]
    loss: float
    seconds: float
    held_out: dict[str, float]
    figures: dict[str, Mapping[str, Json]]

    @property
    def step_s(self) -> float:
        """Seconds a training step took."""
        return self.seconds / sum(self.rungs)


@dataclass(frozen=True, slots=True)
class Ladder:
    """What all rungs share. `seconds` are for all training; after `deadline`, of the monotonic
    clock, no rung is begun, but for the very first.
    """

    reference: TextModel
    encoder: Encoder
    job: Job
    seconds: float
    deadline: float


def climb(ladder: Ladder, shapes: Sequence[Shape]) -> tuple[list[Candidate], str]:
    """Train; returns those that were, the best first, and why it ended early, or nothing."""
    taught = lesson(ladder.job.recipe.task, ladder.job.recipe.data.max_length)
    nominal = [step_seconds(ladder.encoder, one, taught, ladder.job.cache) for one in shapes]
    rungs = plan(len(shapes), nominal, ladder.seconds)
    if not rungs:
        return [], "the time is too short to train anything"
    done: dict[str, Candidate] = {}
    going = list(shapes[: rungs[0].keep])
    unsuited: dict[str, str] = {}
    for number, rung in enumerate(rungs):
        if number:
            losses = [(one.name, done[one.name].loss) for one in going]
            going = [done[name].shape for name in survivors(losses, rung.keep)]
        spent = sum(one.seconds for one in done.values())
        steps = _steps(ladder, rungs, number, [done[one.name] for one in going if number], spent)
        for shape in going:
            if done and time.monotonic() > ladder.deadline:
                return ranked(done.values()), "the time was over before the plan was done"
            try:
                done[shape.name] = _taught(ladder, shape, done.get(shape.name), steps)
            except InputError as reason:  # such as a vocabulary that cannot be so small
                unsuited[shape.name] = str(reason)
                ladder.job.progress.say(f"{shape.name}: left out, {reason}")
        going = [shape for shape in going if shape.name not in unsuited]
        if not going:
            break
    told = "; ".join(f"{name} was left out: {reason}" for name, reason in unsuited.items())
    return ranked(done.values()), told


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Who trained longest first; of those, the best first."""
    return sorted(candidates, key=lambda one: (-len(one.rungs), one.loss, one.shape.name))


def _steps(
    ladder: Ladder, rungs: Sequence[Rung], number: int, going: Sequence[Candidate], spent: float
) -> int:
    """Steps of a rung: those of the plan, corrected by how long steps turned out to take.

    `spent` seconds went into the rungs before; what they left is shared out anew.
    """
    if not going:
        return rungs[number].steps
    left = shares(len(rungs))[number:]
    seconds = (ladder.seconds - spent) * left[0] / sum(left)
    return max(1, int(seconds / sum(one.step_s for one in going)))


def _taught(ladder: Ladder, shape: Shape, before: Candidate | None, steps: int) -> Candidate:
    """The candidate after one more rung."""
    job = ladder.job
    taught = lesson(job.recipe.task, job.recipe.data.max_length)
    rungs = (*(before.rungs if before else ()), steps)
    lessons = teaching(ladder.encoder, shape, taught, rungs)
    fresh = lessons[-1:] if before else [*shaping(ladder.encoder, shape), *lessons]
    job.progress.say(f"{shape.name}: rung {len(rungs)}, {steps} steps")
    conversion = run_passes(before.model if before else ladder.reference, fresh, job)
    told = dict(before.figures) if before else {}
    for config, figures in zip(fresh, conversion.passes.values(), strict=True):
        told[title_of(kind_of(config), told)] = figures
    taught_figures = conversion.passes["distil"]
    held: Any = taught_figures["held_out"]
    job.progress.say(trained_row(shape.name, sum(rungs), _loss(held)))
    took = float(str(taught_figures["training_seconds"]))
    return Candidate(
        shape=shape,
        model=conversion.text,
        passes=(*(before.passes if before else ()), *fresh),
        rungs=rungs,
        loss=_loss(held),
        seconds=(before.seconds if before else 0.0) + took,
        held_out={name: float(value) for name, value in held.items()},
        figures=told,
    )


def _loss(held: Mapping[str, float]) -> float:
    """What candidates are ranked by: a classifier's regret, else how many neighbours are lost."""
    return float(held["regret"]) if "regret" in held else 1 - float(held["recall@10"])
