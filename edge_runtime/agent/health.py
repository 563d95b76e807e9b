"""What a worker counted lately, out of what it counted since it started.

A worker tells totals; a trial and a comparison want the last minutes. So two former totals of each
worker are kept, and moved on once a window has passed and enough was asked in it: what is lately
is between one window and two long, or longer where requests are rare.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.telemetry import Snapshot
from edge_runtime.update.trial import Health


@dataclass(slots=True)
class _Marks:
    """Two former totals of a worker; `newer` was its total at `newer_s`."""

    newer_s: float
    older: Snapshot
    newer: Snapshot


class Recent:
    """All workers of one supervisor, by process id.

    Args:
        window_s: how long is lately, at the least.
        min_requests: how many requests it must hold, if there were so many.
    """

    def __init__(self, window_s: float, min_requests: int) -> None:
        self._window_s = window_s
        self._min_requests = min_requests
        self._marks: dict[int, _Marks] = {}

    def heard(self, pid: int, total: Snapshot, now_s: float) -> Health:
        """A worker has told its totals."""
        marks = self._marks.setdefault(pid, _Marks(now_s, Snapshot(), Snapshot()))
        passed = now_s - marks.newer_s >= self._window_s
        if passed and _health(total, marks.newer).requests >= self._min_requests:
            marks.older, marks.newer, marks.newer_s = marks.newer, total, now_s
        return _health(total, marks.older)

    def ended(self, pid: int) -> None:
        """A worker is gone; another may come to have its number."""
        self._marks.pop(pid, None)


def _health(total: Snapshot, earlier: Snapshot) -> Health:
    work = total.work.since(earlier.work)
    failed = max(total.failed - earlier.failed, 0)
    return Health(work.count + failed, failed, work.percentile(50), work.percentile(95))
