"""A TCP proxy on loopback that does to connections what bad networks do.

Connections can be cut, refused or swallowed at once; `delay_s` and `rate_bytes_s` slow down what
goes to clients; `arm` has something happen at an exact byte on its way there.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import socket
import struct
import threading
import time
from types import TracebackType

LOST_BYTES = 1000
_SLICE_S = 0.02


class Fault(enum.Enum):
    """What happens at a byte on its way to a client."""

    END = "the connection ends, in the middle of a packet"
    RESET = "the connection is reset"
    LOSE = "bytes are lost, and the rest goes on"
    SPOIL = "a bit is turned"
    SILENCE = "nothing comes through any more, and nobody is told"


class _Silenced(Exception):
    """The client is not even told that the connection has ended."""


class TcpProxy:
    """Forwards to `127.0.0.1:target_port`; one pair of threads for each connection."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._armed: list[tuple[int, Fault]] = []
        self.refuse = False
        self.swallow = False
        self.delay_s = 0.0
        self.rate_bytes_s = 0.0
        self.accepted = 0
        self.forwarded_bytes = 0
        self.to_client_bytes = 0
        self.happened = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where clients connect."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        # A thread blocked in accept is woken by shutdown, not by close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every connection without a goodbye."""
        with self._lock:
            ended, self._open = self._open, []
        for sock in ended:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def arm(self, fault: Fault, *after_bytes: int) -> None:
        """Let `fault` happen once so many more bytes went to clients, for each number given.

        `happened` counts those that did, since the proxy began.
        """
        with self._lock:
            self._armed += [(self.to_client_bytes + count, fault) for count in after_bytes]
            self._armed.sort(key=lambda armed: armed[0])

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self.refuse:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                client.close()
                continue
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open += [client, server]
            for pair in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, to_client: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if self.swallow:
                    continue
                if to_client:
                    self._to_client(data, source, sink)
                else:
                    sink.sendall(data)
                self.forwarded_bytes += len(data)
        except _Silenced:
            return
        except OSError:
            pass
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _to_client(self, data: bytes, source: socket.socket, sink: socket.socket) -> None:
        """Raises OSError or _Silenced: the connection is to end."""
        if self.delay_s:
            time.sleep(self.delay_s)
        while data:
            fault, count = self._next(len(data))
            self._send(data[:count], sink)
            data = data[count:]
            match fault:
                case Fault.END:
                    raise ConnectionAbortedError
                case Fault.RESET:
                    _reset(sink)
                    raise ConnectionAbortedError
                case Fault.LOSE:
                    data = data[LOST_BYTES:]
                case Fault.SPOIL if data:
                    self._send(bytes([data[0] ^ 1]), sink)
                    data = data[1:]
                case Fault.SILENCE:
                    while source.recv(1 << 16):
                        pass
                    raise _Silenced

    def _next(self, size: int) -> tuple[Fault | None, int]:
        """What happens within the next `size` bytes, and how many go before it."""
        with self._lock:
            if not self._armed or self._armed[0][0] > self.to_client_bytes + size:
                return None, size
            at_byte, fault = self._armed.pop(0)
            self.happened += 1
            return fault, max(at_byte - self.to_client_bytes, 0)

    def _send(self, data: bytes, sink: socket.socket) -> None:
        """At the rate allowed, which may change meanwhile."""
        while data:
            rate = self.rate_bytes_s
            count = max(int(rate * _SLICE_S), 1) if rate else len(data)
            sink.sendall(data[:count])
            self.to_client_bytes += len(data[:count])
            if rate:
                time.sleep(len(data[:count]) / rate)
            data = data[count:]


def _reset(sock: socket.socket) -> None:
    """Send RST now, whoever else waits on `sock`: connecting to nowhere dissolves a connection."""
    nowhere = struct.pack("=H14x", socket.AF_UNSPEC)
    ctypes.CDLL(None).connect(sock.fileno(), nowhere, len(nowhere))
