"""How long students may train: what all other work leaves of the time, decided once and kept.

It is kept with the other results because a search that goes on must plan the same steps, or nothing
of what it trained before would be found again.
"""

from __future__ import annotations

from collections.abc import Mapping

from converters.cache import Cache

RESERVED = 0.18
"""Of the minutes, for pruning, and for exporting and measuring the finalists."""
LEAST = 0.3
"""Of the minutes, for training whatever the rest takes: the whole then takes longer than asked."""


def training_seconds(
    minutes: float, spent_s: float, parts: Mapping[str, object], cache: Cache
) -> float:
    """Seconds of training in a search of `minutes` that has spent `spent_s` already.

    Of a search with the same `parts` it is what was decided the first time.
    """
    left = 60 * minutes * (1 - RESERVED) - spent_s
    seconds = max(left, 60 * minutes * LEAST)
    return float(cache.value("search-time", {**parts, "minutes": minutes}, lambda: seconds))
