"""What became of one power cut, and of all of them: data, and rows of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from edge_runtime.fields import Json
from tests.board.moments import BEFORE, ORDER
from tests.board.writelog import Left

UNASKED = "unasked"
"""The start after the cut was itself cut before anybody could answer."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One power cut.

    `aim` is the state in which it was to fall, `found` the one that the disk has, with `held` of
    `needed` chunks of the new bundle. `served` is who answered first afterwards, "old" or "new".
    `broken` names what was untrue that must be true; empty is a pass.
    """

    number: int
    aim: str
    found: str
    held: int
    needed: int
    left: Left
    in_1970: bool
    served: str
    answered_s: float
    broken: tuple[str, ...]

    def as_json(self) -> dict[str, Json]:
        """For a script."""
        value: dict[str, Json] = asdict(self)
        return value


def by_state(cuts: Sequence[Cut]) -> list[tuple[str, int, int, int, int, int, int]]:
    """(state on the disk, cuts, who served first: old, new, unasked; cuts with losses, broken)."""
    rows = []
    found = {cut.found for cut in cuts}
    order = [*(state for state in (BEFORE, *ORDER) if state in found), *found.difference(ORDER)]
    for state in dict.fromkeys(order):
        some = [cut for cut in cuts if cut.found == state]
        served = Counter(cut.served for cut in some)
        lost = sum(1 for cut in some if cut.left.lost)
        broken = sum(1 for cut in some if cut.broken)
        rows.append((state, len(some), served["old"], served["new"], served[UNASKED], lost, broken))
    return rows
