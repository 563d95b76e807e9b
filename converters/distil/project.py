"""Learned maps from a narrow student's states to its teacher's width, for the losses alone.

They start from least squares over the first rows, are trained with the student, and are thrown
away: what is shipped is narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from converters.distil.losses import layer_map
from converters.distil.narrow import fitted_map
from converters.distil.student import Observed, states_of
from converters.encoding import Encoded, collate

POOLED_ROWS = 512
STATE_ROWS = 64
BATCH = 64


def projections(
    student: Observed,
    teacher: Observed | None,
    texts: Sequence[Encoded],
    pooled: torch.Tensor,
    pad_id: int,
) -> list[torch.nn.Linear]:
    """One map for each hidden state, where a live teacher shows its own; the pooled output's last.

    `pooled` is the teacher's, (rows, hidden), `texts` the student's tokens of the same rows.
    """
    found = []
    with torch.no_grad():
        if teacher is not None:
            ids, mask = _batch(texts[:STATE_ROWS], pad_id)
            told, said = states_of(student(ids, mask)), states_of(teacher(ids, mask))
            chosen = layer_map(len(told) - 1, len(said) - 1) if told else []
            found = [
                fitted_map(state[mask.bool()], said[place][mask.bool()])
                for state, place in zip(told, chosen, strict=True)
            ]
        rows = sorted(range(min(POOLED_ROWS, len(texts))), key=lambda row: len(texts[row]))
        parts = [
            student(*_batch([texts[row] for row in rows[start : start + BATCH]], pad_id))["pooled"]
            for start in range(0, len(rows), BATCH)
        ]
        found.append(fitted_map(torch.cat(parts), pooled[rows]))
    return found


def _batch(texts: Sequence[Encoded], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    batch = collate(texts, pad_id)
    return torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
