"""The socket of the local API, held by the supervisor so that it outlives every worker.

It is bound once, at the start, so that a taken port is an error at once, and kept until the end. It
listens only when told to: before any bundle serves, a client is refused instead of left waiting, or
answered by a `Doorman`. From then on a connection that comes while a worker restarts waits in the
backlog. A socket that systemd passes listens already.

A port that is bound and not listened on could be taken by another program: SO_REUSEADDR, which we
need to start again beside yesterday's connections, lets others share it. So the option is taken
back while nothing listens.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

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
            InputError: it cannot be listened on now.
        """
        if not self.listening:
            try:
                _share(self._sock, True)
                self._sock.listen(BACKLOG)
            except OSError as reason:
                _share(self._sock, False)
                raise InputError(f"api: {self.address}: {reason.strerror}") from None
            self.listening = True

    def refuse(self) -> None:
        """Refuse clients again, and those that wait: nothing serves. The port stays ours.

        One that systemd passed goes on listening.
        """
        if self.listening and not self._passed:
            # On Linux this ends the listening and nothing else. Whoever inherited the socket, like
            # a worker that was killed and is not gone yet, does not listen any more either.
            with suppress(OSError):
                _share(self._sock, False)
                self._sock.shutdown(socket.SHUT_RD)
            self.listening = False

    def turn_away(self, descriptor: int) -> None:
        """End a client's connection that nobody serves any more."""
        os.close(descriptor)

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
        sock = _bound(family, kind, proto, address)
        if port == 0:
            # Linux keeps a port through `refuse` only for a socket that asked for it by number.
            found, sock = sock, None
            with found:
                sock = _bound(family, kind, proto, found.getsockname())
        _share(sock, False)
        # Old and new worker accept from the same queue during a swap; neither may block in it.
        sock.setblocking(False)
    except (OSError, UnicodeError) as reason:
        if sock is not None:
            sock.close()
        why = getattr(reason, "strerror", None) or "not a host name"
        raise InputError(f"{where}: cannot be used ({why})") from None
    return sock


def _bound(family: int, kind: int, proto: int, address: Any) -> socket.socket:
    sock = socket.socket(family, kind, proto)
    try:
        _share(sock, True)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _share(sock: socket.socket, yes: bool) -> None:
    """Whether another socket may be bound to the same port while neither listens."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(yes))


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
