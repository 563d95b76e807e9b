"""Connections from this process to a machine's own loopback, which nobody else can reach."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import socket
from collections.abc import Callable
from typing import Any

from tests.fakes.agents import texts_request

CLONE_NEWNET = 0x4000_0000
PORT = 8080
_LIBC = ctypes.CDLL(None, use_errno=True)


class Inside(http.client.HTTPConnection):
    """HTTP to a port of the machine whose first process is `leader`."""

    def __init__(self, leader: int, port: int = PORT, timeout_s: float = 30.0) -> None:
        super().__init__("127.0.0.1", port, timeout=timeout_s)
        self._leader = leader

    def connect(self) -> None:
        self.sock = socket_in(self._leader)
        self.sock.settimeout(self.timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect((self.host, self.port))


def socket_in(leader: int) -> socket.socket:
    """A TCP socket in the network of a machine; only this thread goes there, and comes back."""
    with (
        open("/proc/thread-self/ns/net", "rb") as own,
        open(f"/proc/{leader}/ns/net", "rb") as other,
    ):
        _enter(other.fileno())
        try:
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        finally:
            _enter(own.fileno())


class Api:
    """The local API, as a program on the machine sees it. As an Agent, for `agents.Client`."""

    def __init__(self, leader: Callable[[], int]) -> None:
        self._leader = leader

    def connect(self, timeout_s: float = 30.0) -> Inside:
        """A connection that is opened with the first request."""
        return Inside(self._leader(), timeout_s=timeout_s)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """(status, decoded answer) of one request on a connection of its own."""
        connection = self.connect()
        try:
            data = json.dumps(body).encode() if body is not None else None
            connection.request(method, path, data)
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content else None
        finally:
            connection.close()

    def ready(self) -> bool:
        """Whether it serves."""
        try:
            return self.call("GET", "/v2/health/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def answer(self, model: str, text: str = "mail server") -> str:
        """The version of the bundle that answers a text.

        Raises:
            AssertionError: it does not.
        """
        status, answer = self.call("POST", f"/v2/models/{model}/infer", texts_request(text))
        assert status == 200, answer
        return str(answer["model_version"])


def _enter(descriptor: int) -> None:
    if _LIBC.setns(descriptor, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
