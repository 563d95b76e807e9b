"""Requests take turns at the engine: fair, bounded, and timed run by run."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from edge_runtime.agent import worker
from edge_runtime.agent.serving import MAX_REQUEST_ROWS, Busy, Serving
from edge_runtime.agent.worker import Control, Heart
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.inference.backend import BACKENDS, Tensor
from edge_runtime.inference.batching import MAX_ROWS
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.telemetry import Metrics
from tests.fakes.engine import BACKEND, FakeBackend, FakeSession, fake_bundle, fake_variant

HANG_S = 0.6
RUN_S = 0.05


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serving:
    monkeypatch.setitem(BACKENDS, "fake", BACKEND)
    monkeypatch.setattr(FakeBackend, "sessions", [])
    bundle = fake_bundle(tmp_path, [fake_variant()])
    return Serving(Pipeline.open(bundle, bundle.manifest.variants[0]), 8, Metrics())


def engine() -> FakeSession:
    return FakeBackend.sessions[-1]


def before_each_run(act: Callable[[tuple[int, ...]], object]) -> None:
    """`act` is called with the shape of what the engine is about to run."""
    session = engine()
    run = session.run

    def acting(feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        act(feeds["input_ids"].shape)
        return run(feeds)

    session.run = acting  # type: ignore[method-assign]


def rows(count: int, length: int = 128) -> dict[str, Tensor]:
    ids = np.full((count, length), 9, dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def apart(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


class Beats:
    """Where a heart sends to."""

    def __init__(self) -> None:
        self.at_s: list[float] = []
        self.over = False

    def send(self, _frame: object) -> None:
        if not self.over:
            self.at_s.append(time.monotonic())

    @property
    def silence_s(self) -> float:
        """The longest time between two, the present one among them."""
        moments = [*self.at_s, time.monotonic()]
        return max(b - a for a, b in itertools.pairwise(moments))


@pytest.fixture
def beats(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beats]:
    """A worker's heart, beating for `serving`; its supervisor bears HANG_S / 2 of silence."""
    monkeypatch.setattr(worker, "HEARTBEAT_S", 0.02)
    beats = Beats()
    heart = Heart(cast(Control, beats), serving.metrics, HANG_S)
    heart.serving = serving
    heart.start()
    yield beats
    beats.over = True  # A heart beats as long as its process lives.


def test_a_worker_with_one_long_request_after_the_other_is_not_taken_for_hanging(
    serving: Serving, beats: Beats
) -> None:
    before_each_run(lambda _shape: time.sleep(RUN_S))
    began_s = time.monotonic()
    for _ in range(2):
        serving.tensors(rows(MAX_REQUEST_ROWS))
        serving.answers(["mail server"] * MAX_REQUEST_ROWS)
    assert time.monotonic() - began_s > 2 * HANG_S
    assert beats.silence_s < HANG_S / 2
    assert serving.metrics.snapshot().errors == 0


def test_an_engine_that_really_hangs_is_noticed_in_time(serving: Serving, beats: Beats) -> None:
    go = threading.Event()
    hanging = [False, True, False, False]

    def hang(_shape: tuple[int, ...]) -> None:
        if hanging.pop(0):
            go.wait(20)

    before_each_run(hang)
    thread = apart(lambda: serving.tensors(rows(2 * 8)))  # The second of two runs hangs.
    began_s = time.monotonic()
    time.sleep(1.5 * HANG_S)
    assert serving.stuck_s(time.monotonic()) == pytest.approx(time.monotonic() - began_s, abs=0.2)
    assert beats.silence_s > HANG_S / 2
    others = apart(lambda: serving.answers(["mail"]))
    go.set()
    thread.join(5)
    others.join(5)
    assert serving.stuck_s(time.monotonic()) == 0.0
    count = len(beats.at_s)
    time.sleep(0.3)
    assert len(beats.at_s) > count + 3


def test_a_short_request_waits_for_a_run_not_for_a_long_request(serving: Serving) -> None:
    began = threading.Event()
    seen: list[tuple[int, ...]] = []

    def slowly(shape: tuple[int, ...]) -> None:
        seen.append(shape)
        began.set()
        time.sleep(RUN_S)

    before_each_run(slowly)
    long = [apart(lambda: serving.tensors(rows(MAX_REQUEST_ROWS))) for _ in range(2)]
    assert began.wait(5)
    time.sleep(RUN_S / 2)
    ahead = len(seen)
    assert serving.answers(["mail"])
    assert len(seen) - ahead <= 3
    for thread in long:
        thread.join(10)
    assert len(seen) == 2 * (MAX_REQUEST_ROWS // 8) + 1


def test_turns_are_given_in_the_order_in_which_they_were_asked_for(serving: Serving) -> None:
    go = threading.Event()
    seen: list[int] = []

    def note(shape: tuple[int, ...]) -> None:
        go.wait(5)
        seen.append(shape[1])

    before_each_run(note)
    threads = []
    for length in range(1, 8):
        threads.append(apart(lambda length=length: serving.tensors(rows(1, length))))  # type: ignore[misc]
        time.sleep(0.02)
    go.set()
    for thread in threads:
        thread.join(5)
    assert seen == list(range(1, 8))


@pytest.mark.parametrize(
    ("count", "length", "most"),
    [(64, 128, 8), (64, 16, MAX_ROWS), (20, 1, MAX_ROWS), (9, 127, 8)],
)
def test_no_run_is_larger_than_memory_allows(
    serving: Serving, count: int, length: int, most: int
) -> None:
    given = rows(count, length)
    given["input_ids"] += np.arange(count)[:, None]
    answer = serving.tensors(given)["logits"]
    assert [shape[0] for shape in engine().shapes[:-1]] == [most] * (len(engine().shapes) - 1)
    assert sum(shape[0] for shape in engine().shapes) == count
    for index in range(count):
        alone = serving.tensors({name: value[[index]] for name, value in given.items()})
        np.testing.assert_allclose(answer[[index]], alone["logits"], rtol=1e-5)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda s: s.tensors(rows(65, 2)), "65 rows, at most 64 are answered at once"),
        (lambda s: s.tensors(rows(8000, 128)), "8000 rows, at most 64 are answered at once"),
        (lambda s: s.answers(["mail"] * 65), "65 rows, at most 64 are answered at once"),
        (lambda s: s.tensors(rows(1, 129)), "a sequence of 129, at most 128 are taken"),
        (lambda s: s.tensors(rows(1, 250_000)), "a sequence of 250000, at most 128 are taken"),
        (lambda s: s.tensors({}), "input input_ids is missing"),
    ],
)
def test_a_request_for_too_much_is_refused_before_the_engine_is_asked(
    serving: Serving, ask: Callable[[Serving], Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        ask(serving)
    assert engine().shapes == []
    snapshot = serving.metrics.snapshot()
    assert (snapshot.requests, snapshot.errors, snapshot.failed) == (1, 0, 0)
    assert snapshot.work.count == 0


def test_one_more_than_may_wait_is_told_so_at_once(serving: Serving) -> None:
    go = threading.Event()
    before_each_run(lambda _shape: go.wait(10))
    threads = [apart(lambda: serving.answers(["mail"])) for _ in range(9)]
    time.sleep(0.3)
    with pytest.raises(Busy, match="8 requests are waiting"):
        serving.answers(["mail"])
    go.set()
    for thread in threads:
        thread.join(5)
    snapshot = serving.metrics.snapshot()
    assert (snapshot.requests, snapshot.errors, snapshot.failed) == (10, 1, 0)
    assert snapshot.work.count == 9
    assert serving.answers(["mail"])


@pytest.mark.parametrize(
    ("fault", "says"), [("fails", "the fake engine failed"), ("nan", "not finite")]
)
@pytest.mark.parametrize(
    "ask", [lambda s: s.answers(["mail"]), lambda s: s.tensors(rows(1))], ids=["texts", "tensors"]
)
def test_what_the_bundle_does_not_answer_is_counted_as_its_failure(
    serving: Serving, ask: Callable[[Serving], Any], fault: str, says: str
) -> None:
    engine().fault = fault
    with pytest.raises(DeviceError, match=says):
        ask(serving)
    snapshot = serving.metrics.snapshot()
    assert (snapshot.requests, snapshot.errors, snapshot.failed) == (1, 1, 1)
    assert snapshot.work.count == 0


def test_an_engine_that_refuses_what_the_bundles_own_tokenizer_made_has_failed(
    serving: Serving,
) -> None:
    def refuse(_shape: tuple[int, ...]) -> None:
        raise InputError("indices element out of data bounds, idx=5000")

    before_each_run(refuse)
    with pytest.raises(DeviceError, match="idx=5000"):
        serving.answers(["mail"])
    assert serving.metrics.snapshot().failed == 1
    with pytest.raises(InputError, match="idx=5000"):  # Whoever sends tensors chose the numbers.
        serving.tensors(rows(1))
    assert serving.metrics.snapshot().failed == 1


def test_the_time_that_a_request_waits_for_others_is_not_its_work(serving: Serving) -> None:
    before_each_run(lambda _shape: time.sleep(RUN_S))
    threads = [apart(lambda: serving.answers(["mail"])) for _ in range(6)]
    for thread in threads:
        thread.join(10)
    snapshot = serving.metrics.snapshot()
    longest, work = snapshot.latency.max_ms, snapshot.work.percentile(50)
    assert longest is not None
    assert work is not None
    assert longest > 5 * 1000 * RUN_S
    assert work < longest / 2


def test_an_engine_that_fails_leaves_its_turn(serving: Serving) -> None:
    engine().fault = "fails"
    with pytest.raises(DeviceError):
        serving.answers(["mail"])
    engine().fault = ""
    assert serving.answers(["mail"])
    assert serving.stuck_s(time.monotonic()) == 0.0
