"""A broker in memory, and links to it, for tests: the same promises as MQTT, and no time.

Nothing happens until `MemoryBroker.pump` is called, and then everything does, in an order that
depends on nothing but the calls made before: connects, then rounds in which every link tells its
wishes, publishes, and receives one message, until nobody has anything left to do. Waiting on a
link (`flush`, `wait_connected`) pumps instead of waiting.

The broker has the habits that cost real fleets data: a bounded queue per client that drops
without a word (so a wildcard subscription to many retained chunks loses some), retained messages
sent again after every reconnect, duplicates and losses where a test asks for them. `publish` may
be called from any thread; everything else belongs to the test's thread and to handlers.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge_runtime.link.base import Message, OnConnection, OnMessage, Will
from edge_runtime.link.outbox import Outbox, Outgoing
from edge_runtime.link.session import Session
from edge_runtime.link.topics import matches

MAX_ROUNDS = 1_000_000
"""Handlers that answer each other for ever are a bug of the test or of what it tests."""

Effect = Callable[[Message], Sequence[Message]]


def lose(_message: Message) -> Sequence[Message]:
    """Fault: the message never arrives."""
    return ()


def duplicate(message: Message) -> Sequence[Message]:
    """Fault: the message arrives twice, as QoS 1 allows."""
    return (message, message)


def corrupt(message: Message) -> Sequence[Message]:
    """Fault: the first byte arrives inverted."""
    head = message.payload[:1] or b"\0"
    return (replace(message, payload=bytes([head[0] ^ 0xFF]) + message.payload[1:]),)


def reorder(message: Message) -> Sequence[Message]:
    """Fault: the message overtakes the one queued before it. Marks it; the queue obeys."""
    return (message,)


@dataclass(slots=True)
class Fault:
    """`effect` on the next `times` deliveries of `topic_filter`, to `client_id` or to anyone."""

    effect: Effect
    topic_filter: str = "#"
    times: int = 1
    client_id: str | None = None

    def strikes(self, client_id: str, topic: str) -> bool:
        """Whether this delivery is hit; counts it."""
        hit = (
            self.times > 0
            and self.client_id in (None, client_id)
            and matches(self.topic_filter, topic)
        )
        self.times -= hit
        return hit


class MemoryBroker:
    """Retained messages, wildcards, wills, bounded queues."""

    def __init__(self, *, queue_limit: int = 1000, mqtt5: bool = True) -> None:
        self.retained: dict[str, Message] = {}
        self.faults: list[Fault] = []
        self.dropped = 0
        self.delivered: Counter[str] = Counter()
        self.delivered_bytes: Counter[str] = Counter()
        self._queue_limit = queue_limit
        self._mqtt5 = mqtt5
        self._online = True
        self._cut_off: set[str] = set()
        self._links: list[MemoryLink] = []
        self._pumping = threading.Lock()
        self._pumping_thread: int | None = None

    def link(
        self,
        client_id: str,
        on_message: OnMessage,
        on_connection: OnConnection | None = None,
        *,
        will: Will | None = None,
        max_payload_bytes: int = 1 << 20,
        max_outbound_messages: int = 1000,
    ) -> MemoryLink:
        """A link to this broker, not started; fits `base.Connector`."""
        link = MemoryLink(
            self,
            client_id,
            on_message,
            on_connection,
            will=will,
            max_payload_bytes=max_payload_bytes,
            max_outbound_messages=max_outbound_messages,
        )
        self._links.append(link)
        return link

    def go_offline(self) -> None:
        """Every connection breaks; the broker is gone, so no will is sent."""
        self._online = False
        for link in self._links:
            link.lose_connection("broker went away")

    def go_online(self, *, forget_retained: bool = False) -> None:
        """Accept connections again at the next `pump`; without persistence all was forgotten."""
        self._online = True
        if forget_retained:
            self.retained.clear()

    def cut_off(self, client_id: str) -> None:
        """This client's network is gone: its will is sent, and it cannot connect until `reach`."""
        self._cut_off.add(client_id)
        self.drop(client_id)

    def reach(self, client_id: str) -> None:
        """This client's network is back."""
        self._cut_off.discard(client_id)

    def drop(self, client_id: str) -> None:
        """Break one connection: its will is sent, and it connects again at the next `pump`."""
        for link in self._links:
            if link.client_id == client_id and link.is_connected:
                self._send_will(link)
                link.lose_connection("connection lost")

    def kill(self, client_id: str) -> None:
        """Like `drop`, for a client that lost its power: it does not come back."""
        self.drop(client_id)
        self._links = [link for link in self._links if link.client_id != client_id]

    def pump(self) -> int:
        """Run until nobody has anything to do; how many messages were delivered.

        Raises:
            RuntimeError: called from a handler, or the handlers never come to rest.
        """
        if self._pumping_thread == threading.get_ident():
            raise RuntimeError("pump in a handler would wait for itself")
        with self._pumping:
            self._pumping_thread = threading.get_ident()
            try:
                self._connect_links()
                delivered = 0
                for _ in range(MAX_ROUNDS):
                    moved = [self._serve(link) for link in list(self._links)]
                    delivered += sum(received for _, received in moved)
                    if not any(sent + received for sent, received in moved):
                        return delivered
                raise RuntimeError(f"links still busy after {MAX_ROUNDS} rounds")
            finally:
                self._pumping_thread = None

    def _connect_links(self) -> None:
        for link in [link for link in self._links if link.wants_connection]:
            if not self._online or link.client_id in self._cut_off:
                link.went_down("connection refused")
            else:
                for other in self._links:
                    if other.client_id == link.client_id and other.is_connected:
                        other.lose_connection("session taken over")
                link.gain_connection()

    def _serve(self, link: MemoryLink) -> tuple[int, int]:
        """One round of one link: what it sent (wishes included) and received."""
        if not link.is_connected:
            return 0, 0
        sent = 0
        while (wish := link.next_wish()) is not None:
            sent += 1
            for topic in wish.topics:
                if wish.subscribe:
                    self._subscribe(link, topic)
                else:
                    link.subscribed.discard(topic)
        while (taken := link.outbox.take(1)) is not None:
            sent += 1
            token, message = taken
            self._route(message)
            link.outbox.acknowledge(token)
        if not link.queue:
            return sent, 0
        delivery = link.queue.popleft()
        self.delivered[link.client_id] += 1
        self.delivered_bytes[link.client_id] += len(delivery.payload)
        link.deliver(delivery)
        return sent, 1

    def _subscribe(self, link: MemoryLink, topic_filter: str) -> None:
        link.subscribed.add(topic_filter)
        for topic, message in list(self.retained.items()):
            if matches(topic_filter, topic):
                self._queue(link, message)

    def _route(self, sent: Outgoing) -> None:
        message = Message(
            sent.topic,
            sent.payload,
            response_topic=sent.response_topic if self._mqtt5 else None,
            correlation=sent.correlation if self._mqtt5 else None,
        )
        if sent.retain and sent.payload:
            self.retained[sent.topic] = replace(message, retain=True)
        elif sent.retain:
            self.retained.pop(sent.topic, None)
        for link in self._links:
            if link.is_connected and any(matches(f, sent.topic) for f in link.subscribed):
                self._queue(link, message)

    def _queue(self, link: MemoryLink, message: Message) -> None:
        arrivals: Sequence[Message] = (message,)
        overtake = False
        for fault in self.faults:
            if fault.strikes(link.client_id, message.topic):
                arrivals = [after for before in arrivals for after in fault.effect(before)]
                overtake = overtake or fault.effect is reorder
        for arrival in arrivals:
            if len(link.queue) >= self._queue_limit:
                self.dropped += 1
            elif overtake:
                link.queue.insert(max(0, len(link.queue) - 1), arrival)
            else:
                link.queue.append(arrival)

    def _send_will(self, link: MemoryLink) -> None:
        if link.will is not None:
            will = link.will
            link.subscribed.clear()
            self._route(Outgoing(will.topic, will.payload, will.qos, will.retain))


class MemoryLink(Session):
    """A link to a `MemoryBroker`. See `edge_runtime.link.base.Link` for what it promises."""

    def __init__(
        self,
        broker: MemoryBroker,
        client_id: str,
        on_message: OnMessage,
        on_connection: OnConnection | None = None,
        *,
        will: Will | None = None,
        max_payload_bytes: int = 1 << 20,
        max_outbound_messages: int = 1000,
    ) -> None:
        super().__init__(
            "memory:1883",
            on_message,
            on_connection,
            Outbox(max_messages=max_outbound_messages, max_bytes=8 << 20),
            max_payload_bytes=max_payload_bytes,
        )
        self.client_id = client_id
        self.will = will
        self._broker = broker
        # What the broker holds for this connection: messages to deliver, and filters.
        self.queue: deque[Message] = deque()
        self.subscribed: set[str] = set()
        self._started = False
        self._closed = False

    @property
    def is_connected(self) -> bool:
        """Whether the broker talks to it."""
        return self._stats.connected

    @property
    def wants_connection(self) -> bool:
        """Whether the broker should let it in at the next `pump`."""
        return self._started and not self._closed and not self.is_connected

    def start(self) -> None:
        """Connect at the next `pump`, and again after every loss, until `close`."""
        if self._started or self._closed:
            raise RuntimeError("the link was started or closed before")
        self._started = True

    def close(self, flush_s: float = 0.0) -> None:
        """Deliver if `flush_s`, say goodbye."""
        if self._closed:
            return
        if flush_s > 0 and self._handler_thread is None:
            self._broker.pump()
        self._closed = True
        self.outbox.close()
        self._forget()
        self.ended()

    def gain_connection(self) -> None:
        """The broker let it in, with a clean session."""
        self._forget()
        self.went_up("memory")

    def lose_connection(self, reason: str) -> None:
        """What the broker held for it is lost; retained messages come again."""
        if self.is_connected:
            self._forget()
            self.went_down(reason)

    def _forget(self) -> None:
        self.queue.clear()
        self.subscribed.clear()

    def _before_wait(self, timeout_s: float) -> float:
        self._broker.pump()
        return 0.0
