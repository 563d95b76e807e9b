"""The operator's connection: read what the broker keeps, send, listen.

MQTT does not say when all retained messages of a subscription have come. So `retained` subscribes
to a topic of its own in the same breath, the fence, and publishes to it afterwards: a broker that
works a client's packets in order delivers the fence behind everything that it had kept. Where no
fence comes back (forbidden, or the broker's queue for us overflowed) silence has to do, and a
warning says that something may be missing. A lost connection is never mistaken for silence.
"""

from __future__ import annotations

import logging
import queue
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from edge_runtime.errors import TransferError
from edge_runtime.link.base import Connector, Message
from edge_runtime.link.topics import matches
from edge_runtime.messages.topics import DELIVERY, Topics

log = logging.getLogger(__name__)

FENCE_AGAIN_S = 1.0
QUIET_S = 3.0
"""Silence this long, without a fence, ends the reading; longer where `timeout_s` is."""
USUAL_TIMEOUT_S = 10.0
READ_S = 60.0
"""Messages for this long, none of them one that the broker had kept, are an error."""


class Connection:
    """A context manager: connected inside, closed after.

    `retained` and `receive` share one inbox and belong to one thread: what `retained` is not
    asking for it throws away. What was sent is settled before anything is read.
    """

    def __init__(
        self, connect: Connector, topics: Topics, *, timeout_s: float = USUAL_TIMEOUT_S
    ) -> None:
        self.topics = topics
        self.timeout_s = timeout_s
        self._quiet_s = QUIET_S * max(1.0, timeout_s / USUAL_TIMEOUT_S)
        self._refused_before: int | None = None
        self._told = False
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._link = connect(f"edge-fleet-{secrets.token_hex(6)}", self._inbox.put)

    def __enter__(self) -> Connection:
        """Connect.

        Raises:
            TransferError: not within `timeout_s`; says why.
        """
        self._link.start()
        try:
            self._link.wait_connected(self.timeout_s)
        except BaseException:
            self._link.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._link.close(flush_s=1.0 if error is None else 0.0)

    @property
    def address(self) -> str:
        """`host:port` of the broker."""
        return self._link.address

    def send(self, kind: str, topic: str, payload: bytes) -> None:
        """Hand over a message of a kind of `DELIVERY`; held back while too much is under way.

        Raises:
            TransferError: the broker has acknowledged nothing for `timeout_s`.
        """
        how = DELIVERY[kind]
        if self._refused_before is None:
            self._refused_before = self._link.stats().refused
        if not self._link.publish(
            topic, payload, qos=how.qos, retain=how.retain, wait_s=self.timeout_s
        ):
            # The outbox may be full for long on a slow line: only standstill is a failure.
            raise TransferError(
                f"broker {self.address}: acknowledged nothing for {self.timeout_s:g} s"
            )

    def settle(self) -> None:
        """Wait until the broker has acknowledged everything that was sent.

        Raises:
            TransferError: it stands still for `timeout_s`, or forbade something.
        """
        refused_before, self._refused_before = self._refused_before, None
        while True:
            before = self._link.stats()
            if refused_before is None:
                refused_before = before.refused
            try:
                self._link.flush(self.timeout_s)
                return
            except TransferError:
                after = self._link.stats()
                moving = after.waiting and after.sent > before.sent
                if not moving or after.refused > refused_before:
                    raise

    def retained(self, filters: Sequence[str], *, tell: bool = True) -> dict[str, bytes]:
        """What the broker keeps under these topics or filters now, by topic.

        Args:
            filters: topics or filters; a topic under which nothing is kept is absent afterwards.
            tell: warn, once for a connection, where the answer may be cut short.

        Raises:
            TransferError: the connection was lost for long, or messages never end.
        """
        if not filters:
            return {}
        fence = self.topics.fence(secrets.token_hex(8))
        found: dict[str, bytes] = {}
        self._link.subscribe([*filters, fence])
        try:
            complete = self._until_fence(filters, fence, found)
        finally:
            self._link.unsubscribe([*filters, fence])
        if not complete:
            # A fence that MQTT 5 says is forbidden must not fail what is sent later.
            with suppress(TransferError):
                self._link.flush(0.0)
        if tell and not complete and not self._told:
            self._told = True
            log.warning(
                "broker %s: %d retained messages came, but it did not confirm that these are "
                "all: either it dropped some (mosquitto: max_queued_messages), or this user may "
                "not write and read %s",
                self.address,
                len(found),
                f"{self.topics.prefix}/fleet/fence/+",
            )
        return {topic: payload for topic, payload in found.items() if payload}

    def _until_fence(self, filters: Sequence[str], fence: str, found: dict[str, bytes]) -> bool:
        """Collect into `found`; whether the first fence came back."""
        kept_s = heard_s = fenced_s = time.monotonic()
        tries = 1
        self._link.publish(fence, b"1")
        while True:
            message = self.receive(FENCE_AGAIN_S / 4)
            now_s = time.monotonic()
            if message is not None and message.topic == fence:
                # A later fence says that the line works, not that nothing was dropped before.
                return message.payload == b"1"
            if message is not None and any(matches(f, message.topic) for f in filters):
                found[message.topic] = message.payload
                heard_s = now_s
                # On a slow line much takes long; what is published meanwhile need never end.
                kept_s = now_s if message.retain else kept_s
            if now_s - kept_s > READ_S:
                raise TransferError(
                    f"broker {self.address}: still sending after {READ_S:g} s, "
                    f"{len(found)} messages so far"
                )
            if now_s - heard_s > self._quiet_s:
                return False
            if now_s - max(heard_s, fenced_s) > FENCE_AGAIN_S:
                tries += 1
                fenced_s = now_s
                self._link.publish(fence, str(tries).encode())

    def listen(self, filters: Sequence[str]) -> None:
        """Subscribe; messages come out of `receive`, the retained ones first."""
        self._link.subscribe(filters)

    def receive(self, wait_s: float) -> Message | None:
        """The next message, or None after `wait_s`.

        Raises:
            TransferError: the connection is lost, and stays so for `timeout_s`.
        """
        try:
            return self._inbox.get_nowait()
        except queue.Empty:
            self._link.wait_connected(self.timeout_s)
        try:
            return self._inbox.get(timeout=wait_s)
        except queue.Empty:
            return None
