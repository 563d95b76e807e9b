"""The API's socket while no worker serves: the supervisor answers the door itself.

`/v2/health/live` is 200, for the agent is; everything else is 503 and one sentence. It runs in the
supervisor's loop and stays small: a few clients at a time, one request each, a bounded head and a
bounded time. A worker that begins to serve takes over the same socket: who waits in its queue is
the worker's, who was let in before still gets an answer.

After a restart under systemd the queue is not empty, and the bundle that served before is about to
again: then the door stays closed for a bounded time, and who waits is served.
"""

from __future__ import annotations

import json
import logging
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

from edge_runtime.agent.listener import Listener, nobody
from edge_runtime.errors import InputError

log = logging.getLogger(__name__)

MAX_VISITORS = 16
MAX_HEAD_BYTES = 8 << 10
VISIT_S = 2.0
HOLD_S = 30.0
"""How long clients may wait for the bundle that served before a restart; they have a limit, too."""
LIVE = b"/v2/health/live"
NOBODY = "no bundle serves on this device now"


class _Visitor:
    """A client that was let in."""

    def __init__(self, sock: socket.socket, end_s: float) -> None:
        self.sock = sock
        self.end_s = end_s
        self.head = b""
        self.answered = False


class Doorman(Listener):
    """A listener that does not refuse clients while nothing serves, but tells them so."""

    def __init__(
        self,
        host: str,
        port: int,
        selector: selectors.BaseSelector,
        clock: Callable[[], float] = time.monotonic,
        keep: Callable[[int], bool] = nobody,
    ) -> None:
        super().__init__(host, port, keep)
        self._selector = selector
        self._clock = clock
        self._visitors: list[_Visitor] = []
        self._on_duty = False
        self._watched = False
        self._held_until_s: float | None = None

    def hold(self) -> None:
        """Somebody will serve soon: let clients wait for that. Answer if it takes too long."""
        if self.fileno() >= 0:
            self._held_until_s = self._clock() + HOLD_S

    def answer(self) -> None:
        """Answer from now on, until `listen` says that a worker does."""
        self._held_until_s = None
        if self.fileno() < 0:
            return
        try:
            super().listen()
        except InputError as reason:
            log.warning("%s; tried again when a bundle serves", reason)
            return
        self._on_duty = True
        self._watch_door()

    def refuse(self) -> None:
        """Nothing serves any more."""
        self.answer()

    def listen(self) -> None:
        """See `Listener`; a worker accepts from now on."""
        self._held_until_s = None
        self._on_duty = False
        self._watch_door()
        super().listen()

    def watch(self, now_s: float) -> float | None:
        """Part with whoever takes too long; when to look again at the latest."""
        for visitor in [v for v in self._visitors if v.end_s <= now_s]:
            self._leave(visitor)
        if self._held_until_s is not None and self._held_until_s <= now_s:
            self.answer()
        ends = [v.end_s for v in self._visitors]
        if self._held_until_s is not None:
            ends.append(self._held_until_s)
        return min(ends, default=None)

    def close(self) -> None:
        """Give the port back; visitors go."""
        self._held_until_s = None
        self._on_duty = False
        for visitor in list(self._visitors):
            self._leave(visitor)
        self._watch_door()
        super().close()

    def _watch_door(self) -> None:
        """Look at the socket only while a client may be let in: others wait in its queue."""
        wanted = self._on_duty and len(self._visitors) < MAX_VISITORS
        if wanted and not self._watched:
            self._selector.register(self, selectors.EVENT_READ, lambda _: self._let_in())
        elif self._watched and not wanted:
            self._selector.unregister(self)
        self._watched = wanted

    def _let_in(self) -> None:
        if not self._watched:
            return  # A worker has taken over in this very turn of the loop.
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        self._welcome(sock)

    def turn_away(self, descriptor: int) -> None:
        """A request may be on its way there, or in its buffer: it is answered like any other."""
        if self.fileno() < 0 or len(self._visitors) >= MAX_VISITORS:
            super().turn_away(descriptor)
        else:
            self._welcome(socket.socket(fileno=descriptor))

    def _welcome(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        visitor = _Visitor(sock, self._clock() + VISIT_S)
        self._visitors.append(visitor)
        self._selector.register(sock, selectors.EVENT_READ, lambda _: self._hear(visitor))
        self._watch_door()

    def _hear(self, visitor: _Visitor) -> None:
        if visitor not in self._visitors:
            return
        try:
            data = visitor.sock.recv(MAX_HEAD_BYTES)
            if data and not visitor.answered:
                visitor.head += data
                if b"\r\n\r\n" in visitor.head or len(visitor.head) >= MAX_HEAD_BYTES:
                    visitor.answered = True
                    visitor.sock.send(_answer(visitor.head))
                    # Closing on unread bytes would reset the answer on its way out.
                    visitor.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._leave(visitor)

    def _leave(self, visitor: _Visitor) -> None:
        self._visitors.remove(visitor)
        self._selector.unregister(visitor.sock)
        with suppress(OSError):
            visitor.sock.close()
        self._watch_door()


def _answer(head: bytes) -> bytes:
    method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0].rstrip(b"/")
    live = path == LIVE and method in (b"GET", b"HEAD")
    status = HTTPStatus.OK if live else HTTPStatus.SERVICE_UNAVAILABLE
    body = json.dumps({"live": True} if live else {"error": NOBODY}, separators=(",", ":")).encode()
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(() if live else ("Retry-After: 1",)),
        "Connection: close",
        "\r\n",
    )
    return "\r\n".join(lines).encode() + (b"" if method == b"HEAD" else body)
