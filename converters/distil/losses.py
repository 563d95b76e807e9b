"""What it costs a student to answer otherwise than its teacher: pure functions, one value a row.

Every loss is float32 of shape (rows,), so that rows of a batch that several processes share can be
summed and divided by the whole batch's count. A teacher's tensors carry no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

NO_LABEL = -100


def soft_labels(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² · KL(teacher ‖ student) of the classes' probabilities at temperature T.

    Both are logits, (rows, classes). Source: Hinton, Vinyals and Dean 2015, "Distilling the
    Knowledge in a Neural Network"; T² keeps the gradient's size whatever the temperature.
    """
    told = functional.log_softmax(student / temperature, dim=1)
    wanted = functional.log_softmax(teacher / temperature, dim=1)
    divergence = functional.kl_div(told, wanted, reduction="none", log_target=True).sum(dim=1)
    return divergence * temperature**2


def labels(student: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy of logits (rows, classes) with targets (rows,); 0 where `NO_LABEL`."""
    return functional.cross_entropy(student, targets, reduction="none", ignore_index=NO_LABEL)


def embedding(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """1 − cosine of the pooled outputs, both (rows, hidden)."""
    return 1 - functional.cosine_similarity(student, teacher, dim=1)


def similarity(
    student: torch.Tensor,
    teacher: torch.Tensor,
    all_student: torch.Tensor,
    all_teacher: torch.Tensor,
) -> torch.Tensor:
    """How far the cosines between texts are from the teacher's: mean square over the batch.

    The first two are (rows, hidden) of the rows at hand, the others of the whole batch; student and
    teacher may differ in hidden. Source: Tung and Mori 2019, "Similarity-Preserving Knowledge
    Distillation", with cosines, which is what retrieval ranks by.
    """
    told = functional.normalize(student, dim=1) @ functional.normalize(all_student, dim=1).T
    wanted = functional.normalize(teacher, dim=1) @ functional.normalize(all_teacher, dim=1).T
    return (told - wanted).square().mean(dim=1)


def hidden_states(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], mask: torch.Tensor
) -> torch.Tensor:
    """Mean square difference of hidden states, over layers, tokens that are no padding, and width.

    Each is (rows, tokens, hidden), the two lists layer by layer; mask (rows, tokens). Source: Jiao
    et al. 2020, "TinyBERT"; Sun et al. 2019, "Patient Knowledge Distillation".
    """
    keep = mask.float()
    total = torch.zeros(len(mask), device=mask.device)
    for told, wanted in zip(student, teacher, strict=True):
        per_token = (told.float() - wanted.float()).square().mean(dim=2)
        total = total + (per_token * keep).sum(dim=1) / keep.sum(dim=1)
    return total / len(student)


def layer_map(student: int, teacher: int) -> list[int]:
    """For hidden state 0..`student` of a student with that many layers, the teacher's to match.

    State 0 is the embedding's. Uniform, so the last matches the last (TinyBERT).
    """
    return [round(index * teacher / student) for index in range(student + 1)]


def relations(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    mask: torch.Tensor,
    heads: int,
) -> torch.Tensor:
    """KL of the relations between tokens in queries, in keys and in values of one layer.

    Each list holds query, key and value, (rows, tokens, width) before they are split into heads;
    they are split anew into `heads`, so student and teacher may differ in heads and width.
    mask (rows, tokens). Source: Wang et al. 2021, "MiniLMv2".
    """
    keep = mask.float()
    total = torch.zeros(len(mask), device=mask.device)
    for told, wanted in zip(student, teacher, strict=True):
        divergence = functional.kl_div(
            _relation(told, mask, heads), _relation(wanted, mask, heads),
            reduction="none", log_target=True,
        ).sum(dim=3).mean(dim=1)  # fmt: skip
        total = total + (divergence * keep).sum(dim=1) / keep.sum(dim=1)
    return total


def _relation(vectors: torch.Tensor, mask: torch.Tensor, heads: int) -> torch.Tensor:
    """Log softmax of scaled dot products, (rows, heads, tokens, tokens); padding is far away."""
    rows, tokens, width = vectors.shape
    split = vectors.float().view(rows, tokens, heads, width // heads).transpose(1, 2)
    scores = split @ split.transpose(2, 3) / math.sqrt(width // heads)
    away = (mask[:, None, None, :] == 0) * -1e4
    return functional.log_softmax(scores + away, dim=3)


def relation_heads(student_width: int, teacher_width: int, teacher_heads: int) -> int:
    """Into how many heads both widths can be split: the most up to the teacher's own."""
    common = math.gcd(student_width, teacher_width)
    return max(count for count in range(1, teacher_heads + 1) if common % count == 0)
