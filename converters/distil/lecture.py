"""All that a training is made of, ready: rows as tokens, teachers, and how it is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from converters.distil.config import DistilConfig
from converters.distil.lessons import Lessons
from converters.distil.student import Observed
from converters.distil.teachers import Teacher
from converters.encoding import Encoded, collate

OWN = "0"
"""The recipe's own task, first of the teachers and of the heads."""


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

    def inputs(
        self, rows: Sequence[int], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of `rows`, (rows, tokens), padded to the longest."""
        batch = collate([self.texts[row] for row in rows], self.pad_id)
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        return ids.to(device), mask.to(device)

    @contextlib.contextmanager
    def arithmetic(self, device: torch.device) -> Iterator[None]:
        """Computes in the lecture's precision."""
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield
