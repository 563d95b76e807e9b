"""A fleet that lost its broker comes back spread out, and never hammers."""

from __future__ import annotations

import random
import statistics

from edge_runtime.link.backoff import Backoff


def delays(count: int, seed: int, **options: float) -> list[float]:
    backoff = Backoff(rng=random.Random(seed), **options)
    return [backoff.next_s() for _ in range(count)]


def test_ceiling_doubles_up_to_the_cap() -> None:
    seen = [delays(10, seed, base_s=1, cap_s=30) for seed in range(500)]
    for attempt, ceiling in enumerate([1, 2, 4, 8, 16, 30, 30, 30, 30, 30]):
        column = [row[attempt] for row in seen]
        assert min(column) >= 0
        assert 0.97 * ceiling < max(column) <= ceiling


def test_delays_of_a_fleet_fill_the_whole_range_evenly() -> None:
    tenth = [delays(10, seed, base_s=1, cap_s=60)[9] for seed in range(2000)]
    in_each_quarter = [sum(15 * q <= d < 15 * (q + 1) for d in tenth) for q in range(4)]
    assert all(400 < n < 600 for n in in_each_quarter)
    assert 28 < statistics.mean(tenth) < 32


def test_devices_started_from_one_image_do_not_share_their_delays() -> None:
    assert Backoff().next_s() != Backoff().next_s()


def test_connection_that_lasted_starts_the_delays_afresh() -> None:
    backoff = Backoff(base_s=1, cap_s=64, stable_s=10, rng=random.Random(1))
    for _ in range(7):
        backoff.next_s()
    backoff.lasted(9.9)
    assert max(backoff.next_s() for _ in range(50)) > 32
    backoff.lasted(10.0)
    assert backoff.next_s() <= 1
