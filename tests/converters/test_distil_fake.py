"""What training rounds is what a device's kernels round, and the gradient does not see it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from converters.distil.fake import FakeEmbedding, FakeLinear, rounded_rows, rounded_weight

FINITE = st.floats(-100, 100, width=32)
MATRICES = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2), elements=FINITE)


@given(weight=MATRICES, bits=st.sampled_from([4, 8]))
def test_a_weight_is_rounded_to_the_nearest_step_of_its_row(weight: np.ndarray, bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    found = rounded_weight(torch.from_numpy(weight), bits).numpy()
    step = np.abs(weight).max(axis=1, keepdims=True) / top
    assert (np.abs(found - weight) <= step / 2 + 1e-4).all()
    for row, one in zip(found, step[:, 0], strict=True):
        assert len(np.unique(np.round(row / max(one, 1e-9)))) <= 2 * top + 1


@given(values=MATRICES)
def test_activations_keep_zero_and_lose_half_a_step_at_most(values: np.ndarray) -> None:
    found = rounded_rows(torch.from_numpy(values)).numpy()
    low, high = np.minimum(values.min(1), 0), np.maximum(values.max(1), 0)
    step = ((high - low) / 255)[:, None]
    assert (np.abs(found - values) <= step + 1e-4).all(), "half, and half of the zero point"
    assert np.abs(found[values == 0]).max(initial=0) <= 1e-6


def test_the_gradient_passes_straight_through() -> None:
    plain = torch.nn.Linear(6, 4)
    fake = FakeLinear(plain, 4)
    values = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    fake(values).square().sum().backward()
    assert values.grad is not None
    assert fake.weight.grad is not None
    assert fake.weight is plain.weight
    told = fake(values.detach())
    expected = 2 * told @ rounded_weight(plain.weight.detach(), 4)
    torch.testing.assert_close(values.grad, expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_looked_up_rows_are_rounded_as_the_table_would_be(bits: int) -> None:
    table = torch.nn.Embedding(7, 6)
    fake = FakeEmbedding(table, bits)
    ids = torch.tensor([[0, 3, 3], [6, 1, 0]])
    torch.testing.assert_close(fake(ids), rounded_weight(table.weight, bits)[ids])


def test_fewer_bits_lose_more() -> None:
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(2))
    errors = [float((rounded_weight(weight, bits) - weight).square().mean()) for bits in (4, 8)]
    assert errors[0] > 50 * errors[1] > 0
