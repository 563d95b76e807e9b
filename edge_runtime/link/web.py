"""A repository on a web server, over HTTP/1.1, for a device that believes nothing of it.

What a server may stretch is bounded: the time to connect, every wait for bytes, the whole of a
request, the bytes of its head, and its body before it is read. Bodies come as they are: none is
asked for compressed, and one that comes so all the same is refused. Redirects are followed from
https to https alone, a few. Proxies that the environment names are not used: MQTT has none either,
and a service's environment is no place to look for one.

Connections stay open for the next request, as many as threads asked at the same time. One that the
server closed meanwhile is replaced unseen. `http.client` reads the answers; the connections are
ours, for it bounds each wait and not the whole.
"""

from __future__ import annotations

import io
import socket
import ssl
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, cast

from edge_runtime.errors import EdgeError, MetadataError, TransferError
from edge_runtime.link.address import NO_FILES, TlsFiles, WebAddress
from edge_runtime.link.config import client_context

MAX_HEAD_BYTES = 32 << 10
MAX_NOTE_BYTES = 16 << 10
"""Of an error page, read and thrown away so that its connection can serve on."""
MAX_REDIRECTS = 3
MAX_IDLE = 8
NOT_THERE = frozenset((403, 404, 410))
"""Object stores say 403 of what is not there to whoever may not list."""
REDIRECTS = frozenset((301, 302, 303, 307, 308))


@dataclass(frozen=True, slots=True)
class Timeouts:
    """For each address that is tried, for each wait for bytes, for all of a request."""

    connect_s: float = 10.0
    read_s: float = 15.0
    whole_s: float = 120.0


class _TooMuch(Exception):
    """The server sends more than an answer can have."""


class _Stale(Exception):
    """A connection that had been left open turned out to be closed."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    location: str
    body: bytes


class _Incoming(io.RawIOBase):
    """What the server sends in answer to one request, bounded in time and bytes."""

    def __init__(self, sock: socket.socket, read_s: float, end_s: float, max_bytes: int) -> None:
        self._sock = sock
        self._read_s = read_s
        self._end_s = end_s
        self._left = max_bytes
        self.ended = False

    def makefile(self, _mode: str) -> io.BufferedReader:
        """All that HTTPResponse wants of a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wait_s = min(self._read_s, self._end_s - time.monotonic())
        if self._left <= 0:
            raise _TooMuch
        if wait_s <= 0:
            raise TimeoutError
        self._sock.settimeout(wait_s)
        count = self._sock.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        self.ended = count == 0
        return count


class _Connection:
    """One connection to one server, for one request at a time."""

    def __init__(self, address: WebAddress, timeouts: Timeouts, tls: ssl.SSLContext | None) -> None:
        self.origin = (address.tls, address.host, address.port)
        self._timeouts = timeouts
        self._tls = tls
        self._sock: socket.socket | None = None
        self._aborted = False
        self.reusable = False

    def open(self, end_s: float) -> None:
        """Connect, to the first of the host's addresses that can be reached. Raises OSError."""
        _, host, port = self.origin
        failure: OSError = TimeoutError()
        for family, kind, protocol, _, where in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            wait_s = min(self._timeouts.connect_s, end_s - time.monotonic())
            if wait_s <= 0 or self._aborted:
                break
            try:
                self._sock = socket.socket(family, kind, protocol)
                self._sock.settimeout(wait_s)
                self._sock.connect(where)
                break
            except OSError as reason:
                failure = reason
                self.close()
        if self._sock is None:
            raise failure
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            # In two steps, so that `abort` finds the socket that a handshake waits for.
            secure = self._tls.wrap_socket(
                self._sock, server_hostname=host, do_handshake_on_connect=False
            )
            self._sock = secure
            secure.do_handshake()

    def ask(self, address: WebAddress, max_bytes: int, end_s: float) -> _Answer:
        """The answer to GET; its body is empty unless the status is 200.

        Raises:
            OSError, HTTPException, ValueError, _TooMuch: the server's or the network's fault.
            _Stale: try again with another connection.
            TransferError, MetadataError: an answer that is not wanted.
        """
        reused, self.reusable = self.reusable, False
        sock = self._sock
        if sock is None:
            raise RuntimeError("the connection is not open")
        # A body in pieces has some bytes around each.
        bound = MAX_HEAD_BYTES + 2 * max(max_bytes, MAX_NOTE_BYTES)
        incoming = _Incoming(sock, self._timeouts.read_s, end_s, bound)
        with closing(HTTPResponse(cast(socket.socket, incoming), method="GET")) as response:
            try:
                sock.settimeout(self._timeouts.read_s)
                sock.sendall(_request(address))
                response.begin()
            except TimeoutError:
                raise
            except OSError:
                if reused:
                    raise _Stale from None
                raise
            if incoming.ended:
                raise HTTPException("the head of the answer was cut off")
            body = b""
            if response.status == 200:
                body = self._body(response, address, max_bytes)
            elif response.length is not None and response.length <= MAX_NOTE_BYTES:
                response.read(MAX_NOTE_BYTES)
            self.reusable = response.isclosed() and not response.will_close
            return _Answer(response.status, response.getheader("Location") or "", body)

    def _body(self, response: HTTPResponse, address: WebAddress, max_bytes: int) -> bytes:
        for name, plain in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
            if (found := response.getheader(name, plain)).lower() != plain:
                raise TransferError(
                    f"{address.url}: sent with {name} {found[:40]!r}, which was not asked for"
                )
        stated = response.length
        data = b""
        if stated is None or stated <= max_bytes:
            data = response.read(max_bytes + 1)
        if len(data) > max_bytes or (stated or 0) > max_bytes:
            raise MetadataError(f"{address.url}: has more than {max_bytes} bytes")
        if stated is not None and len(data) < stated:
            raise TransferError(f"{address.url}: cut off after {len(data)} of {stated} bytes")
        return data

    def abort(self) -> None:
        """From another thread: whoever waits for this connection waits no more."""
        self._aborted = True
        sock = self._sock
        if sock is not None:
            with suppress(OSError):
                # The plain one's method: TLS has nothing to say any more, and is not for two.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """By the thread that uses it."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()


class WebPlace:
    """The files under a URL. See `edge_runtime.link.repository.Place` for what it promises.

    Looking up a host's name is bounded by the system's resolver, some tens of seconds, alone.

    Raises:
        InputError: one of `files` is not usable.
    """

    def __init__(
        self, address: WebAddress, files: TlsFiles = NO_FILES, timeouts: Timeouts | None = None
    ) -> None:
        self._address = address
        self._files = files
        self._timeouts = timeouts or Timeouts()
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._closed = False
        # The system's authorities take 20 ms and a megabyte to load: when first needed.
        self._tls = client_context(files.ca, files.cert, files.key) if files != NO_FILES else None

    @property
    def address(self) -> str:
        """The URL; it holds no secret."""
        return self._address.url

    def get(self, path: str, max_bytes: int) -> bytes | None:
        """What the server has at `path`.

        Raises:
            TransferError, MetadataError: see `Place`.
        """
        where = self._address.file(path)
        end_s = time.monotonic() + self._timeouts.whole_s
        try:
            for _ in range(MAX_REDIRECTS + 1):
                answer = self._ask(where, max_bytes, end_s)
                if answer.status not in REDIRECTS:
                    break
                where = where.redirected(answer.location)
        except EdgeError:
            raise
        except TimeoutError:
            raise TransferError(f"{where.url}: did not answer in time") from None
        except _TooMuch:
            raise TransferError(f"{where.url}: sends more than it may") from None
        except (OSError, HTTPException, ValueError) as reason:
            raise TransferError(f"{where.url}: cannot be fetched ({_why(reason)})") from None
        if answer.status == 200:
            return answer.body
        if answer.status in NOT_THERE:
            return None
        raise TransferError(f"{where.url}: answered with status {answer.status}, expected 200")

    def _ask(self, where: WebAddress, max_bytes: int, end_s: float) -> _Answer:
        while True:
            connection = self._take(where)
            try:
                if not connection.reusable:
                    connection.open(end_s)
                return connection.ask(where, max_bytes, end_s)
            except _Stale:
                continue
            finally:
                self._put_back(connection)

    def _take(self, where: WebAddress) -> _Connection:
        """One that is idle, the last used first, or one to be opened."""
        origin = (where.tls, where.host, where.port)
        with self._lock:
            if self._closed:
                raise TransferError(f"{self.address}: is not asked any more")
            for connection in reversed(self._idle):
                if connection.origin == origin:
                    self._idle.remove(connection)
                    break
            else:
                if where.tls and self._tls is None:
                    self._tls = client_context(None, None, None)
                connection = _Connection(where, self._timeouts, self._tls if where.tls else None)
            self._busy.add(connection)
            return connection

    def _put_back(self, connection: _Connection) -> None:
        surplus = connection
        with self._lock:
            self._busy.discard(connection)
            if connection.reusable and not self._closed:
                self._idle.append(connection)
                if len(self._idle) <= MAX_IDLE:
                    return
                surplus = self._idle.pop(0)
        surplus.close()

    def rest(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """For ever; from any thread."""
        with self._lock:
            self._closed = True
            busy = list(self._busy)
        for connection in busy:
            connection.abort()
        self.rest()


def _request(address: WebAddress) -> bytes:
    return (
        f"GET {address.path} HTTP/1.1\r\nHost: {address.authority}\r\n"
        "Accept: */*\r\nAccept-Encoding: identity\r\nUser-Agent: edge-runtime\r\n\r\n"
    ).encode("ascii")


def _why(reason: Exception) -> str:
    """In a few words; of what the server said, nothing that acts on a terminal."""
    match reason:
        case ssl.SSLCertVerificationError():
            return f"certificate: {reason.verify_message}"
        case ssl.SSLError():
            return f"TLS: {reason.reason or 'connection closed'}"
        case ConnectionError():
            return "connection closed" if reason.strerror is None else reason.strerror
        case OSError():
            return reason.strerror or "network failure"
        case _:
            return "not HTTP, or cut off"
