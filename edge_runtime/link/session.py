"""The part of a link that outlives its connections, and knows no protocol.

Subscriptions, the outbox, the counters, who is told what: everything here is the same over a real
broker and over the one in memory. A link derives from `Session`, moves messages out of `outbox`
and into `deliver`, and tells `went_up` and `went_down`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_runtime.errors import TransferError
from edge_runtime.link.base import LinkStats, Message, OnConnection, OnMessage
from edge_runtime.link.outbox import Outbox, Outgoing
from edge_runtime.link.topics import check_filter, check_topic, matches, unshared

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """A change of subscriptions that the broker has yet to be told."""

    subscribe: bool
    topics: tuple[str, ...]
    qos: int = 1


class Session:
    """See `edge_runtime.link.base.Link` for what the public methods promise."""

    def __init__(
        self,
        address: str,
        on_message: OnMessage,
        on_connection: OnConnection | None,
        outbox: Outbox,
        *,
        max_payload_bytes: int,
    ) -> None:
        self.outbox = outbox
        self._address = address
        self._on_message = on_message
        self._on_connection = on_connection
        self._max_payload_bytes = max_payload_bytes
        self._changed = threading.Condition()
        self._filters: dict[str, int] = {}
        self._wishes: deque[Wish] = deque()
        self._stats = LinkStats()
        self._down_since_s: float | None = None
        self._last_failure = "no attempt has ended yet"
        self._handler_thread: int | None = None

    @property
    def address(self) -> str:
        """`host:port` of the broker."""
        return self._address

    def _wake(self) -> None:
        """Called after there is something new to send; a link overrides it."""

    def _before_wait(self, timeout_s: float) -> float:
        """Called before a wait for the broker; returns how long to wait."""
        return timeout_s

    def wait_connected(self, timeout_s: float) -> None:
        """Wait until connected, or raise TransferError naming the broker and the last failure."""
        self._not_in_handler("wait_connected")
        wait_s = self._before_wait(timeout_s)
        with self._changed:
            if not self._changed.wait_for(lambda: self._stats.connected, timeout=wait_s):
                raise TransferError(
                    f"broker {self.address}: not connected within {timeout_s:g} s "
                    f"({self._last_failure})"
                )

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
        """Put a message in the outbox; False where it stayed full."""
        check_topic(topic)
        if response_topic is not None:
            check_topic(response_topic)
        if wait_s > 0:
            self._not_in_handler("publish with wait_s")
            wait_s = self._before_wait(wait_s)
        message = Outgoing(topic, payload, qos, retain, response_topic, correlation)
        accepted = self.outbox.offer(message, wait_s=wait_s)
        self._wake()
        return accepted

    def flush(self, timeout_s: float) -> None:
        """Wait for every acknowledgement; see `Link.flush`."""
        self._not_in_handler("flush")
        done = self.outbox.wait_empty(self._before_wait(timeout_s))
        self.outbox.raise_forbidden(self.address)
        if not done:
            with self._changed:
                state = "connected" if self._stats.connected else self._last_failure
            raise TransferError(
                f"broker {self.address}: {len(self.outbox)} messages not acknowledged within "
                f"{timeout_s:g} s ({state})"
            )

    def subscribe(self, topics: Sequence[str], qos: int = 1) -> None:
        """Receive `topics`, now and after every reconnect."""
        for topic in topics:
            check_filter(topic)
        with self._changed:
            self._filters.update(dict.fromkeys(topics, qos))
            self._wish(Wish(True, tuple(topics), qos))

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """End these subscriptions."""
        with self._changed:
            for topic in topics:
                self._filters.pop(topic, None)
            self._wish(Wish(False, tuple(topics)))

    def _wish(self, wish: Wish) -> None:
        # Offline, the table alone says what to ask for on the next connection.
        if self._stats.connected and wish.topics:
            self._wishes.append(wish)
            self._wake()

    def stats(self) -> LinkStats:
        """The counters now."""
        with self._changed:
            return replace(
                self._stats,
                sent=self.outbox.sent,
                waiting=len(self.outbox),
                dropped_out=self.outbox.dropped,
                refused=self._stats.refused + self.outbox.refused,
            )

    # What the link's own thread calls.

    def next_wish(self) -> Wish | None:
        """The next change of subscriptions to tell the broker."""
        with self._changed:
            return self._wishes.popleft() if self._wishes else None

    def went_up(self, protocol: str) -> None:
        """Connected: every subscription becomes a wish again, then the handler is told."""
        with self._changed:
            self._wishes.clear()
            for qos in sorted(set(self._filters.values())):
                topics = tuple(t for t, wanted in self._filters.items() if wanted == qos)
                self._wishes.append(Wish(True, topics, qos))
            outage_s = time.monotonic() - self._down_since_s if self._down_since_s else 0.0
            self._down_since_s = None
            self._stats = replace(
                self._stats, connected=True, connections=self._stats.connections + 1
            )
            self._changed.notify_all()
        log.info(
            "broker connected",
            extra={"broker": self.address, "protocol": protocol, "outage_s": round(outage_s, 1)},
        )
        self._call_on_connection(True, "")

    def went_down(self, reason: str) -> None:
        """Lost, or not reached: said once for each outage. What was in flight leaves again."""
        self.outbox.rewind()
        with self._changed:
            self._last_failure = reason
            self._stats = replace(self._stats, connected=False)
            if self._down_since_s is not None:
                return
            self._down_since_s = time.monotonic()
        log.warning("broker unreachable", extra={"broker": self.address, "reason": reason})
        self._call_on_connection(False, reason)

    def ended(self) -> None:
        """Closed by ourselves: nobody needs to be told."""
        with self._changed:
            self._stats = replace(self._stats, connected=False)

    def deliver(self, message: Message) -> None:
        """Hand a message to its handler, unless it is larger than we accept.

        One that no subscription asks for is passed over: it was under way when we unsubscribed,
        or the broker is mistaken (amqtt sends a new client what others have subscribed to).
        """
        if not self._asked_for(message.topic):
            return
        if len(message.payload) > self._max_payload_bytes:
            self.drop_in(f"payload too large on {message.topic}", len(message.payload))
            return
        with self._changed:
            self._stats = replace(self._stats, received=self._stats.received + 1)
        self._handler_thread = threading.get_ident()
        try:
            self._on_message(message)
        except Exception as error:
            self._handler_failed(error)
        finally:
            self._handler_thread = None

    def _asked_for(self, topic: str) -> bool:
        with self._changed:
            if topic in self._filters:
                return True
            filters = list(self._filters)
        return any(matches(unshared(f), topic) for f in filters)

    def drop_in(self, reason: str, size_bytes: int) -> None:
        """Count a message that nobody gets to see."""
        with self._changed:
            first = self._stats.dropped_in == 0
            self._stats = replace(self._stats, dropped_in=self._stats.dropped_in + 1)
        # Said once: whoever may publish to us must not be able to fill our log.
        if first:
            log.warning(
                "message dropped",
                extra={
                    "broker": self.address,
                    "reason": reason,
                    "size_bytes": size_bytes,
                    "max_bytes": self._max_payload_bytes,
                },
            )

    def subscription_refused(self, topics: Sequence[str], reason: str) -> None:
        """The broker will not send us these."""
        with self._changed:
            self._stats = replace(self._stats, refused=self._stats.refused + len(topics))
        log.warning(
            "subscription refused",
            extra={"broker": self.address, "topics": list(topics), "reason": reason},
        )

    def _call_on_connection(self, connected: bool, reason: str) -> None:
        if self._on_connection is None:
            return
        self._handler_thread = threading.get_ident()
        try:
            self._on_connection(connected, reason)
        except Exception as error:
            self._handler_failed(error)
        finally:
            self._handler_thread = None

    def _handler_failed(self, error: Exception) -> None:
        """A handler's bug must not cost the connection."""
        with self._changed:
            self._stats = replace(self._stats, handler_errors=self._stats.handler_errors + 1)
        log.error("link handler failed", extra={"broker": self.address}, exc_info=error)

    def _not_in_handler(self, what: str) -> None:
        if self._handler_thread == threading.get_ident():
            raise RuntimeError(f"{what} in a handler would wait for itself")
