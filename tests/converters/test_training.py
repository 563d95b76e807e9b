"""Batches hold every row once an epoch, rows of like length together, in an order of the seed."""

from __future__ import annotations

import random

import pytest
import torch

from converters.training import (
    ALIKE_TOKENS,
    WARM_UP_STEPS,
    length_batches,
    make_optimizer,
    steps_of,
    training_precision,
)

LENGTHS = [random.Random(3).randrange(4, 120) for _ in range(101)]


def batches(seed: int = 1, epochs: int = 2) -> list[list[int]]:
    return list(length_batches(LENGTHS, batch=8, epochs=epochs, rng=random.Random(seed)))


def test_each_epoch_has_every_row_once() -> None:
    found = batches()
    assert len(found) == steps_of(len(LENGTHS), batch=8, epochs=2) == 26
    for epoch in (found[:13], found[13:]):
        assert sorted(row for batch in epoch for row in batch) == [*range(101)]


def test_rows_of_a_batch_are_of_like_length() -> None:
    spans = [
        max(LENGTHS[row] for row in batch) - min(LENGTHS[row] for row in batch)
        for batch in batches()
    ]
    assert sum(spans) / len(spans) < 2 * ALIKE_TOKENS, "at random it would be about 90"


def test_epochs_differ_and_seeds_do_and_the_same_seed_does_not() -> None:
    found = batches()
    assert found[:13] != found[13:]
    assert found != batches(seed=2)
    assert found == batches()


def test_the_rate_warms_up_and_ends_near_nothing() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer, schedule = make_optimizer([{"params": [weight], "lr": 1.0}], 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([(step + 1) / WARM_UP_STEPS for step in range(3)])
    assert max(rates) == pytest.approx(0.91, abs=0.01)
    assert rates[-1] == pytest.approx(0.01)


def test_a_precision_that_is_named_is_taken() -> None:
    assert training_precision("bfloat16") == "bfloat16"
    assert training_precision("float32") == "float32"
    assert training_precision("auto") in ("bfloat16", "float32")
