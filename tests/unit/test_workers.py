"""Workers as their supervisor handles them, each a scripted end of a socket pair."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Iterator
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
from edge_runtime.messages.worker import (
    Answer,
    Ask,
    Frame,
    FrameReader,
    Heartbeat,
    Ready,
    Serve,
    to_frame,
)
from edge_runtime.telemetry import Metrics, Snapshot

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
        self.phase = Phase.LOADING
        self.heard_s = now_s
        self.deadline_s: float | None = now_s + order.worker.start_timeout_s
        self.asks: set[str] = set()
        self.accelerator = None
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
