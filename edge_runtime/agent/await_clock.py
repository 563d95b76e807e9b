"""Wait until the system's clock is right, for a bounded time: what the service does once a boot.

Boards start in 1970, or where they were switched off. A certificate is not valid there yet, so the
first connection to the broker would fail, and the first lines of the log are dated wrongly. Serving
needs no time at all, so the wait is short and its end is never an error for who waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.update.clock import Machine, Readings

POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Waited:
    """How it ended: whether the clock is `right`, what it says, and after which wait."""

    right: bool
    now_s: float
    waited_s: float

    def as_json(self) -> dict[str, bool | float]:
        """For scripts."""
        return {"right": self.right, "now": self.now_s, "waited_s": round(self.waited_s, 3)}

    @property
    def sentence(self) -> str:
        """For the log."""
        says = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.now_s))
        if self.right:
            return f"the clock is right after {self.waited_s:.1f} s: {says}"
        return (
            f"nothing has set the clock within {self.waited_s:.0f} s, it says {says}; going on "
            "with that"
        )


def await_clock(
    timeout_s: float,
    machine: Readings | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Waited:
    """Until something has synchronised the clock, or `timeout_s` have passed."""
    machine = machine or Machine()
    began_s = monotonic()
    while not (right := machine.synchronized()):
        left_s = began_s + timeout_s - monotonic()
        if left_s <= 0:
            break
        sleep(min(POLL_S, left_s))
    return Waited(right, machine.now_s(), monotonic() - began_s)
