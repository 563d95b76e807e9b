"""Workers as their supervisor handles them, each a scripted end of a socket pair."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from edge_runtime.agent.channel import Channel
from edge_runtime.agent.config import ApiConfig, WorkerConfig
from edge_runtime.agent.listener import Listener
from edge_runtime.agent.order import Order
from edge_runtime.agent.process import Phase, WorkerProcess
from edge_runtime.agent.workers import Workers
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fields import Json
from edge_runtime.messages.worker import (
    Answer,
    Ask,
    Drain,
    Frame,
    FrameReader,
    Heartbeat,
    Ready,
    Refused,
    Serve,
    Tried,
    to_frame,
)
from edge_runtime.telemetry import Metrics, Snapshot
from tests.fakes.reports import ready, report

ORDER = Order(
    control=-1,
    listener=-1,
    state_dir="/nowhere",
    manifest_sha256="",
    profile="generic-x86_64",
    version="1",
    log_level="info",
    api=ApiConfig(),
    worker=WorkerConfig(start_timeout_s=300.0, hang_s=16.0),
)


def heartbeat() -> Heartbeat:
    s = Metrics().snapshot()
    return Heartbeat(
        s.requests, s.errors, s.latency.as_json(), s.queue_wait.as_json(), 0, s.work.as_json()
    )


class Scripted(WorkerProcess):
    """A worker that says what a test lets it say."""

    def __init__(self, order: Order, now_s: float) -> None:
        self.manifest_sha256 = order.manifest_sha256
        self.variants = order.variants
        self.phase = Phase.LOADING
        self.heard_s = now_s
        self.deadline_s: float | None = now_s + order.worker.start_timeout_s
        self.asks: set[str] = set()
        self.accelerator = None
        self.loading = self.ready = None
        self.fault = ""
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.channel = Channel(ours)
        self._reader = FrameReader()

    @property
    def pid(self) -> int:
        return id(self)

    def say(self, *frames: Frame) -> None:
        self.theirs.sendall(b"".join(map(to_frame, frames)))

    def heard(self) -> list[Frame]:
        try:
            return list(self._reader.feed(self.theirs.recv(1 << 16)))
        except BlockingIOError:
            return []

    def kill(self, fault: str) -> None:
        self.fault = self.fault or fault
        self.theirs.close()

    def reap(self) -> str:
        self.channel.close()
        self.theirs.close()
        return self.fault or "it ended"


class Ears:
    """Hears everything that becomes of the workers."""

    def __init__(self) -> None:
        self.said: list[tuple[str, ...]] = []

    def tested(self, manifest_sha256: str, passed: bool, reason: str) -> None:
        self.said.append(("tested", manifest_sha256, str(passed), reason))

    def activated(self) -> None:
        self.said.append(("activated",))

    def served(self) -> None:
        self.said.append(("served",))

    def unreachable(self, reason: str) -> None:
        self.said.append(("unreachable", reason))

    def failed(self, reason: str) -> None:
        self.said.append(("failed", reason))

    def counted(self, pid: int, manifest_sha256: str, snapshot: Snapshot | None) -> None:
        pass

    def event(self, kind: str, text: str, details: Mapping[str, Json]) -> None:
        self.said.append((kind, text))

    def answered(self, answer: Answer) -> None:
        self.said.append(("answered", answer.id, answer.error))


class Stage:
    """Workers, their listener, and a clock that a test moves."""

    def __init__(self, listener: Listener) -> None:
        self.now_s = 100.0
        self.ears = Ears()
        self.made: list[Scripted] = []
        self.listener = listener
        self.selector = selectors.DefaultSelector()
        self.workers = Workers(
            ORDER, listener, self.selector, self.ears, lambda: self.now_s, self._make
        )

    def _make(self, order: Order, now_s: float) -> WorkerProcess:
        self.made.append(Scripted(order, now_s))
        return self.made[-1]

    def look(self) -> None:
        """One turn of the supervisor's loop."""
        self.workers.watch(self.now_s)
        for key, mask in self.selector.select(0):
            key.data(mask)

    def serving(self) -> Scripted:
        """A worker that serves."""
        self.workers.start_active("a")
        self.made[-1].say(Ready(()))
        self.look()
        assert self.workers.serving == "a"
        return self.made[-1]

    def close(self) -> None:
        self.workers.kill()
        self.selector.close()
        self.listener.close()


@pytest.fixture
def play() -> Iterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def make(listener: Listener | None = None) -> Stage:
        stages.append(Stage(listener or Listener("127.0.0.1", 0)))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


def test_a_worker_that_nobody_listened_to_is_not_taken_for_silent(
    play: Callable[..., Stage],
) -> None:
    stage = play()
    worker = stage.serving()
    worker.say(heartbeat())
    stage.now_s += 60.0  # The loop was busy.
    due_s = stage.workers.watch(stage.now_s)
    assert worker.fault == ""
    assert due_s == stage.now_s + ORDER.worker.hang_s / 2


def test_half_a_frame_is_a_sign_of_life(play: Callable[..., Stage]) -> None:
    stage = play()
    worker = stage.serving()
    worker.theirs.sendall(to_frame(heartbeat())[:10])
    stage.now_s += 60.0
    stage.workers.watch(stage.now_s)
    assert worker.fault == ""


def test_a_worker_that_is_silent_is_ended(play: Callable[..., Stage]) -> None:
    stage = play()
    worker = stage.serving()
    stage.now_s += 7.9
    stage.look()
    assert worker.fault == ""
    stage.now_s += 0.2
    stage.look()
    assert worker.fault == "the worker hangs"
    assert stage.ears.said[-1] == ("failed", "the worker hangs")


def test_a_worker_that_is_ready_but_was_not_heard_has_not_loaded_too_long(
    play: Callable[..., Stage],
) -> None:
    stage = play()
    stage.workers.start_candidate("b")
    (worker,) = stage.made
    worker.say(Ready(()))
    stage.now_s += 400.0
    stage.workers.watch(stage.now_s)
    assert stage.ears.said == [("tested", "b", "True", "")]
    stage.workers.stop_candidate()
    stage.look()
    assert stage.workers.finished()


def test_a_worker_that_loads_too_long_is_ended(play: Callable[..., Stage]) -> None:
    stage = play()
    stage.workers.start_candidate("b")
    stage.now_s += 301.0
    stage.look()
    assert stage.ears.said == [("tested", "b", "False", "the worker did not load in time")]


def test_a_worker_that_ended_unseen_is_not_ended_for_being_late(
    play: Callable[..., Stage],
) -> None:
    stage = play()
    worker = stage.serving()
    stage.workers.stop_active()
    worker.heard()
    worker.theirs.close()
    stage.now_s += 60.0
    stage.workers.watch(stage.now_s)
    assert stage.workers.finished()
    assert worker.fault == ""


class Taken(Listener):
    """A listener whose port cannot be had `times` times."""

    times = 3
    tries = 0

    def listen(self) -> None:
        self.tries += 1
        if self.tries <= self.times:
            raise InputError(f"api: {self.address}: Address already in use")
        super().listen()


def test_a_port_that_cannot_be_had_is_told_once_and_tried_again_ever_more_slowly(
    play: Callable[..., Stage],
) -> None:
    listener = Taken("127.0.0.1", 0)
    stage = play(listener)
    worker = stage.serving()
    tried_s = []
    for _ in range(80):
        before = listener.tries
        stage.look()
        if listener.tries > before:
            tried_s.append(stage.now_s - 100.0)
        if not listener.listening:
            assert Serve() not in worker.heard()
        stage.now_s += 0.1
        worker.say(heartbeat())
    assert tried_s == pytest.approx([1.0, 3.0, 7.0], abs=0.5)
    assert Serve() in worker.heard()
    socket.create_connection(("127.0.0.1", listener.port), timeout=1).close()
    told = [said for said in stage.ears.said if said[0] == "unreachable"]
    assert told == [("unreachable", f"api: {listener.address}: Address already in use")]


def test_at_the_end_of_everything_nobody_is_blamed(play: Callable[..., Stage]) -> None:
    stage = play()
    stage.serving()
    stage.workers.start_candidate("b")
    assert stage.workers.ask(Ask("7", ("mail",)))
    before = len(stage.ears.said)
    stage.workers.kill()
    assert stage.workers.finished()
    assert stage.ears.said[before:] == [("answered", "7", "the agent ends")]


def test_no_worker_is_started_once_the_port_was_given_back(play: Callable[..., Stage]) -> None:
    stage = play()
    stage.listener.close()
    stage.workers.start_candidate("b")
    assert stage.made == []
    assert stage.workers.finished()


def test_a_worker_without_its_descriptor_is_an_error_of_ours_that_is_told() -> None:
    before = len(os.listdir("/proc/self/fd"))
    order: Any = replace(ORDER, listener=-1)
    with pytest.raises(DeviceError, match="worker cannot be started"):
        WorkerProcess(order, 0.0)
    assert len(os.listdir("/proc/self/fd")) == before


# A bundle's variants: what is passed over, and what comes back.


def told(stage: Stage) -> list[str]:
    return [said[0] for said in stage.ears.said]


def degraded(stage: Stage) -> Scripted:
    """A worker that serves on the CPU, for the accelerator crashed in its proof."""
    stage.workers.start_active("a")
    worker = stage.made[-1]
    worker.say(Tried(report("npu", "crash"), ("cpu",)), Tried(report("cpu")),
               ready("cpu", "npu", fitting=("npu", "cpu")))  # fmt: skip
    stage.look()
    assert stage.workers.serving == "a"
    return worker


def wait(stage: Stage, worker: Scripted, seconds: float) -> None:
    """Time passes, the worker lives."""
    for _ in range(int(seconds)):
        stage.now_s += 1.0
        worker.say(heartbeat())
        stage.look()
        stage.look()


def test_a_device_that_is_degraded_says_so(play: Callable[..., Stage]) -> None:
    stage = play()
    degraded(stage)
    accelerator = stage.workers.accelerator
    assert accelerator is not None
    assert accelerator.variant == "cpu"
    assert accelerator.degraded == "npu: npu has the fault crash"
    assert told(stage) == ["variant-refused", "served"]


def test_each_proof_gets_its_own_time(play: Callable[..., Stage]) -> None:
    stage = play()
    stage.workers.start_active("a")
    (worker,) = stage.made
    for _ in range(3):
        stage.now_s += 200.0
        worker.say(Tried(report("npu", "hang"), ("cpu",)))
        stage.look()
    assert worker.fault == ""
    worker.say(Tried(report("cpu")))
    stage.look()
    stage.now_s += ORDER.worker.prove_timeout_s + 1.0  # What was proved loads no slower than there.
    stage.look()
    assert worker.fault == "the worker did not load in time"


def test_the_accelerator_is_proved_again_beside_the_worker_that_serves(
    play: Callable[..., Stage],
) -> None:
    stage = play()
    first = degraded(stage)
    wait(stage, first, 80.0)
    assert len(stage.made) == 2
    second = stage.made[-1]
    assert second.variants == ("npu",)
    assert stage.workers.pids == {"worker": first.pid, "candidate": second.pid}
    second.say(Tried(report("npu")), ready("npu", fitting=("npu", "cpu")))
    stage.look()
    assert Drain() in first.heard()
    assert Serve() in second.heard()
    assert told(stage)[-2:] == ["accelerator-recovered", "served"]
    assert "failed" not in told(stage)
    assert stage.workers.accelerator is not None
    assert stage.workers.accelerator.degraded == ""


def test_a_proof_that_fails_again_harms_nobody_and_waits_longer(play: Callable[..., Stage]) -> None:
    stage = play()
    first = degraded(stage)
    wait(stage, first, 80.0)
    stage.made[-1].say(Tried(report("npu", "crash")), Refused("no variant passed"))
    stage.look()
    stage.look()
    assert told(stage) == ["variant-refused", "served"]
    wait(stage, first, 80.0)
    assert len(stage.made) == 2
    wait(stage, first, 80.0)
    assert len(stage.made) == 3
    assert first.fault == ""


def test_an_update_comes_before_a_better_variant(play: Callable[..., Stage]) -> None:
    stage = play()
    first = degraded(stage)
    wait(stage, first, 80.0)
    renewal = stage.made[-1]
    stage.workers.start_candidate("b")
    assert renewal.fault == "not needed any more"
    assert [worker.manifest_sha256 for worker in stage.made] == ["a", "a", "b"]
    wait(stage, first, 200.0)
    assert len(stage.made) == 3  # Not while the candidate is tested.


def test_a_worker_that_dies_on_what_it_loads_is_followed_by_one_without_it(
    play: Callable[..., Stage],
) -> None:
    stage = play()
    stage.workers.start_candidate("b")
    (worker,) = stage.made
    worker.say(Tried(report("npu"), ("cpu",)))
    stage.look()
    worker.theirs.close()
    stage.look()
    assert told(stage) == ["variant-refused"]
    assert stage.made[-1].variants == ("cpu",)
    stage.made[-1].say(Tried(report("cpu")), ready("cpu", fitting=("npu", "cpu")))
    stage.look()
    assert stage.ears.said[-1] == ("tested", "b", "True", "")


def test_a_crash_on_an_accelerator_is_not_the_bundles_until_the_cpu_crashes_too(
    play: Callable[..., Stage],
) -> None:
    stage = play()
    stage.workers.start_active("a")
    for _ in range(ORDER.worker.max_crashes + 1):
        stage.made[-1].say(Tried(report("npu")), ready("npu", fitting=("npu", "cpu")))
        stage.look()
        assert stage.made[-1].variants == ()
        stage.made[-1].theirs.close()
        stage.look()
    assert "failed" not in told(stage)
    assert stage.made[-1].variants == ("cpu",)
    stage.made[-1].say(Tried(report("cpu")), ready("cpu", fitting=("npu", "cpu")))
    stage.look()
    assert told(stage)[-2:] == ["accelerator-lost", "served"]
    stage.made[-1].theirs.close()
    stage.look()
    assert told(stage)[-1] == "failed"


def test_another_driver_is_proved_beside_who_serves_on_the_old(play: Callable[..., Stage]) -> None:
    stage = play()
    stage.workers.start_active("a")
    first = stage.made[-1]
    first.say(Tried(report("npu")), ready("npu", fitting=("npu", "cpu")))
    stage.look()
    stage.workers.drivers_changed()
    stage.look()
    assert stage.made[-1].variants == ("npu", "cpu")
    assert first.fault == ""
    stage.made[-1].say(Tried(report("npu", "numbers"), ("cpu",)), Tried(report("cpu")),
                       ready("cpu", "npu", fitting=("npu", "cpu")))  # fmt: skip
    stage.look()
    assert "accelerator-lost" in told(stage)
    assert Drain() in first.heard()
