"""Which version of the agent's package is newer."""

from __future__ import annotations

import re


def order(version: str) -> tuple[tuple[int, int, str], ...]:
    """To compare versions as dpkg does, for what our names may hold: 0.2.0~rc1 before 0.2.0."""
    parts = re.findall(r"[0-9]+|~|[^0-9~]+", version)
    ranked = [
        (2, int(part), "") if part.isdigit() else (-1 if part == "~" else 1, 0, part)
        for part in parts
    ]
    return (*ranked, (0, 0, ""))
