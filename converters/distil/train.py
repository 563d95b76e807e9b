"""The loop: batches of like length, the weighted losses, and how far the student has come.

Nothing is drawn at random but the order of batches, and that from the recipe's seed, so a run that
goes on from a checkpoint sees what the uninterrupted one would have seen. All processes take the
same steps; the first of them writes checkpoints and compares with the teacher.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from converters.distil import losses
from converters.distil.checkpoint import Checkpoint
from converters.distil.config import DistilConfig
from converters.distil.lessons import Lessons
from converters.distil.processes import Processes
from converters.distil.student import RELATED, Learner, Observed, states_of
from converters.distil.teachers import Teacher
from converters.encoding import Encoded, collate
from converters.metrics import METRICS
from converters.progress import Progress
from converters.training import length_batches, make_optimizer, steps_of

OWN = "0"
"""The recipe's own task, first of the teachers and of the heads."""
COMPARISONS = 8
"""How often in a training student and teacher are compared."""
COMPARED_ROWS = 64
SHOWN = 0.95
"""The loss that is shown forgets a twentieth of itself each step."""


@dataclass(frozen=True, slots=True)
class Lecture:
    """All that a training is made of, ready. `texts` are the student's tokens for each row."""

    lessons: Lessons
    texts: Sequence[Encoded]
    teachers: Sequence[Teacher]
    live: Observed | None
    config: DistilConfig
    precision: str
    seed: int
    pad_id: int


def train(
    learner: Learner,
    lecture: Lecture,
    processes: Processes,
    checkpoint: Checkpoint,
    progress: Progress,
) -> list[list[float]]:
    """Train `learner` in place; returns points of [step, loss since the point before, metric]."""
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
    points: list[list[float]] = processes.told(course.points)
    return points


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
        self.step: int = saved["step"] if saved else 0
        self.points: list[list[float]] = saved["points"] if saved else []
        self._losses: list[float] = saved["losses"] if saved else []
        self._metric = self.points[-1][2] if self.points else 0.0
        every = -(-steps // COMPARISONS)
        self._compared = {*range(every, steps - every + 1, every), steps}

    def restore(self, learner: Learner, optimizer: Any, schedule: Any) -> None:
        """What was saved, if anything was, back in its places."""
        if self._saved:
            learner.load_state_dict(self._saved["learner"])
            optimizer.load_state_dict(self._saved["optimizer"])
            schedule.load_state_dict(self._saved["schedule"])
        self._saved = None

    def state(self, learner: Learner, optimizer: Any, schedule: Any) -> dict[str, Any]:
        """All of it, to be saved."""
        return {
            "step": self.step,
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


def _inputs(
    texts: Sequence[Encoded], rows: Sequence[int], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    batch = collate([texts[row] for row in rows], pad)
    ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
    return ids.to(device), mask.to(device)


@contextlib.contextmanager
def _arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def _loss(module: Any, lecture: Lecture, batch: Sequence[int], processes: Processes) -> Any:
    """This process's share of the batch's loss, a scalar."""
    rows, weight = processes.mine(batch)
    device, config = processes.device, lecture.config
    ids, mask = _inputs(lecture.texts, rows, lecture.pad_id, device)
    with _arithmetic(device, lecture.precision):
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
    with torch.no_grad(), _arithmetic(processes.device, lecture.precision):
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


def measure(learner: Learner, lecture: Lecture, device: torch.device) -> dict[str, float]:
    """Student against teacher on the rows held out; see `compared`."""
    held = [place for place, one in enumerate(lecture.lessons.held_out) if one]
    held.sort(key=lambda row: len(lecture.texts[row]))
    teacher, outputs = lecture.teachers[0], []
    learner.eval()
    for start in range(0, len(held), COMPARED_ROWS):
        rows = held[start : start + COMPARED_ROWS]
        inputs = _inputs(lecture.texts, rows, lecture.pad_id, device)
        with torch.no_grad(), _arithmetic(device, lecture.precision):
            seen = learner(*inputs)
        outputs.append(seen["pooled" if teacher.head is None else f"logits.{OWN}"].float().cpu())
    learner.train()
    wanted = teacher.pooled[held] if teacher.head is None else teacher.logits(held)
    return compared(torch.cat(outputs), wanted, classes=teacher.head is not None)


def compared(told: torch.Tensor, wanted: torch.Tensor, *, classes: bool) -> dict[str, float]:
    """How close outputs are to the teacher's, both (rows, width), every figure but the last 0..1.

    `cosine` is the mean of the rows'. Of logits, `agreement` is the share of equal answers and
    `regret` the probability, by the teacher, of its own answers minus that of the student's: the
    accuracy that the student is expected to lose, with less noise than counting gives. Of
    embeddings, `recall@10` is that of the nearest neighbours among these rows.
    """
    found = {"cosine": float(torch.nn.functional.cosine_similarity(told, wanted, dim=1).mean())}
    if not classes:
        neighbours = METRICS["recall@10"]
        return found | {neighbours.name: neighbours.value(told.numpy(), wanted.numpy(), None)}
    sure = wanted.softmax(dim=1)
    answers = told.argmax(dim=1, keepdim=True)
    regret = sure.max(dim=1).values - sure.gather(1, answers).squeeze(1)
    equal = (answers.squeeze(1) == wanted.argmax(dim=1)).float()
    return found | {"agreement": float(equal.mean()), "regret": float(regret.mean())}


def seconds_since(started: float) -> float:
    """Rounded, for a report."""
    return round(time.monotonic() - started, 2)
