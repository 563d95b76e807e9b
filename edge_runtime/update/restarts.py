"""Restarts: how often the active bundle may fail, and when it is started again. Pure."""

from __future__ import annotations

from random import Random

from edge_runtime.update.policy import Policy, backoff_s


class Restarts:
    """Failures in a row of one bundle's worker, and when it is to be started again."""

    def __init__(self, policy: Policy, random: Random) -> None:
        self._policy = policy
        self._random = random
        self._failures = 0
        self._started_s = 0.0
        self.due_s: float | None = None

    def started(self, now_s: float) -> None:
        """The worker was started now."""
        self._started_s = now_s
        self.due_s = None

    def reset(self, now_s: float) -> None:
        """Another bundle serves from now on, or none: its record is clean."""
        self._failures = 0
        self.started(now_s)

    def failed(self, now_s: float) -> bool:
        """The worker failed; True where it failed too often. Long service is forgiven."""
        if self.due_s is None and now_s - self._started_s >= self._policy.stable_s:
            self._failures = 0
        self._failures += 1
        return self._failures >= self._policy.max_starts

    def plan(self, now_s: float) -> None:
        """Start it again after a wait that grows with its failures."""
        p = self._policy
        tries = max(self._failures - 1, 0)
        wait_s = backoff_s(p.restart_s, p.restart_max_s, tries, self._random.random())
        self.due_s = now_s + wait_s
