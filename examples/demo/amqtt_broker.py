"""amqtt with four of its faults mended, each of which silently cost a client its messages.

1. A CONNECT of MQTT 5 was waited for without end; now it is refused, so that clients fall back.
2. A new client was sent what everybody else has subscribed to.
3. Another client's subscription in the midst of that ended the new client's task.
4. A client that came back within a second lost its new session, or its subscriptions, to the
   clearing up of its old one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType
from amqtt.session import Session

LISTENER = "default"
MQTT_3_1_1 = 4
CONNACK_VERSION_REFUSED = bytes([0x20, 2, 0, 1])


class _SnapshotDict(dict[str, Any]):
    """Iterates over the keys that it held at the start."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().__iter__()))


class MendedBroker(Broker):  # type: ignore[misc, unused-ignore]
    """A broker without a port of its own: `serve` takes each connection."""

    def __init__(self) -> None:
        super().__init__(
            BrokerConfig(
                listeners={LISTENER: ListenerConfig(type=ListenerType.EXTERNAL)},
                plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {}},
            )
        )
        self._subscriptions = _SnapshotDict()  # 3

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, from its first byte to its last."""
        with suppress(OSError, EOFError):
            head = await _connect_head(reader)
            if head[-1] > MQTT_3_1_1:  # 1
                writer.write(CONNACK_VERSION_REFUSED)
                await writer.drain()
                writer.close()
                return
            await self.external_connected(
                _HeadedReader(reader, head), StreamWriterAdapter(writer), LISTENER
            )

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        holders = self._subscriptions.get(subscription[0], ())
        if any(holder.client_id == session.client_id for holder, _ in holders):  # 2
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def _cleanup_session(self, client_id: str) -> None:
        session, handler = self._sessions.get(client_id, (None, None))
        if session is None or (
            self.transitions.is_started() and session.transitions.state != "disconnected"
        ):
            return  # 4: the client is back
        del self._sessions[client_id]
        await self._del_all_subscriptions(session)  # 4: before anything that waits
        session.clear_queues()
        if handler is not None:
            await self._stop_handler(handler)


class _HeadedReader(StreamReaderAdapter):  # type: ignore[misc, unused-ignore]
    """Gives back what was read ahead."""

    def __init__(self, reader: asyncio.StreamReader, head: bytes) -> None:
        super().__init__(reader)
        self._head = head

    async def read(self, n: int = -1) -> bytes:
        """`n` bytes, those read ahead first."""
        head, self._head = (self._head, b"") if n < 0 else (self._head[:n], self._head[n:])
        if n < 0 or len(head) < n:
            head += await super().read(n if n < 0 else n - len(head))
        return head


async def _connect_head(reader: asyncio.StreamReader) -> bytes:
    """A CONNECT packet up to its protocol level, which is the last byte here."""
    head = await reader.readexactly(2)
    while head[-1] & 0x80 and len(head) < 5:
        head += await reader.readexactly(1)
    name_size = await reader.readexactly(2)
    head += name_size
    return head + await reader.readexactly(min(int.from_bytes(name_size, "big"), 6) + 1)
