"""Texts as the token ids that the networks take, made by the very tokenizer that is shipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as int64 ids and mask, shape (1, tokens); without padding the mask is all ones."""

    input_ids: Ids
    attention_mask: Ids

    def __len__(self) -> int:
        return int(self.input_ids.shape[1])

    def tensors(self) -> dict[str, Ids]:
        """The tensors by the names of the networks' inputs."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


def load_tokenizer(path: Path, *, max_length: int) -> Tokenizer:
    """The tokenizer, truncating at `max_length` tokens and never padding.

    Raises:
        InputError: the file is missing or is not a tokenizer.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as reason:  # the Rust binding raises bare Exception
        raise InputError(f"tokenizer {path}: cannot be read ({reason})") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Encoded, ...]:
    """Each text for itself, in order."""
    found = tokenizer.encode_batch(list(texts))
    ids = [np.asarray([one.ids], dtype=np.int64) for one in found]
    return tuple(Encoded(one, np.ones_like(one)) for one in ids)


def collate(rows: Sequence[Encoded], pad_id: int) -> Encoded:
    """One batch, (rows, longest), padded on the right with `pad_id` and mask 0."""
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row.input_ids[0]
        mask[index, : len(row)] = row.attention_mask[0]
    return Encoded(ids, mask)
