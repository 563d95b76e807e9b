"""The socket of the local API, held by the supervisor so that it outlives every worker.

It is bound at the start, so that a taken port is an error at once, and listens only from the first
worker on: before any bundle serves, a client is refused instead of left waiting. From then on a
connection that comes while a worker restarts waits in the backlog. A socket that systemd passes
listens already.
"""

from __future__ import annotations

import os
import socket

from edge_runtime.agent.notify import passed_sockets
from edge_runtime.errors import DeviceError, InputError

BACKLOG = 128


class Listener:
    """A bound TCP socket.

    Raises:
        InputError: the address is not one of this machine, or the port is taken.
        DeviceError: what systemd passed is no stream socket.
    """

    def __init__(self, host: str, port: int) -> None:
        passed = passed_sockets()
        self._passed = bool(passed)
        self._host = host
        self.listening = self._passed
        self._sock = _adopt(passed[0]) if passed else _bind(host, port)
        self.port: int = self._sock.getsockname()[1]

    @property
    def address(self) -> str:
        """`host:port`, for people."""
        host = self._sock.getsockname()[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def fileno(self) -> int:
        """What a worker inherits."""
        return self._sock.fileno()

    def listen(self) -> None:
        """Let clients connect.

        Raises:
            InputError: another program has begun to listen on the port meanwhile.
        """
        if not self.listening:
            try:
                self._sock.listen(BACKLOG)
            except OSError as reason:
                raise InputError(f"api: {self.address}: {reason.strerror}") from None
            self.listening = True

    def refuse(self) -> None:
        """Refuse clients again, and those that wait: nothing serves. The port stays ours.

        A socket cannot stop listening, so it is replaced; one that systemd passed stays.
        """
        if self.listening and not self._passed:
            self._sock.close()
            self._sock = _bind(self._host, self.port)
            self.listening = False

    def close(self) -> None:
        """Give the port back."""
        self.listening = False
        self._sock.close()


def _bind(host: str, port: int) -> socket.socket:
    where = f"api: {host} port {port}"
    sock: socket.socket | None = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # Old and new worker accept from the same queue during a swap; neither may block in it.
        sock.setblocking(False)
    except (OSError, UnicodeError) as reason:
        if sock is not None:
            sock.close()
        why = getattr(reason, "strerror", None) or "not a host name"
        raise InputError(f"{where}: cannot be used ({why})") from None
    return sock


def _adopt(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    try:
        sock = socket.socket(fileno=descriptor)
        if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise OSError(0, "not a TCP socket")
    except OSError as reason:
        raise DeviceError(
            f"api: descriptor from systemd cannot be used ({reason.strerror})"
        ) from None
    sock.setblocking(False)
    return sock
