"""A few words to systemd, where it started us: ready, alive, stopping (see sd_notify(3)).

Without `NOTIFY_SOCKET` in the environment nothing is sent and nothing is wrong.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)

FIRST_LISTEN_FD = 3
"""Where systemd puts the sockets of socket activation (SD_LISTEN_FDS_START)."""


class Notifier:
    """Speaks to the service manager of `environment`."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        env = os.environ if environment is None else environment
        address = env.get("NOTIFY_SOCKET", "")
        # A leading @ is how an abstract address is written where NUL cannot be.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = self._watchdog_s(env)
        self._due_s = 0.0

    @staticmethod
    def _watchdog_s(env: Mapping[str, str]) -> float | None:
        """How often to say that we are alive: half of what the unit allows."""
        if env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        text = env.get("WATCHDOG_USEC", "")
        return int(text) / 2e6 if text.isdigit() and int(text) > 0 else None

    def ready(self, status: str) -> None:
        """Start-up is over."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def alive(self, now_s: float) -> None:
        """Feed the watchdog, if it is time."""
        if self.watchdog_s is not None and now_s >= self._due_s:
            self._due_s = now_s + self.watchdog_s
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), self._address)
        except OSError as reason:
            log.warning("service manager cannot be told: %s", reason.strerror)


def passed_sockets(environment: Mapping[str, str] | None = None) -> list[int]:
    """Descriptors that systemd passed to this very process (socket activation)."""
    env = os.environ if environment is None else environment
    count = env.get("LISTEN_FDS", "")
    if env.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
        return []
    return list(range(FIRST_LISTEN_FD, FIRST_LISTEN_FD + int(count)))
