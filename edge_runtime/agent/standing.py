"""How a device stands, in one line for people: what `systemctl status` shows.

    tiny 1.0.0 serves by litert-cpu (ai-edge-litert 2.3.0: cpu), api 127.0.0.1:8080
    tiny 1.0.0 serves by ort-cpu (…), DEGRADED: the delegate cannot be loaded, api 127.0.0.1:8080
    tiny 1.0.0 serves by litert-cpu (…), fetching: 120 of 400 chunks, broker away, api …

The same facts go to the fleet in full, see `Reported`; this is for whoever stands beside the board.
"""

from __future__ import annotations

from edge_runtime.messages.fleet import Accelerator
from edge_runtime.text import plain
from edge_runtime.update.driver import Status

MAX_WHY = 160
SETTLED = ("idle", "trial")


def standing(
    status: Status | None,
    accelerator: Accelerator | None,
    *,
    api: str,
    broker: bool | None,
) -> str:
    """The line.

    Args:
        accelerator: what the serving worker runs on; None while none serves.
        broker: whether it is connected; None where there is none.
    """
    parts = [_serving(status, accelerator)]
    if accelerator is not None and accelerator.degraded:
        parts.append(f"DEGRADED: {plain(accelerator.degraded, MAX_WHY)}")
    if status is not None and status.state not in SETTLED:
        parts.append(_update(status))
    if broker is False:
        parts.append("broker away")
    return ", ".join([*parts, f"api {api}"])


def _serving(status: Status | None, accelerator: Accelerator | None) -> str:
    if status is None or status.active is None:
        return "no bundle yet"
    named = f"{status.active.name} {status.active.version}"
    if accelerator is None:
        return f"{named} does not serve now"
    trial = "on trial " if status.state == "trial" else ""
    return f"{named} serves {trial}by {accelerator.variant} ({accelerator.actual})"


def _update(status: Status) -> str:
    """What goes on beside."""
    progress = status.progress
    if progress is not None:
        return f"{status.state}: {progress.chunks_held} of {progress.chunks_needed} chunks"
    return f"{status.state}: {plain(status.reason, MAX_WHY)}" if status.reason else status.state
