"""Texts and their token ids, as they go from the measuring process to the processes of the tools.

Both sides read it, so it imports numpy and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ids: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts in order, and for each its token ids, int64, shape (tokens,), without padding."""

    texts: tuple[str, ...]
    ids: tuple[Ids, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def digest(self) -> str:
        """SHA-256 over texts and ids."""
        found = hashlib.sha256(json.dumps(self.texts).encode())
        for row in self.ids:
            found.update(len(row).to_bytes(8, "little") + row.tobytes())
        return found.hexdigest()

    def save(self, path: Path) -> None:
        """Write both to an .npz file."""
        texts = np.frombuffer(json.dumps(self.texts).encode(), dtype=np.uint8)
        lengths = np.array([len(row) for row in self.ids], dtype=np.int64)
        np.savez(path, texts=texts, lengths=lengths, ids=np.concatenate(self.ids))


def load_rows(path: Path) -> Rows:
    """What `Rows.save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        texts = json.loads(file["texts"].tobytes())
        ends = np.cumsum(file["lengths"])
        return Rows(tuple(texts), tuple(np.split(file["ids"], ends[:-1])))


def padded(ids: Ids, length: int, pad_id: int = 0) -> tuple[Ids, Ids]:
    """Ids and mask, int64, shape (1, length): padded on the right, mask 0 there."""
    row = np.full((1, length), pad_id, dtype=np.int64)
    mask = np.zeros_like(row)
    row[0, : len(ids)] = ids
    mask[0, : len(ids)] = 1
    return row, mask


def smallest(lengths: Sequence[int], tokens: int) -> int:
    """The smallest of `lengths` that `tokens` tokens fit into; ValueError where none does."""
    return min(length for length in lengths if length >= tokens)
