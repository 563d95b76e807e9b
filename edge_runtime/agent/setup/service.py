"""The service through systemctl: enabled, started, and seen to answer.

Ready means two things: systemd has heard READY=1 from the process, and the local API answers. What
systemctl says when it refuses, and the last words of the log, become part of one sentence.
"""

from __future__ import annotations

import http.client
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.setup.place import SERVICE, SOCKET
from edge_runtime.errors import DeviceError
from edge_runtime.text import plain

COMMAND_S = 60.0
POLL_S = 0.25
ASK_S = 2.0
RESTARTS = 5
"""So often has the service ended by itself: it will do so again."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
PORT = 8080
"""Where the shipped socket listens."""


@dataclass(frozen=True, slots=True)
class State:
    """What systemd says of the service."""

    active: str
    sub: str
    result: str
    restarts: int

    def __str__(self) -> str:
        told = f"{self.active} ({self.sub})"
        return f"{told}, {self.result}" if self.result not in ("", "success") else told


def start(*, anew: bool) -> None:
    """Enable and start socket and service; `anew`: an agent that runs is started again.

    So it is where a unit on the disk is not the one that runs.

    Raises:
        DeviceError: systemctl refuses.
    """
    old = [
        _systemctl("show", unit, "--property=NeedDaemonReload", "--value").strip() == "yes"
        for unit in (SERVICE, SOCKET)
    ]
    _systemctl("daemon-reload")
    _systemctl("enable", "--quiet", SOCKET, SERVICE)
    # From an earlier try; says nothing where it is not loaded.
    _systemctl("reset-failed", SERVICE, SOCKET, check=False)
    if anew or True in old:
        # Not "restart", which is over before the old process is: it would be taken for the new.
        _systemctl("stop", SOCKET, SERVICE)
    _systemctl("start", SOCKET)
    # Not waited for: a first start may take longer than this command's patience.
    _systemctl("start", "--no-block", SERVICE)


def reload() -> None:
    """Drop-ins have changed; what runs goes on as it is. Raises DeviceError."""
    _systemctl("daemon-reload")


def state() -> State:
    """Of the service, now. Raises DeviceError."""
    text = _systemctl("show", SERVICE, "--property=ActiveState,SubState,Result,NRestarts")
    found = dict(line.partition("=")[::2] for line in text.splitlines())
    restarts = found.get("NRestarts", "0")
    return State(
        found.get("ActiveState", "unknown"),
        found.get("SubState", ""),
        found.get("Result", ""),
        int(restarts) if restarts.isdecimal() else 0,
    )


def await_ready(config: AgentConfig, end_s: float, tell: Callable[[str], None]) -> str:
    """Wait until it is active and answers; empty then, or else in words how it stands.

    Args:
        end_s: of the monotonic clock.
        tell: told each state that it enters.

    Raises:
        DeviceError: systemctl refuses.
    """
    told = ""
    while True:
        found = state()
        if str(found) != told:
            told = str(found)
            tell(f"{SERVICE} is {told}")
        if found.active == "active" and answers(config, "/v2/health/live"):
            return ""
        why = told if found.active != "active" else f"active, but {address(config)} does not answer"
        if found.restarts >= RESTARTS:
            return f"{why}; it ended by itself {found.restarts} times"
        if time.monotonic() >= end_s:
            return why
        time.sleep(POLL_S)


def await_serving(config: AgentConfig, end_s: float) -> bool:
    """Wait until a bundle serves; False: not by `end_s`."""
    while not answers(config, "/v2/health/ready"):
        if time.monotonic() >= end_s:
            return False
        time.sleep(POLL_S)
    return True


def address(config: AgentConfig) -> str:
    """The local API, for people."""
    host, port = _reached(config)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def answers(config: AgentConfig, path: str) -> bool:
    """Whether GET is answered by 200."""
    connection = http.client.HTTPConnection(*_reached(config), timeout=ASK_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def last_words() -> str:
    """The end of the service's log, on one line; empty where there is none."""
    try:
        done = subprocess.run(
            ["journalctl", "-u", SERVICE, "-n", "3", "-o", "cat", "--no-pager", "-q"],
            capture_output=True,
            timeout=COMMAND_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    return plain(" / ".join(lines), 600)


def _reached(config: AgentConfig) -> tuple[str, int]:
    host = config.api.host
    return EVERYWHERE.get(host, host), config.api.port or PORT


def _systemctl(*words: str, check: bool = True) -> str:
    command = ["systemctl", "--no-ask-password", *words]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMMAND_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as reason:
        why = getattr(reason, "strerror", None) or str(reason)
        raise DeviceError(f"systemctl {words[0]}: {plain(why)}") from None
    if check and done.returncode:
        why = plain(done.stderr.decode("utf-8", "replace").strip(), 600)
        raise DeviceError(f"systemctl {' '.join(words)}: {why or f'status {done.returncode}'}")
    return done.stdout.decode("utf-8", "replace")
