"""A few words with systemd, where it started us: ready, alive, how things stand, stopping.

It also passes sockets: the API's, which it listens on (socket activation), and connections of
clients that the agent before us left with it, so that a restart does not end them. What was passed
is for the process that it started, and for no other.

Without `NOTIFY_SOCKET` in the environment nothing is sent and nothing is wrong. Protocol:
sd_notify(3), sd_listen_fds(3).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.text import plain

log = logging.getLogger(__name__)

FIRST_LISTEN_FD = 3
"""Where systemd puts the sockets of socket activation (SD_LISTEN_FDS_START)."""
CLIENT = "client"
"""What a connection that waits for the next agent is called, in systemd's store."""
STARTING_S = 60.0
"""While we start, and say now and then that we still do, systemd may wait so much longer."""
STARTING_PAUSE_S = 5.0
MAX_STATUS = 512


class Notifier:
    """Speaks to the service manager of `environment`."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        env = os.environ if environment is None else environment
        address = env.get("NOTIFY_SOCKET", "")
        # A leading @ is how an abstract address is written where NUL cannot be.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = self._watchdog_s(env)
        self._due_s = 0.0
        self._started = False
        self._status = ""

    @staticmethod
    def _watchdog_s(env: Mapping[str, str]) -> float | None:
        """How often to say that we are alive: half of what the unit allows."""
        if env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        text = env.get("WATCHDOG_USEC", "")
        return int(text) / 2e6 if text.isdigit() and int(text) > 0 else None

    def ready(self) -> None:
        """Start-up is over; from now on the watchdog wants to be fed."""
        self._started = True
        self._due_s = 0.0
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; said again only when it changes."""
        line = plain(text, MAX_STATUS)
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def stopping(self, within_s: float) -> None:
        """The end has begun, and may take so long, whatever the unit says."""
        self._send(f"STOPPING=1\n{_extend(within_s)}")

    def alive(self, now_s: float) -> None:
        """Feed the watchdog, if it is time. Before we are ready, ask for more time instead."""
        pause_s = self.watchdog_s if self._started else STARTING_PAUSE_S
        if pause_s is not None and now_s >= self._due_s:
            self._due_s = now_s + pause_s
            self._send("WATCHDOG=1" if self._started else _extend(STARTING_S))

    def keep(self, descriptor: int) -> bool:
        """Leave a client's connection to the agent that follows this one. False: nobody keeps it.

        Where none follows, systemd closes it.
        """
        return self._send(f"FDSTORE=1\nFDNAME={CLIENT}", (descriptor,))

    def kept_no_more(self) -> None:
        """We have what was kept; as long as systemd has it too, a connection cannot be closed."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={CLIENT}")

    def _send(self, text: str, descriptors: Sequence[int] = ()) -> bool:
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.connect(self._address)
                socket.send_fds(sock, [text.encode()], list(descriptors))
        except OSError as reason:
            log.warning("service manager cannot be told: %s", reason.strerror)
            return False
        return True


def _extend(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}"


@dataclass(frozen=True, slots=True)
class Passed:
    """Descriptors from systemd: sockets to listen on, and clients' connections that were kept."""

    listening: tuple[int, ...] = ()
    clients: tuple[int, ...] = ()


def passed_sockets(environment: Mapping[str, str] | None = None) -> Passed:
    """What systemd passed to this very process."""
    env = os.environ if environment is None else environment
    count = env.get("LISTEN_FDS", "")
    if env.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
        return Passed()
    found = range(FIRST_LISTEN_FD, FIRST_LISTEN_FD + int(count))
    names = env.get("LISTEN_FDNAMES", "").split(":")
    clients = {fd for fd, name in zip(found, names, strict=False) if name == CLIENT}
    return Passed(tuple(fd for fd in found if fd not in clients), tuple(sorted(clients)))
