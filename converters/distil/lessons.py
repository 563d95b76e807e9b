"""The rows to learn from, and what the teachers say of them, computed once and kept.

Pooled outputs do not change while a student learns, so they are computed by the fast engine before
and cached, in blocks that double in size: a run on the first thousand rows and one on all of them
share what they can. Logits are those outputs through the teacher's head. A few rows, chosen by
their texts' digest, are never learned from: on them student and teacher are compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from converters.data import Rows, without
from converters.distil.losses import NO_LABEL
from converters.embed import embed_rows
from converters.model import Job, TextModel

FloatArray = npt.NDArray[np.float32]
FIRST_BLOCK = 1024
HELD_OUT_ROWS = 512
HELD_OUT_SHARE = 0.1
"""Held out are about `HELD_OUT_ROWS` rows, but no more than this share of all."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """Rows of one or several files, one after the other.

    `labels` int64 (rows,), `NO_LABEL` where a row has none; `held_out` bool (rows,).
    """

    parts: tuple[Rows, ...]
    texts: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def sha256(self) -> str:
        """Digest of the files' content, in their order."""
        joined = "\n".join(part.sha256 for part in self.parts)
        return hashlib.sha256(joined.encode()).hexdigest()


def gather(job: Job, others: Sequence[Rows], limit: int) -> Lessons:
    """Training rows, unlabelled rows and `others`: of each its share of `limit`; 0 means all.

    Texts that also stand in the test set are left out of `others`; the recipe's own were checked
    when they were read.
    """
    data = job.data
    own = [rows for rows in (data.train, data.unlabelled) if rows is not None]
    every = own + [without(rows, data.test) for rows in others]
    every = [rows for rows in every if len(rows)] or [data.calibration]
    total = sum(len(rows) for rows in every)
    if 0 < limit < total:
        every = [rows.first(max(1, limit * len(rows) // total)) for rows in every]
    labels = [
        data.indexes(rows)
        if rows.labels is not None and place < len(own)
        else np.full(len(rows), NO_LABEL, dtype=np.int64)
        for place, rows in enumerate(every)
    ]
    texts = tuple(text for rows in every for text in rows.texts)
    return Lessons(tuple(every), texts, np.concatenate(labels), _held_out(texts))


def _held_out(texts: Sequence[str]) -> npt.NDArray[np.bool_]:
    """By digest of the text, so equal texts are on one side; at least one row, never all."""
    ranks = np.array(
        [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts],
        dtype=np.uint64,
    )
    count = max(1, min(HELD_OUT_ROWS, int(HELD_OUT_SHARE * len(texts))))
    bound = np.partition(ranks, count - 1)[count - 1]
    held: npt.NDArray[np.bool_] = ranks <= bound
    if held.all():
        held[1:] = False
    return held


def pooled_outputs(model: TextModel, lessons: Lessons, job: Job, max_length: int) -> FloatArray:
    """The pooled output of `model` for every row, float32 (rows, hidden)."""
    data = replace(job.recipe.data, max_length=max_length)
    job = replace(job, recipe=replace(job.recipe, data=data))
    found = [embed_rows(model, block, job) for rows in lessons.parts for block in _blocks(rows)]
    return np.concatenate(found)


def _blocks(rows: Rows) -> list[Rows]:
    """Rows in blocks whose ends do not depend on how many rows there are, but for the last."""
    blocks, start, end = [], 0, FIRST_BLOCK
    while start < len(rows):
        texts = rows.texts[start:end]
        digest = hashlib.sha256("\0".join((str(len(texts)), *texts)).encode()).hexdigest()
        blocks.append(Rows(rows.path, texts, None, digest))
        start, end = end, 2 * end
    return blocks
