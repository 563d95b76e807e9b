"""The operator's other side, in memory: a broker that forbids, devices that answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_runtime.fields import Json
from edge_runtime.fleet.connection import Connection
from edge_runtime.link.base import Message
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.link.outbox import Outgoing
from edge_runtime.link.topics import matches
from edge_runtime.messages.fleet import (
    BundleRef,
    Desired,
    InferRequest,
    InferResult,
    Online,
    Progress,
    Refusal,
    Reported,
    to_bytes,
)
from edge_runtime.messages.topics import Topics
from tests.fakes.messages import REPORTED

TOPICS = Topics()
IDLE = dataclasses.replace(
    REPORTED, revision=0, state="idle", active=None, refused=(), progress=None, fetched_bytes=0,
    update_s=0.0, accelerator=None,
)  # fmt: skip
ESCAPES = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202egnp\x7f[bold]markup[/bold]\r\n\tend"
"""What a hostile device would write to an operator's terminal."""


def clean(shown: str) -> bool:
    """Whether a terminal is safe from `shown`."""
    return not any(
        (ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160 or char == "\u202e"
        for char in shown
    )


class StrictBroker(MemoryBroker):
    """Acknowledges everything, as MQTT 3.1.1 brokers do, and throws away what it forbids."""

    def __init__(self, *forbidden: str, queue_limit: int = 1000) -> None:
        super().__init__(queue_limit=queue_limit)
        self.forbidden = forbidden

    def _route(self, sent: Outgoing) -> None:
        if not any(matches(topic_filter, sent.topic) for topic_filter in self.forbidden):
            super()._route(sent)


def keep(broker: MemoryBroker, topic: str, payload: bytes) -> None:
    """Somebody published this, retained."""
    broker.retained[topic] = Message(topic, payload, retain=True)


@contextmanager
def operator(broker: MemoryBroker, timeout_s: float = 5.0) -> Iterator[Connection]:
    """A connection of the operator's."""
    with Connection(broker.link, TOPICS, timeout_s=timeout_s) as connection:
        yield connection


Act = Callable[["FakeDevice", Desired], None]


def serve(device: FakeDevice, desired: Desired) -> None:
    """Fetches, tests, serves."""
    assert desired.release is not None
    progress = Progress(3, 10, 300)
    device.report(revision=desired.revision, state="fetching", progress=progress)
    device.report(
        state="trial",
        active=desired.release.ref,
        progress=None,
        fetched_bytes=1234,
        update_s=2.5,
        reason="",
    )


def refuse(device: FakeDevice, desired: Desired, reason: str = "cosine 0.07 below 0.99") -> None:
    """Its self-test fails."""
    assert desired.release is not None
    refusal = Refusal(desired.release.manifest.sha256, desired.attempt, reason)
    device.report(revision=desired.revision, refused=(refusal,), reason=reason)


def nothing(device: FakeDevice, desired: Desired) -> None:
    """Sees its desired state, and goes on fetching for ever."""
    progress = Progress(3, 10, 300)
    device.report(revision=desired.revision, state="fetching", progress=progress)


class FakeDevice:
    """Reports by itself what `act` makes of each desired state; answers questions."""

    def __init__(
        self,
        broker: MemoryBroker,
        name: str,
        act: Act = serve,
        answer: Callable[[InferRequest], bytes | None] | None = None,
        active: BundleRef | None = None,
    ) -> None:
        self.name = name
        self.seen: list[Desired] = []
        self._act = act
        self._answer = answer
        self._reported = IDLE
        self._link = broker.link(f"device-{name}", self._on_message)
        self._link.subscribe([TOPICS.device(name, "desired"), TOPICS.infer(name)])
        self._link.start()
        self.say("online", to_bytes(Online(True, "b1")))
        self.report(active=active)
        broker.pump()

    def say(self, what: str, payload: bytes) -> None:
        """Publish, retained."""
        self._link.publish(TOPICS.device(self.name, what), payload, retain=True)

    def report(self, **changed: object) -> Reported:
        """Say what changed."""
        self._reported = dataclasses.replace(self._reported, **changed)  # type: ignore[arg-type]
        self.say("reported", to_bytes(self._reported))
        return self._reported

    def _on_message(self, message: Message) -> None:
        request = TOPICS.request_of(message.topic)
        if request is None:
            desired = Desired.from_bytes(message.payload)
            self.seen.append(desired)
            self._act(self, desired)
            return
        asked = InferRequest.from_bytes(message.payload)
        results: tuple[dict[str, Json], ...] = tuple(
            {"label": "mail", "score": 0.9, "text": text} for text in asked.inputs
        )
        payload = self._answer(asked) if self._answer else to_bytes(InferResult(results))
        if payload is not None:
            self._link.publish(TOPICS.infer_result(self.name, request), payload)
