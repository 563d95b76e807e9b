"""A link over MQTT 5 or 3.1.1; the only module that knows the MQTT library.

One thread per link owns the library: publishers and subscribers leave their wishes in the session
and wake it. Every connection gets a new library client with a clean session, because everything
that must outlive a connection is kept in `Session`, where it is bounded.

The thread sleeps in `poll` until there is something to do, so an idle link costs a wake-up every
few seconds. It connects again with full jitter, for as long as the link is open.
"""

from __future__ import annotations

import logging
import random
import select
import socket
import threading
import time

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_runtime.errors import EdgeError
from edge_runtime.link.backoff import Backoff
from edge_runtime.link.base import Connector, Message, OnConnection, OnMessage, Will
from edge_runtime.link.config import BrokerConfig
from edge_runtime.link.outbox import Outbox, Outgoing
from edge_runtime.link.session import Session, Wish
from edge_runtime.link.waker import Waker

log = logging.getLogger(__name__)

MAX_TOPICS_PER_SUBSCRIBE = 8
"""What the strictest cloud broker takes in one packet."""
PACKET_SLACK = 4
"""A packet of this many times `max_payload_bytes` costs the broker its connection."""
READ_BYTES = 64 << 10
"""Asked of the socket at a time; the library would make a buffer for all that a packet claims."""
UNSUPPORTED_VERSION = 132
"""CONNACK reason "Unsupported protocol version"."""
MAX_SLEEP_S = 10.0
MQTT5_PATIENCE_S = 3.0
"""An old broker may take MQTT 5 for a packet that is not complete yet, and stay silent."""
CLOSE_S = 2.0
"""How long `close` waits for the goodbye to leave."""


def connector(config: BrokerConfig) -> Connector:
    """Makes links to the broker of `config`."""

    def connect(
        client_id: str,
        on_message: OnMessage,
        on_connection: OnConnection | None = None,
        *,
        will: Will | None = None,
    ) -> MqttLink:
        return MqttLink(config, client_id, on_message, on_connection, will=will)

    return connect


class MqttLink(Session):
    """A connection to a real broker. See `edge_runtime.link.base.Link` for what it promises."""

    def __init__(
        self,
        config: BrokerConfig,
        client_id: str,
        on_message: OnMessage,
        on_connection: OnConnection | None = None,
        *,
        will: Will | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(
            config.address,
            on_message,
            on_connection,
            Outbox(max_messages=config.max_outbound_messages, max_bytes=config.max_outbound_bytes),
            max_payload_bytes=config.max_payload_bytes,
        )
        self.config = config
        self.client_id = client_id
        self.will = will
        self.waker = Waker()
        self.closing = threading.Event()
        self._backoff = Backoff(base_s=config.backoff_base_s, cap_s=config.backoff_cap_s, rng=rng)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Connect in the background, and again after every loss, until `close`."""
        if self._thread is not None or self.closing.is_set():
            raise RuntimeError("the link was started or closed before")
        self._thread = threading.Thread(
            target=self._run, name=f"link-{self.client_id}", daemon=True
        )
        self._thread.start()

    def close(self, flush_s: float = 0.0) -> None:
        """Deliver for up to `flush_s`, say goodbye, end the thread."""
        own = self._thread is threading.current_thread()
        if self._thread is not None and not own and not self.closing.is_set() and flush_s > 0:
            self.outbox.wait_empty(flush_s)
        self.outbox.close()
        self.closing.set()
        self._wake()
        if self._thread is None:
            self.waker.close()
        elif not own:
            # A name look-up may hang for longer; the thread is a daemon and ends by itself.
            self._thread.join(timeout=CLOSE_S)

    def _wake(self) -> None:
        self.waker.set()

    def _run(self) -> None:
        """Connect, serve, wait, again.

        "auto" means MQTT 5, except after the broker has refused it in so many words, and except
        for the one attempt after a connection that met silence, which is an old broker's way.
        """
        mqtt5 = self.config.version != "3.1.1"
        once_old = False
        while not self.closing.is_set():
            connection = _Connection(self, mqtt5=mqtt5 and not once_old)
            started_s = time.monotonic()
            reason = connection.run()
            if self.closing.is_set():
                break
            once_old = False
            if self.config.version == "auto" and connection.mqtt5:
                if connection.version_refused:
                    mqtt5 = False
                    continue
                once_old = connection.met_silence
            self.went_down(reason)
            self._backoff.lasted(time.monotonic() - started_s if connection.accepted else 0.0)
            self.closing.wait(self._backoff.next_s())
        self.ended()
        self.waker.close()


class _Client(Client):
    """Gives up on a packet that would fill our memory, before it has arrived.

    The library has no bound of its own, and no public name for a packet half read. It may read
    the length of one and all of its content in a single call, so the bound belongs where it asks
    the socket for more.
    """

    max_packet_bytes = 0

    def _sock_recv(self, bufsize: int) -> bytes:
        self.check_packet()
        return super()._sock_recv(min(bufsize, READ_BYTES))

    def check_packet(self) -> None:
        """Raises OSError: the packet that is being read is too large."""
        size = getattr(self, "_in_packet", {}).get("remaining_length", 0)
        if size > self.max_packet_bytes:
            raise OSError(
                f"broker sent a packet of {size} bytes, at most {self.max_packet_bytes} are "
                "accepted"
            )


class _Connection:
    """One TCP connection: a library client and the loop that drives it."""

    def __init__(self, link: MqttLink, *, mqtt5: bool) -> None:
        self._link = link
        self._client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=link.client_id,
            clean_session=None if mqtt5 else True,
            protocol=MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self._tokens: dict[int, int] = {}  # library's message id → outbox token
        self._asked: dict[int, list[str]] = {}  # library's message id → topics
        self._max_in_flight = link.config.max_in_flight
        self._reason = ""
        self.mqtt5 = mqtt5
        self.accepted = False
        self.version_refused = False
        self.met_silence = False

    def run(self) -> str:
        """Connect and serve until the connection ends; returns why it did, for people."""
        try:
            self._prepare()
            self._open()
            code = self._loop()
            self.met_silence = not self.accepted and not self._reason
            self._reason = self._reason or _code_text(code)
        except (OSError, EdgeError) as error:
            self._reason = self._reason or _error_text(error)
        except Exception as error:  # The library trips over bytes that are not MQTT.
            log.debug("mqtt library failed", exc_info=True)
            self._reason = f"unreadable answer, or a host name ({type(error).__name__})"
        finally:
            sock = self._client.socket()
            if sock is not None:
                sock.close()
        return self._reason

    def _prepare(self) -> None:
        link, client = self._link, self._client
        client.connect_timeout = link.config.connect_timeout_s
        client.max_packet_bytes = link.config.max_payload_bytes * PACKET_SLACK
        client.max_inflight_messages = 0  # The outbox counts; the library need not.
        if link.config.username is not None:
            client.username_pw_set(link.config.username, link.config.password)
        if link.config.tls:
            client.tls_set_context(link.config.tls_context())
        if link.will is not None:
            will = link.will
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        # With this set the library leaves every write to our loop.
        client.on_socket_register_write = lambda _client, _data, _sock: None

    def _open(self) -> None:
        config = self._link.config
        properties = None
        if self.mqtt5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = self._client.max_packet_bytes
        self._client.connect(
            config.host, config.port, keepalive=config.keepalive_s, properties=properties
        )

    def _loop(self) -> MQTTErrorCode:
        link, client = self._link, self._client
        sock = client.socket()
        if not isinstance(sock, socket.socket):
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        # Small messages must not wait for the acknowledgement of those before them.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sleep_s = min(MAX_SLEEP_S, link.config.keepalive_s / 3)
        patience_s = link.config.connect_timeout_s
        if self.mqtt5 and link.config.version == "auto":
            patience_s = min(patience_s, MQTT5_PATIENCE_S)
        deadline_s = time.monotonic() + patience_s
        goodbye = False
        while True:
            left_s = sleep_s if self.accepted else deadline_s - time.monotonic()
            code = self._step(sock, max(0.0, min(sleep_s, left_s)))
            if code or client.socket() is None:
                return code
            if not self.accepted:
                if link.closing.is_set():
                    return code
                if time.monotonic() >= deadline_s:
                    self.met_silence = True
                    raise OSError(f"no answer to an MQTT connect within {patience_s:g} s")
            elif link.closing.is_set():
                if not goodbye:
                    goodbye = True
                    client.disconnect()
            else:
                self._tell_wishes()
                self._send_waiting()

    def _step(self, sock: socket.socket, sleep_s: float) -> MQTTErrorCode:
        """Sleep until there is something to do, then read, write and keep alive."""
        client, waker = self._client, self._link.waker
        poll = select.poll()
        poll.register(waker, select.POLLIN)
        poll.register(sock, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
        # What TLS has decrypted already does not show on the descriptor.
        pending = getattr(sock, "pending", int)() > 0
        ready = dict(poll.poll(0 if pending else sleep_s * 1000))
        waker.clear()
        events = ready.get(sock.fileno(), 0)
        code = MQTTErrorCode.MQTT_ERR_SUCCESS
        if pending or events & ~select.POLLOUT:
            code = client.loop_read()
            client.check_packet()  # The library says only that the connection is lost.
        if not code and events & select.POLLOUT:
            code = client.loop_write()
        return code or client.loop_misc()

    def _tell_wishes(self) -> None:
        while (wish := self._link.next_wish()) is not None:
            if wish.subscribe:
                self._subscribe(wish)
            else:
                self._client.unsubscribe(list(wish.topics))

    def _subscribe(self, wish: Wish) -> None:
        for start in range(0, len(wish.topics), MAX_TOPICS_PER_SUBSCRIBE):
            batch = list(wish.topics[start : start + MAX_TOPICS_PER_SUBSCRIBE])
            _, mid = self._client.subscribe([(topic, wish.qos) for topic in batch])
            if mid is not None:
                self._asked[mid] = batch

    def _send_waiting(self) -> None:
        while (taken := self._link.outbox.take(self._max_in_flight)) is not None:
            token, message = taken
            info = self._client.publish(
                message.topic,
                message.payload,
                qos=message.qos,
                retain=message.retain,
                properties=self._publish_properties(message),
            )
            self._tokens[info.mid] = token

    def _publish_properties(self, message: Outgoing) -> Properties | None:
        if not self.mqtt5 or (message.response_topic is None and message.correlation is None):
            return None
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if message.response_topic is not None:
            properties.ResponseTopic = message.response_topic
        if message.correlation is not None:
            properties.CorrelationData = message.correlation
        return properties

    def _on_connect(
        self,
        _client: Client,
        _data: object,
        _flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._reason = f"refused: {reason}"
            self.version_refused = reason.value == UNSUPPORTED_VERSION
            return
        self.accepted = True
        allowed = getattr(properties, "ReceiveMaximum", self._max_in_flight)
        self._max_in_flight = min(self._max_in_flight, allowed)
        self._link.went_up("MQTT 5" if self.mqtt5 else "MQTT 3.1.1")

    def _on_disconnect(
        self,
        _client: Client,
        _data: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._reason = f"broker ended the connection: {reason}"

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            self._link.drop_in("topic is not UTF-8", len(message.payload))
            return
        properties = message.properties
        self._link.deliver(
            Message(
                topic=topic,
                payload=bytes(message.payload),
                retain=bool(message.retain),
                response_topic=getattr(properties, "ResponseTopic", None),
                correlation=getattr(properties, "CorrelationData", None),
            )
        )

    def _on_publish(
        self,
        _client: Client,
        _data: object,
        mid: int,
        reason: ReasonCode,
        _properties: Properties,
    ) -> None:
        token = self._tokens.pop(mid, None)
        if token is not None:
            self._link.outbox.acknowledge(token, forbidden=reason.is_failure)

    def _on_subscribe(
        self,
        _client: Client,
        _data: object,
        mid: int,
        reasons: list[ReasonCode],
        _properties: Properties,
    ) -> None:
        topics = self._asked.pop(mid, [])
        failed = {t: r for t, r in zip(topics, reasons, strict=False) if r.is_failure}
        if failed:
            self._link.subscription_refused(list(failed), str(next(iter(failed.values()))))


def _error_text(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _code_text(code: MQTTErrorCode) -> str:
    if code == MQTTErrorCode.MQTT_ERR_KEEPALIVE:
        return "broker stopped answering"
    if code == MQTTErrorCode.MQTT_ERR_PROTOCOL:
        return "broker's bytes are not MQTT"
    return "connection lost"
