from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.inference.batching import (
    MAX_ROWS,
    MAX_TOKENS,
    MAX_WASTE,
    fit,
    most_rows,
    pad,
    plan,
)

SIZES = st.lists(st.integers(1, 600), min_size=1, max_size=60)
BUCKETS = st.sampled_from([(), (600,), (16, 64, 128, 600)])


@given(SIZES, BUCKETS, st.sampled_from([None, 1, 2, 5]))
def test_every_row_is_in_one_run_that_it_fits(
    sizes: list[int], lengths: tuple[int, ...], most: int | None
) -> None:
    runs = plan(sizes, lengths, most)
    assert sorted(index for rows, _ in runs for index in rows) == list(range(len(sizes)))
    for rows, length in runs:
        assert len(rows) <= min(most or MAX_ROWS, MAX_ROWS)
        assert len(rows) * length <= MAX_TOKENS or len(rows) == 1
        assert max(sizes[index] for index in rows) <= length
        assert not lengths or length in lengths


@given(SIZES)
def test_little_padding_is_computed_where_every_length_runs(sizes: list[int]) -> None:
    for rows, length in plan(sizes, (), None):
        assert length == max(sizes[index] for index in rows)
        assert length <= MAX_WASTE * min(sizes[index] for index in rows)


def test_rows_of_a_run_are_bounded_by_their_tokens_and_never_none() -> None:
    assert [most_rows(length, None) for length in (0, 1, 64, 128, 512, 8192)] == [
        MAX_ROWS, MAX_ROWS, 16, 8, 2, 1,
    ]  # fmt: skip
    assert [most_rows(16, batch) for batch in (1, 5, 999)] == [1, 5, MAX_ROWS]


def test_like_lengths_share_a_run() -> None:
    assert plan([20, 100, 21, 99], (), None) == [([0, 2], 21), ([3, 1], 100)]


def test_fit_picks_the_smallest_length_that_holds_the_row() -> None:
    assert [fit(n, (16, 64, 128)) for n in (1, 16, 17, 64, 128)] == [16, 16, 64, 64, 128]
    assert fit(129, (16, 64, 128)) is None
    assert fit(129, ()) == 129


def test_a_row_over_every_length_is_our_own_mistake() -> None:
    with pytest.raises(RuntimeError, match="row 1 has 17 tokens"):
        plan([3, 17], (16,), None)


def test_pad_grows_one_axis_at_its_end() -> None:
    value = np.array([[1, 2]])
    assert pad(value, 1, 4, 9).tolist() == [[1, 2, 9, 9]]
    assert pad(value, 1, 2, 9) is value
