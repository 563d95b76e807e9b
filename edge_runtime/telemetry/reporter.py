"""When a device reports, and what: numbers since boot, under a boot id and a sequence number.

Pure: clocks, measurements and the bundle arrive as arguments. Counters never go back within a
boot, although workers come and go: what an ended worker had counted is kept, so a receiver may
lose or repeat messages and still knows every total.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from edge_runtime.messages.fleet import Accelerator, BundleRef, Telemetry
from edge_runtime.telemetry.metrics import Snapshot


def new_boot_id() -> str:
    """Names one life of the agent, in which sequence numbers do not repeat."""
    return secrets.token_hex(8)


class Reporter:
    """Telemetry of one life of the agent."""

    def __init__(
        self, boot_id: str, *, started_s: float, interval_s: float = 60.0, change_s: float = 1.0
    ) -> None:
        """Reports every `interval_s`, and on a change, but then not sooner than `change_s`."""
        self._boot_id = boot_id
        self._started_s = started_s
        self._interval_s = interval_s
        self._change_s = change_s
        self._last_s: float | None = None
        self._last_state: tuple[BundleRef | None, Accelerator | None] | None = None
        self._sequence = 0
        self._ended = Snapshot()
        self._running: dict[int, Snapshot] = {}

    def heard(self, worker: int, snapshot: Snapshot) -> None:
        """A worker (its process id) has told what it counted since it started."""
        self._running[worker] = snapshot

    def ended(self, worker: int) -> None:
        """A worker is gone; what it last told stays in the totals."""
        self._ended = self._ended.merged(self._running.pop(worker, Snapshot()))

    def totals(self) -> Snapshot:
        """The sum over all workers of this boot."""
        total = self._ended
        for snapshot in self._running.values():
            total = total.merged(snapshot)
        return total

    def wait_s(
        self, now_s: float, bundle: BundleRef | None, accelerator: Accelerator | None
    ) -> float:
        """Seconds until the next report is due; 0 when it is now."""
        if self._last_s is None:
            return 0.0
        changed = self._last_state != (bundle, accelerator)
        due_s = self._last_s + (self._change_s if changed else self._interval_s)
        return max(0.0, due_s - now_s)

    def build(
        self,
        now_s: float,
        *,
        time_s: float,
        gauges: Mapping[str, float],
        bundle: BundleRef | None,
        accelerator: Accelerator | None,
        dropped: int = 0,
    ) -> Telemetry:
        """The next message. `now_s` is monotonic, `time_s` the board's clock, which may be wrong.

        `dropped` counts messages of this boot that were lost before they left the device.
        """
        total = self.totals()
        message = Telemetry(
            boot_id=self._boot_id,
            sequence=self._sequence,
            time_s=time_s,
            uptime_s=max(0.0, now_s - self._started_s),
            requests=total.requests,
            errors=total.errors,
            latency=total.latency.as_json(),
            queue_wait=total.queue_wait.as_json(),
            gauges=dict(gauges),
            bundle=bundle,
            accelerator=accelerator,
            dropped=dropped,
        )
        self._sequence += 1
        self._last_s = now_s
        self._last_state = (bundle, accelerator)
        return message
