"""When the power is cut: a plan made from a seed, spread over the states of an update.

Pure. A moment is a state that the device reports, and a share of the time that this state took in
an update that nothing disturbed. One in some updates is cut a second time, while the board starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

BOOT = "boot"
BEFORE = "before"
"""The device has not taken the wish up yet."""
IDLE = "idle"
ORDER = (
    "authenticating", "fetching_manifest", "fetching", "verifying", "testing", "activating",
    "trial", IDLE,
)  # fmt: skip
"""States of an update that goes well; in the last, what is not needed any more is removed."""
AIMS = (
    "fetching", "testing", "trial", "fetching_manifest", "activating", IDLE, "authenticating",
    "verifying", "fetching",
)  # fmt: skip
"""In turn: a fetch is the longest and gets two."""
BOOT_EVERY = 5
SHORTEST_S = 0.3
"""A state that passed faster is cut within so much of its beginning."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where in an update the power goes. `share`, 0..1, of how long `state` lasts.

    `writing`: and not before the board has written something next, which it may not have flushed.
    """

    state: str
    share: float
    writing: bool = False


def plan(cuts: int, seed: int) -> list[tuple[Moment, ...]]:
    """The moments of each update; `cuts` in all."""
    random = Random(seed)
    updates: list[tuple[Moment, ...]] = []
    left = cuts
    while left > 0:
        number = len(updates)
        moments = [Moment(AIMS[number % len(AIMS)], random.random(), random.random() < 0.5)]
        if number % BOOT_EVERY == BOOT_EVERY - 1 and left > 1:
            moments.append(Moment(BOOT, random.random(), random.random() < 0.5))
        updates.append(tuple(moments))
        left -= len(moments)
    return updates


def delay_s(moment: Moment, lasts_s: Mapping[str, float]) -> float:
    """How long after the state was reported the power goes."""
    return moment.share * max(lasts_s.get(moment.state, 0.0), SHORTEST_S)
