"""Bounds of an update: safe by default, refused when they are not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import InputError
from edge_runtime.update.lifecycle import State
from edge_runtime.update.limits import lasts_s, over
from edge_runtime.update.policy import BROKER_QUEUE, Policy, backoff_s


def test_the_default_window_stays_far_below_the_queue_of_a_broker() -> None:
    assert Policy().window * 10 < BROKER_QUEUE


@pytest.mark.parametrize(
    "bad",
    [
        {"window": 0},
        {"window": 500},
        {"chunk_tries": 0},
        {"trial_s": -1.0},
        {"wait_s": float("nan")},
        {"disk_margin_bytes": 0},
        {"max_refusals": 65},
        {"trial_p95_ms": -1.0},
        {"trial_p95_ms": float("nan")},
        {"trial_error_ratio": 0.0},
        {"trial_error_ratio": 10.0},
        {"trial_slowdown": 0.5},
        {"trial_min_requests": 0},
    ],
)
def test_a_bound_that_makes_no_sense_is_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        Policy(**bad)


def test_a_bound_on_speed_may_be_left_out_but_no_other() -> None:
    assert Policy(trial_p95_ms=0.0).trial_p95_ms == 0
    with pytest.raises(InputError, match=r"trial_p95_ms is -1\.0, expected 0 or more"):
        Policy(trial_p95_ms=-1.0)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_stays_within_its_bounds(tries: int, jitter: float) -> None:
    assert 0.75 <= backoff_s(1.0, 60.0, tries, jitter) <= 75.0


def test_backoff_doubles() -> None:
    assert [backoff_s(1.0, 60.0, tries, 0.5) for tries in range(8)] == [
        1, 2, 4, 8, 16, 32, 60, 60,
    ]  # fmt: skip


def test_every_state_with_a_limit_says_what_the_end_of_it_means() -> None:
    for state in State:
        if lasts_s(state, Policy(), 0, 0.5) is None:
            with pytest.raises(RuntimeError, match="no time limit"):
                over(state, Policy())
        else:
            over(state, Policy())
