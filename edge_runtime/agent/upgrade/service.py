"""The agent's service, as the helper tells the service manager about it."""

from __future__ import annotations

import logging
import subprocess
from typing import Protocol

UNIT = "edge-agent.service"
TIMEOUT_S = 30.0

log = logging.getLogger(__name__)


class Service(Protocol):
    """What is asked of whoever keeps the agent running. None of it raises."""

    def restart(self) -> None:
        """End the agent in order and start it anew, soon."""

    def crashes(self) -> int:
        """How often it ended by itself and was started again since `restart`."""


class Systemd:
    """By systemctl, or a command that takes its place in a test."""

    def __init__(self, command: str = "systemctl", unit: str = UNIT) -> None:
        self._command = command
        self._unit = unit

    def restart(self) -> None:
        """Not waited for: the old agent may take a while to finish its requests."""
        # What came of an earlier start limit must not keep the next start from being tried.
        self._run("reset-failed", self._unit)
        self._run("restart", "--no-block", self._unit)

    def crashes(self) -> int:
        """`NRestarts`, which counts from the last start that somebody asked for."""
        said = self._run("show", "--property=NRestarts", "--value", self._unit).strip()
        return int(said) if said.isdecimal() else 0

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self._command, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as reason:
            log.error("%s %s: %s", self._command, arguments[0], reason)
            return ""
        if done.returncode and arguments[0] != "reset-failed":
            log.error("%s %s: %s", self._command, arguments[0], done.stderr.strip()[:400])
        return done.stdout
