"""How far an update is, by what the agent says on the board's console.

It logs a transition once that is on the disk: whatever stands here must outlive a power cut.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.board.moments import ORDER

BOOTED_IN_1970 = "BOARD up, 1970-01-0"
TROUBLE = ("Traceback", "BOARD the data disk cannot be mounted", "EXT4-fs error", "journal is")
"""What a board never says that is well."""
_LINE = re.compile(r"supervisor: update: (\w+) bundle='\S+ (\S+)' state=(\w+)\s")


class Said(NamedTuple):
    """One transition: what happened, to which version, and the state after it."""

    event: str
    version: str
    state: str


def transitions(text: str) -> list[Said]:
    """In order; a line that is not whole is not there yet."""
    return [Said(*found.groups()) for found in _LINE.finditer(text)]


def stage(text: str, version: str) -> str:
    """The farthest state that the update to `version` has come to in this boot, or nothing."""
    states = [said.state for said in transitions(text) if said.version == version]
    return max((state for state in states if state in ORDER), key=ORDER.index, default="")


def trouble(text: str) -> list[str]:
    """Lines that a board which is well never says."""
    return [line.strip()[:200] for line in text.splitlines() if any(w in line for w in TROUBLE)]
