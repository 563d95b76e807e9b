"""What the rest of the system may ask of a broker connection, whoever implements it.

A link is at-least-once: a message may arrive twice, and retained messages arrive again after
every reconnect, so receivers must not mind. It keeps one promise for publishers: what `publish`
accepted with QoS 1 is held until the broker has acknowledged it, over any number of reconnects,
within the bounds of the link's `Outbox`; what does not fit is refused at once and counted.

The order: make the link with its handlers, `subscribe`, `start`; `close` at the end. Handlers run
on the link's own thread, one at a time. They must return soon (put the message in a queue) and
may call `publish`, `subscribe` and `unsubscribe`, but nothing that waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One message from the broker.

    `retain` is true where the broker sent what it had kept, false for one that was just
    published. `response_topic` and `correlation` come from MQTT 5 only.
    """

    topic: str
    payload: bytes
    retain: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us when we vanish without a goodbye."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Counters since the link was made.

    `sent` counts what the broker acknowledged (QoS 0: what left us), `dropped_out` what `publish`
    refused because the outbox was full, `refused` publishes and subscriptions that the broker
    forbade (MQTT 3.1.1 brokers forbid silently), `dropped_in` messages that were too large or had
    an unreadable topic, `handler_errors` exceptions out of `on_message` or `on_connection`.
    """

    connected: bool = False
    connections: int = 0
    sent: int = 0
    received: int = 0
    waiting: int = 0
    dropped_out: int = 0
    dropped_in: int = 0
    refused: int = 0
    handler_errors: int = 0


OnMessage = Callable[[Message], None]
OnConnection = Callable[[bool, str], None]
"""Called with (connected, reason): after every connect, and once at the start of each outage."""


class Link(Protocol):
    """A connection to a broker that mends itself."""

    @property
    def address(self) -> str:
        """`host:port` of the broker, for messages; never a secret."""

    def start(self) -> None:
        """Connect in the background, and again after every loss, until `close`."""

    def wait_connected(self, timeout_s: float) -> None:
        """Wait for the first connection, or the next one during an outage.

        Raises:
            TransferError: not connected in time; names the broker and the last failure.
            RuntimeError: called from a handler, or the link was not started.
        """

    def close(self, flush_s: float = 0.0) -> None:
        """Say goodbye (no last will is sent) after up to `flush_s` of delivering what waits.

        Never raises; what could not be delivered is lost. May be called twice.
        """

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        response_topic: str | None = None,
        correlation: bytes | None = None,
        wait_s: float = 0.0,
    ) -> bool:
        """Hand a message over for delivery; connected or not.

        A retained message replaces an older one of the same topic that has not left yet: only
        the last state counts. A publisher of much data gives `wait_s`, so that it is held back
        while the outbox is full.

        Returns:
            False, and counts it, where the outbox stayed full: the message is dropped.

        Raises:
            InputError: the topic holds a wildcard or is empty, or the payload is too large ever
                to fit.
            RuntimeError: the link is closed, or `wait_s` was given in a handler.
        """

    def flush(self, timeout_s: float) -> None:
        """Wait until the broker has acknowledged everything that `publish` accepted.

        Raises:
            TransferError: not all in time, or the broker forbade a topic since the last flush.
            RuntimeError: called from a handler.
        """

    def subscribe(self, topics: Sequence[str], qos: int = 1) -> None:
        """Receive these topics or filters, now and after every reconnect.

        Subscribing again makes the broker send its retained messages again.

        Raises:
            InputError: not a valid topic filter.
        """

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """End these subscriptions. Messages already under way may still arrive."""

    def stats(self) -> LinkStats:
        """The counters now."""


class Connector(Protocol):
    """Makes links to one broker: `mqtt.connector(config)`, or `MemoryBroker.link`."""

    def __call__(
        self,
        client_id: str,
        on_message: OnMessage,
        on_connection: OnConnection | None = None,
        *,
        will: Will | None = None,
    ) -> Link:
        """A link that is not started yet. `client_id` must be unique on the broker."""
