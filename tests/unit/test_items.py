from __future__ import annotations

import numpy as np

from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.inference.tasks.items import Item, collate

IDS = TensorSpec("input_ids", "int64", ("batch", "sequence"))
MASK = TensorSpec("attention_mask", "int64", ("batch", "sequence"))
PIXELS = TensorSpec("pixels", "float32", ("batch", 2, 3))


def text(*ids: int) -> Item:
    made = np.array(ids, dtype=np.int64)
    return Item({"input_ids": made, "attention_mask": np.ones_like(made)}, length=len(ids))


def test_rows_are_padded_at_their_end_each_input_with_its_own() -> None:
    feeds = collate((IDS, MASK), [text(2, 5, 3), text(2, 3)], 4, {"input_ids": 7})
    assert feeds["input_ids"].tolist() == [[2, 5, 3, 7], [2, 3, 7, 7]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert {value.dtype for value in feeds.values()} == {np.dtype(np.int64)}


def test_a_row_that_fits_exactly_is_not_copied() -> None:
    one = text(2, 5, 3)
    feeds = collate((IDS, MASK), [one], 3, {})
    assert feeds["input_ids"].tolist() == [[2, 5, 3]]
    assert np.shares_memory(feeds["input_ids"], one.tensors["input_ids"])


def test_inputs_without_a_sequence_are_stacked() -> None:
    rows = [Item({"pixels": np.full((2, 3), at, np.float32)}) for at in range(3)]
    assert collate((PIXELS,), rows, 1, {})["pixels"][:, 0, 0].tolist() == [0, 1, 2]
