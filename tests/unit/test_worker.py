"""The worker's loop, with a scripted supervisor and a scripted engine."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from edge_runtime.agent.config import ApiConfig, WorkerConfig
from edge_runtime.agent.order import Order
from edge_runtime.agent.worker import Control, Heart, Worker
from edge_runtime.messages.worker import (
    MAX_FRAME_BYTES,
    Answer,
    Ask,
    Drain,
    Frame,
    FrameReader,
    to_frame,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a device runs Linux")


class Result:
    """Of one text."""

    def __init__(self, value: str) -> None:
        self.value = value

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value}


class FakeServing:
    """Answers with as much as a text says."""

    pipeline = MagicMock()

    def answers(self, raws: Sequence[str]) -> list[Result]:
        return [Result("é" * int(text)) for text in raws]


class FakeControl:
    """A supervisor that asks, tells to drain, and reads answers as ours does."""

    def __init__(self, *asks: Ask) -> None:
        self._asks = asks
        self._reader = FrameReader()
        self.heard: list[Frame] = []

    def frames(self) -> Iterator[tuple[Frame, int | None]]:
        for ask in self._asks:
            yield ask, None
        yield Drain(), None

    def send(self, frame: Frame, descriptor: int | None = None) -> None:
        self.heard.extend(self._reader.feed(to_frame(frame)))


class FakeHeart:
    """Needs no thread."""

    def beat(self) -> None:
        pass


@pytest.fixture
def answers() -> Callable[..., list[Frame]]:
    def run(*asks: Ask) -> list[Frame]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            order = Order(
                control=-1,
                listener=listener.detach(),
                state_dir="",
                manifest_sha256="",
                profile="",
                version="1",
                log_level="info",
                api=ApiConfig(),
                worker=WorkerConfig(drain_s=20.0),
            )
            control = FakeControl(*asks)
            worker = Worker(
                order,
                cast(Control, control),
                cast(Any, FakeServing()),
                cast(Heart, FakeHeart()),
            )
            worker.run()
        return control.heard

    return run


def test_an_answer_that_fits_no_frame_becomes_one_sentence_and_the_worker_goes_on(
    answers: Callable[..., list[Frame]],
) -> None:
    huge = Ask("1", (str(MAX_FRAME_BYTES // 8),) * 8)
    assert answers(huge, Ask("2", ("3",))) == [
        Answer("1", error="the answer has more than 1048576 bytes"),
        Answer("2", ({"value": "ééé"},)),
    ]
