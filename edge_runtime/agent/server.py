"""HTTP/1.1 for the local API: connections, their limits, and how they survive a swap.

One thread serves one connection. Everything a client may stretch is bounded: connections, the
head's bytes, the body's bytes before they are read, and the time in which a request must have
arrived whole. An answer leaves in one write.

A head is held to RFC 9112's grammar, byte by byte, before a header is believed: Python's parser
ends at the first line that it cannot read and drops the rest, so that a proxy in front of us could
see another end of the body than we do, and its next client's request would be ours to choose.

`drain` ends a server without failing anybody: it stops accepting, lets requests finish, and hands
every connection that is idle, whole, to `hand_over`, which passes it to the next worker. What a
client sends meanwhile waits in the socket and goes along.
"""

from __future__ import annotations

import io
import logging
import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

from edge_runtime.agent.config import ApiConfig
from edge_runtime.agent.openinference import RETRY_AFTER_S, Request, Response, error

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 32 << 10
LINGER_S = 1.0
LINGER_BYTES = 1 << 20
REFUSALS = 16
"""Connections above the limit that may be told so at the same time; the rest wait."""


_REQUEST_LINE = re.compile(rb"[!-~]+ [!-~]+ HTTP/[0-9]\.[0-9]\r\n")
_HEADER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n")
"""A token, a colon at once, and no control character: no bare CR, no NUL, nothing folded."""


class _Late(Exception):
    """The client took too long to send its request."""


class _TooLong(Exception):
    """The head of a request is larger than allowed."""


class _Input(io.RawIOBase):
    """What a client sends, bounded in time and bytes for each request."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._deadline_s: float | None = None
        self._left = 0

    def arm(self, deadline_s: float | None, max_bytes: int | None = None) -> None:
        """From now on at most `max_bytes` (None: what is left), until `deadline_s`.

        Without a deadline only what is there already is read.
        """
        self._deadline_s = deadline_s
        if max_bytes is not None:
            self._left = max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._left <= 0:
            raise _TooLong
        wait_s = 0.0
        if self._deadline_s is not None:
            wait_s = self._deadline_s - time.monotonic()
            if wait_s <= 0:
                raise _Late
        self._sock.settimeout(wait_s)
        try:
            count = self._sock.recv_into(memoryview(buffer)[: self._left])
        except BlockingIOError:
            return None
        except TimeoutError:
            raise _Late from None
        self._left -= count
        return count


class _Reader(io.BufferedReader):
    """Keeps the lines of the present head as they came."""

    lines: list[bytes]

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.lines.append(line)
        return line


class HttpServer:
    """Serves `answer` on a listening socket that others may accept from as well."""

    def __init__(
        self,
        listener: socket.socket,
        config: ApiConfig,
        answer: Callable[[Request], Response],
        hand_over: Callable[[socket.socket], None],
    ) -> None:
        self.config = config
        self.answer = answer
        self.hand_over = hand_over
        self._listener = listener
        self._changed = threading.Condition()
        self._count = 0
        # Closing one end ends every poll on the other, in all threads at once.
        self.draining, self._drain = os.pipe()
        self._acceptor: threading.Thread | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._acceptor = threading.Thread(target=self._accept, name="accept", daemon=True)
        self._acceptor.start()

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connection that another worker began."""
        with self._changed:
            self._count += 1
        self._begin(sock, refuse=False)

    def drain(self, timeout_s: float) -> bool:
        """Stop; True where every connection was finished or handed over in time."""
        os.close(self._drain)
        if self._acceptor is not None:
            self._acceptor.join()
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, timeout_s)

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self.draining, select.POLLIN)
        while True:
            with self._changed:
                self._changed.wait_for(self._has_room, 1.0)
            ready = dict(poll.poll(None if self._has_room() else 0))
            if self.draining in ready:
                return
            if not self._has_room():
                continue
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                continue  # Another worker was faster.
            except OSError as reason:
                log.warning("connection cannot be accepted: %s", reason.strerror)
                time.sleep(0.1)
                continue
            with self._changed:
                self._count += 1
                refuse = self._count > self.config.max_connections
            self._begin(sock, refuse=refuse)

    def _has_room(self) -> bool:
        return self._count < self.config.max_connections + REFUSALS

    def _begin(self, sock: socket.socket, *, refuse: bool) -> None:
        thread = threading.Thread(target=self._converse, args=(sock, refuse), daemon=True)
        try:
            thread.start()
        except RuntimeError:
            log.warning("no thread for another connection")
            sock.close()
            self._ended()

    def _converse(self, sock: socket.socket, refuse: bool) -> None:
        try:
            with suppress(OSError):  # The client is gone.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _Conversation(sock, self, refuse=refuse)
        finally:
            sock.close()
            self._ended()

    def _ended(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()


class _Conversation(BaseHTTPRequestHandler):
    """One connection, request after request."""

    protocol_version = "HTTP/1.1"

    def __init__(self, sock: socket.socket, owner: HttpServer, *, refuse: bool) -> None:
        self._owner = owner
        self._refuse = refuse
        self._input = _Input(sock)
        super().__init__(sock, ("", 0), cast(Any, None))

    def setup(self) -> None:
        self.connection = self.request
        self._reader = _Reader(self._input)
        self.rfile = self._reader
        self.wfile = io.BytesIO()  # Answers leave through `_send` alone.

    def finish(self) -> None:
        pass

    def handle(self) -> None:
        """Serve until the client leaves, errs, idles too long, or is handed over."""
        self.close_connection = False
        self.requestline, self.request_version, self.command = "", self.protocol_version, ""
        try:
            while not self.close_connection and self._wait():
                self.handle_one_request()
        except _Late:
            self.send_error(HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time")
        except _TooLong:
            self.send_error(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the head of the request has more than {MAX_HEAD_BYTES} bytes",
            )

    def _wait(self) -> bool:
        """Until a request begins: True. The connection idled too long or was handed over: False."""
        owner = self._owner
        self._input.arm(None, MAX_HEAD_BYTES)
        self._reader.lines = []
        if not self._reader.peek(1):
            poll = select.poll()
            poll.register(self.connection, select.POLLIN)
            poll.register(owner.draining, select.POLLIN)
            ready = dict(poll.poll(owner.config.idle_timeout_s * 1000))
            if owner.draining in ready and not self._refuse:
                owner.hand_over(self.connection)
                return False
            if not ready:
                return False
        self._input.arm(time.monotonic() + owner.config.request_timeout_s)
        return True

    def __getattr__(self, name: str) -> Any:
        # Every method comes here: which are allowed depends on the path.
        if name.startswith("do_"):
            return self._dispatch
        raise AttributeError(name)

    def _dispatch(self) -> None:
        if self._refuse:
            sentence = f"{self._owner.config.max_connections} connections are open, no more fit"
            return self._reject(error(503, sentence, Retry_After=str(RETRY_AFTER_S)))
        if self.request_version == "HTTP/0.9":
            return self.send_error(HTTPStatus.BAD_REQUEST, "HTTP/0.9 is not spoken here")
        if fault := _fault(self._reader.lines):
            return self.send_error(HTTPStatus.BAD_REQUEST, fault)
        size = self._body_size()
        if size is None:
            return None
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = b""
        if size:
            # The reader may hold some of it already; a bound on the rest is enough.
            self._input.arm(time.monotonic() + self._owner.config.request_timeout_s, size)
            body = self.rfile.read(size)
            if len(body) < size:
                self.close_connection = True
                return None
        return self._send(self._owner.answer(Request(self.command, self.path, body)))

    def _body_size(self) -> int | None:
        """How many bytes follow the head; None where an error was answered instead."""
        if self.headers.get_all("Transfer-Encoding"):
            self.send_error(
                HTTPStatus.LENGTH_REQUIRED,
                "a body needs a Content-Length; Transfer-Encoding is not supported",
            )
            return None
        found = set(self.headers.get_all("Content-Length", []))
        if not found:
            if self.command in ("POST", "PUT", "PATCH"):
                self.send_error(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
                return None
            return 0
        text = found.pop().strip(" \t")
        if found or not (text.isascii() and text.isdigit()) or len(text) > 18:
            self.send_error(HTTPStatus.BAD_REQUEST, "Content-Length must be one number of bytes")
            return None
        limit = self._owner.config.max_body_bytes
        if int(text) > limit:
            self.send_error(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body has {int(text)} bytes, at most {limit} are accepted",
            )
            return None
        return int(text)

    def handle_expect_100(self) -> bool:
        """Not before the body's size was checked."""
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class calls, too, where it cannot make sense of a request."""
        self._reject(error(int(code), message or HTTPStatus(code).phrase))

    def _reject(self, response: Response) -> None:
        """Answer, then end the connection: what follows on it cannot be trusted."""
        self.close_connection = True
        with suppress(OSError):
            self._send(response)
            self._linger()

    def _send(self, response: Response) -> None:
        headers = dict(response.headers)
        if self.close_connection:
            headers["Connection"] = "close"
        elif self.request_version == "HTTP/1.0":
            headers["Connection"] = "keep-alive"
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(response.body)}\r\n"
            f"{extra}\r\n"
        ).encode("latin-1")
        self.connection.settimeout(self._owner.config.request_timeout_s)
        self.connection.sendall(head if self.command == "HEAD" else head + response.body)

    def _linger(self) -> None:
        """Read a little more: closing on unread bytes would reset the answer on its way out."""
        self.connection.shutdown(socket.SHUT_WR)
        deadline_s, left = time.monotonic() + LINGER_S, LINGER_BYTES
        while left > 0 and (wait_s := deadline_s - time.monotonic()) > 0:
            self.connection.settimeout(wait_s)
            data = self.connection.recv(65536)
            if not data:
                return
            left -= len(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted, not logged."""


def _fault(lines: list[bytes]) -> str:
    """What is wrong with a head's lines, the empty one at its end among them; or nothing."""
    request, *headers, last = lines
    if not _REQUEST_LINE.fullmatch(request):
        return "the request line is not METHOD PATH HTTP/1.1"
    for number, line in enumerate(headers, 1):
        if not _HEADER_LINE.fullmatch(line):
            return f"header line {number} is not NAME: VALUE, ended by CR LF"
    return "" if last == b"\r\n" else "the head does not end with an empty line"
