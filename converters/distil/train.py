"""The loop: batches of like length, the weighted losses, and how far the student has come.

Nothing is drawn at random but the order of batches, and that from the recipe's seed, so a run that
goes on from a checkpoint sees what the uninterrupted one would have seen. All processes take the
same steps; the first of them writes checkpoints and compares with the teacher.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from converters.distil import losses
from converters.distil.checkpoint import Checkpoint
from converters.distil.config import DistilConfig
from converters.distil.held_out import measure
from converters.distil.lecture import OWN, Lecture
from converters.distil.processes import Processes
from converters.distil.student import RELATED, Learner, states_of
from converters.progress import Progress
from converters.training import length_batches, make_optimizer, steps_of

COMPARISONS = 8
"""How often in a training student and teacher are compared."""
SHOWN = 0.95
"""The loss that is shown forgets a twentieth of itself each step."""


@dataclass(frozen=True, slots=True)
class Taught:
    """`points` of [step, loss since the point before, metric]; `seconds` that all steps took, those
    before an interruption included.
    """

    points: list[list[float]]
    seconds: float


def train(
    learner: Learner,
    lecture: Lecture,
    processes: Processes,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Taught:
    """Train `learner` in place."""
    config = lecture.config
    taught = [place for place, held in enumerate(lecture.lessons.held_out) if not held]
    epochs, steps = _length(len(taught), config)
    optimizer, schedule = make_optimizer(_groups(learner, config), steps)
    course = _Course(processes.told(checkpoint.load() if processes.first else None), steps)
    course.restore(learner, optimizer, schedule)
    learner.train()
    module, tied = processes.prepare(learner, optimizer)
    if lecture.live is not None:
        lecture.live.to(processes.device).eval()
    batches = length_batches(
        [len(lecture.texts[row]) for row in taught],
        batch=config.batch,
        epochs=epochs,
        rng=random.Random(lecture.seed),
    )
    with progress.count(f"distil from {len(taught)} rows", steps) as advance:
        advance(course.step, "goes on")
        for batch in islice(batches, course.step, steps):
            rows = [taught[place] for place in batch]
            loss = _loss(module, lecture, rows, processes)
            tied.zero_grad(set_to_none=True)
            processes.backward(loss)
            tied.step()
            schedule.step()
            course.add(processes.total(loss.detach()))
            if course.compares and processes.first:
                course.compare(measure(learner, lecture, processes.device))
            if checkpoint.due and processes.first:
                checkpoint.save(course.state(learner, optimizer, schedule))
            advance(1, course.note)
    learner.eval()
    return Taught(processes.told(course.points), round(course.seconds, 2))


def _length(rows: int, config: DistilConfig) -> tuple[int, int]:
    """Epochs that are begun, and the step at which training ends."""
    if not config.steps:
        return config.epochs, steps_of(rows, batch=config.batch, epochs=config.epochs)
    epoch = steps_of(rows, batch=config.batch, epochs=1)
    return -(-config.steps // epoch), config.steps


class _Course:
    """How far a training has come: its step, the loss that is shown, the points of its history."""

    def __init__(self, saved: dict[str, Any] | None, steps: int) -> None:
        self._saved = saved
        self._steps = steps
        self._before: float = saved["seconds"] if saved else 0.0
        self._begun = time.monotonic()
        self.step: int = saved["step"] if saved else 0
        self.points: list[list[float]] = saved["points"] if saved else []
        self._losses: list[float] = saved["losses"] if saved else []
        self._metric = self.points[-1][2] if self.points else 0.0
        every = -(-steps // COMPARISONS)
        self._compared = {*range(every, steps - every + 1, every), steps}

    def restore(self, learner: Learner, optimizer: Any, schedule: Any) -> None:
        """What was saved, if anything was, back in its places; the steps begin now."""
        if self._saved:
            learner.load_state_dict(self._saved["learner"])
            optimizer.load_state_dict(self._saved["optimizer"])
            schedule.load_state_dict(self._saved["schedule"])
        self._saved = None
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """That the steps took so far."""
        return self._before + time.monotonic() - self._begun

    def state(self, learner: Learner, optimizer: Any, schedule: Any) -> dict[str, Any]:
        """All of it, to be saved."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "points": self.points,
            "losses": self._losses,
            "learner": learner.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        }

    def add(self, loss: float) -> None:
        self.step += 1
        self._losses.append(loss)

    @property
    def compares(self) -> bool:
        return self.step in self._compared

    def compare(self, found: dict[str, float]) -> None:
        """A point: the mean loss since the last one, and agreement, or else the cosine."""
        self._metric = found.get("agreement", found["cosine"])
        mean = sum(self._losses) / len(self._losses)
        self.points.append([self.step, round(mean, 5), round(self._metric, 5)])
        self._losses.clear()

    @property
    def note(self) -> str:
        recent = self._losses[-20:]
        loss = sum(recent) / len(recent) if recent else self.points[-1][1]
        return f"loss {loss:.4f}, like the teacher {self._metric:.4f}"


def _groups(learner: Learner, config: DistilConfig) -> list[dict[str, Any]]:
    """The encoder at `lr`, everything new or small at `head_lr`."""
    encoder = learner.observed.encoder
    if config.freeze_embeddings:
        for parameter in encoder.get_input_embeddings().parameters():
            parameter.requires_grad = False
    groups = [(encoder, config.lr), (learner.heads, config.head_lr),
              (learner.projections, config.head_lr)]  # fmt: skip
    return [
        {"params": found, "lr": lr}
        for module, lr in groups
        if (found := [one for one in module.parameters() if one.requires_grad])
    ]


def _loss(module: Any, lecture: Lecture, batch: Sequence[int], processes: Processes) -> Any:
    """This process's share of the batch's loss, a scalar."""
    rows, weight = processes.mine(batch)
    device, config = processes.device, lecture.config
    ids, mask = lecture.inputs(rows, device)
    with lecture.arithmetic(device):
        seen = module(ids, mask)
    own = lecture.teachers[0]
    wanted = own.pooled[rows].to(device)
    total = torch.zeros(len(rows), device=device)
    if config.embedding:
        total = total + config.embedding * losses.embedding(seen["pooled"], wanted)
    if config.similarity:
        every = processes.everyone(seen["pooled"], weight)
        everything = processes.everyone(wanted, weight)
        apart = losses.similarity(seen["pooled"], wanted, every, everything)
        total = total + config.similarity * apart
    if config.live:
        total = total + _live(seen, ids, mask, lecture, processes)
    total = total / len(batch)
    if own.head is not None:
        total = total + _classes(seen, rows, batch, lecture, device)
    return (total * weight).sum()


def _classes(
    seen: dict[str, torch.Tensor],
    rows: Sequence[int],
    batch: Sequence[int],
    lecture: Lecture,
    device: torch.device,
) -> torch.Tensor:
    """Soft labels of every task, and labels where rows have them, divided by their counts."""
    config = lecture.config
    total = torch.zeros(len(rows), device=device)
    if config.soft:
        for place, teacher in enumerate(lecture.teachers):
            told, wanted = seen[f"logits.{place}"], teacher.logits(rows).to(device)
            apart = losses.soft_labels(told, wanted, config.temperature)
            total = total + config.soft * teacher.weight * apart / len(batch)
    labelled = int((lecture.lessons.labels[list(batch)] != losses.NO_LABEL).sum())
    if config.label and labelled:
        targets = torch.from_numpy(lecture.lessons.labels[list(rows)]).to(device)
        apart = losses.labels(seen[f"logits.{OWN}"], targets)
        total = total + config.label * apart / labelled
    return total


def _live(
    seen: dict[str, torch.Tensor],
    ids: torch.Tensor,
    mask: torch.Tensor,
    lecture: Lecture,
    processes: Processes,
) -> torch.Tensor:
    """The losses that look inside the teacher; both see the same tokens."""
    teacher, config = lecture.live, lecture.config
    assert teacher is not None
    with torch.no_grad(), lecture.arithmetic(processes.device):
        wanted = teacher(ids, mask)
    total = torch.zeros(len(ids), device=ids.device)
    if config.hidden:
        told, said = states_of(seen), states_of(wanted)
        chosen = [said[place] for place in losses.layer_map(len(told) - 1, len(said) - 1)]
        total = total + config.hidden * losses.hidden_states(told, chosen, mask)
    if config.relation:
        told, said = [[one[role] for role in RELATED] for one in (seen, wanted)]
        heads = losses.relation_heads(
            told[0].shape[2], said[0].shape[2], teacher.encoder.config.num_attention_heads
        )
        total = total + config.relation * losses.relations(told, said, mask, heads)
    return total
