"""How close a student has come to its teacher, on the rows that are held out of its training."""

from __future__ import annotations

import torch

from converters.distil.lecture import OWN, Lecture
from converters.distil.student import Learner
from converters.metrics import METRICS

COMPARED_ROWS = 64
"""Rows that are compared at a time."""


def measure(learner: Learner, lecture: Lecture, device: torch.device) -> dict[str, float]:
    """Student against teacher on the rows held out; see `compared`."""
    held = [place for place, one in enumerate(lecture.lessons.held_out) if one]
    held.sort(key=lambda row: len(lecture.texts[row]))
    teacher, outputs = lecture.teachers[0], []
    learner.eval()
    for start in range(0, len(held), COMPARED_ROWS):
        rows = held[start : start + COMPARED_ROWS]
        inputs = lecture.inputs(rows, device)
        with torch.no_grad(), lecture.arithmetic(device):
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
        return found | {neighbours.name: neighbours.of(told.numpy(), wanted.numpy(), None).value}
    sure = wanted.softmax(dim=1)
    answers = told.argmax(dim=1, keepdim=True)
    regret = sure.max(dim=1).values - sure.gather(1, answers).squeeze(1)
    equal = (answers.squeeze(1) == wanted.argmax(dim=1)).float()
    return found | {"agreement": float(equal.mean()), "regret": float(regret.mean())}
