"""The socket of the local API, held by the supervisor so that it outlives every worker.

It is bound once, at the start, so that a taken port is an error at once, and kept until the end. It
listens only when told to: before any bundle serves, a client is refused instead of left waiting, or
answered by a `Doorman`. From then on a connection that comes while a worker restarts waits in the
backlog. A socket that systemd passes listens already, and goes on when we end: who comes while the
agent restarts waits there. Idle connections that clients keep open go to systemd as well, and the
agent that follows takes them up.

A port that is bound and not listened on could be taken by another program: SO_REUSEADDR, which we
need to start again beside yesterday's connections, lets others share it. So the option is taken
back while nothing listens.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from edge_runtime.agent.notify import passed_sockets
from edge_runtime.errors import DeviceError, InputError

BACKLOG = 128


def nobody(_descriptor: int) -> bool:
    """Keeps a connection where nobody can."""
    return False


class Listener:
    """A bound TCP socket.

    `passed` tells that systemd listens, so that clients may wait there already. `kept` are
    connections that clients have had open since before this agent; whoever takes them empties it.

    Args:
        keep: leaves a client's connection to the agent after this one; False where none follows.

    Raises:
        InputError: the address is not one of this machine, or the port is taken, or systemd passed
            more than one socket.
        DeviceError: what systemd passed is no stream socket.
    """

    def __init__(self, host: str, port: int, keep: Callable[[int], bool] = nobody) -> None:
        passed = passed_sockets()
        if len(passed.listening) > 1:
            raise InputError(
                f"api: systemd passed {len(passed.listening)} sockets, expected one: "
                "edge-agent.socket may have one ListenStream= only"
            )
        self.passed = bool(passed.listening)
        self._keep = keep
        self.listening = self.passed
        self._sock = _adopt(passed.listening[0]) if self.passed else _bind(host, port)
        self._host: str
        self.port: int
        self._host, self.port = self._sock.getsockname()[:2]
        self.kept = list(passed.clients)
        for descriptor in self.kept:
            os.set_inheritable(descriptor, False)

    @property
    def address(self) -> str:
        """`host:port`, for people."""
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

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
        if self.listening and not self.passed:
            # On Linux this ends the listening and nothing else. Whoever inherited the socket, like
            # a worker that was killed and is not gone yet, does not listen any more either.
            with suppress(OSError):
                _share(self._sock, False)
                self._sock.shutdown(socket.SHUT_RD)
            self.listening = False

    def turn_away(self, descriptor: int) -> None:
        """A client's connection that nobody serves any more: it ends, or is the next agent's."""
        if self.passed and self.fileno() < 0:
            self._keep(descriptor)
        os.close(descriptor)

    def close(self) -> None:
        """Give the port back; one that systemd passed goes on listening."""
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
