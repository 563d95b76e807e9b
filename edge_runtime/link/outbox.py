"""Messages on their way out: bounded, in order, kept until the broker acknowledges them.

Pure bookkeeping behind one lock, shared by every link. Publishers `offer` from any thread; the
link's thread moves messages along with `take`, `acknowledge` and, after a lost connection,
`rewind`, which makes everything unacknowledged leave again, first in line and in its old order.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass

from edge_runtime.errors import InputError, TransferError


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message that has not been acknowledged."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None

    @property
    def cost_bytes(self) -> int:
        """What it takes of the outbox's byte bound."""
        return len(self.payload) + len(self.topic)


class Outbox:
    """Waiting and in-flight messages of one link, at most `max_messages` and `max_bytes`."""

    def __init__(self, *, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._waiting: deque[Outgoing] = deque()
        self._in_flight: OrderedDict[int, Outgoing] = OrderedDict()
        self._next_token = 0
        self._bytes = 0
        self._closed = False
        self._forbidden: list[str] = []
        self.sent = 0
        self.dropped = 0
        self.refused = 0

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting) + len(self._in_flight)

    def offer(self, message: Outgoing, *, wait_s: float = 0.0) -> bool:
        """Put `message` in line; waits up to `wait_s` for room. False: dropped and counted.

        Raises:
            InputError: larger than the whole outbox.
            RuntimeError: the outbox is closed.
        """
        if message.cost_bytes > self._max_bytes:
            raise InputError(
                f"message to {message.topic}: {message.cost_bytes} bytes, the outbox holds at most "
                f"{self._max_bytes}"
            )
        with self._changed:
            if message.retain:
                self._forget_older(message.topic)
            self._changed.wait_for(lambda: self._closed or self._fits(message), timeout=wait_s)
            if self._closed:
                raise RuntimeError("publish on a closed link")
            if not self._fits(message):
                self.dropped += 1
                return False
            self._waiting.append(message)
            self._bytes += message.cost_bytes
            return True

    def _fits(self, message: Outgoing) -> bool:
        count = len(self._waiting) + len(self._in_flight)
        return count < self._max_messages and self._bytes + message.cost_bytes <= self._max_bytes

    def _forget_older(self, topic: str) -> None:
        """Of a retained topic only the last state counts; what is in flight cannot be called back.

        Linear, but the line is short and empty while the broker keeps up.
        """
        for index, old in enumerate(self._waiting):
            if old.retain and old.topic == topic:
                del self._waiting[index]
                self._bytes -= old.cost_bytes
                self._changed.notify_all()
                return

    def take(self, max_in_flight: int) -> tuple[int, Outgoing] | None:
        """The next message to send and the token to acknowledge it by, or None for now."""
        with self._changed:
            if not self._waiting or len(self._in_flight) >= max_in_flight:
                return None
            token = self._next_token
            self._next_token += 1
            message = self._waiting.popleft()
            self._in_flight[token] = message
            return token, message

    def acknowledge(self, token: int, *, forbidden: bool = False) -> None:
        """The broker has answered `token`; a token of before a `rewind` is ignored."""
        with self._changed:
            message = self._in_flight.pop(token, None)
            if message is None:
                return
            self._bytes -= message.cost_bytes
            if forbidden:
                self.refused += 1
                if len(self._forbidden) < 8:
                    self._forbidden.append(message.topic)
            else:
                self.sent += 1
            self._changed.notify_all()

    def rewind(self) -> None:
        """The connection is gone: what was in flight leaves first on the next one.

        QoS 0 does not survive; a retained message that was overtaken by a newer one neither.
        """
        with self._changed:
            overtaken = {m.topic for m in self._waiting if m.retain}
            for message in reversed(self._in_flight.values()):
                if message.qos == 0 or (message.retain and message.topic in overtaken):
                    self._bytes -= message.cost_bytes
                else:
                    self._waiting.appendleft(message)
                    if message.retain:
                        overtaken.add(message.topic)
            self._in_flight.clear()
            self._changed.notify_all()

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until everything was acknowledged; False where time ran out or it was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._empty(), timeout=timeout_s)
            return self._empty()

    def _empty(self) -> bool:
        return not self._waiting and not self._in_flight

    def raise_forbidden(self, address: str) -> None:
        """Raises TransferError for topics that the broker forbade since the last call."""
        with self._changed:
            topics, self._forbidden = self._forbidden, []
        if topics:
            raise TransferError(f"broker {address}: refused to accept {', '.join(topics)}")

    def close(self) -> None:
        """Wake everyone who waits; nothing is accepted any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
