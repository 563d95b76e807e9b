"""A case: one fault, put into one update, and what became of it. Data, and how a run is set up."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
LEFT_OVER = "left-overs until the next update"
"""A note: the fault hit the clearing up, and what it left was gone with the update after."""


class Ending(enum.Enum):
    """Where an update was once its fault was over. `LATER` needed a restart of the device."""

    NEW = "new bundle"
    LATER = "new bundle after a restart"
    OLD = "old bundle, the new one refused"


@dataclass(frozen=True, slots=True)
class Case:
    """One fault. `broken` names what was untrue afterwards that must be true; empty is a pass."""

    what: str
    ending: Ending
    broken: tuple[str, ...] = ()
    note: str = ""


@dataclass(slots=True)
class Setting:
    """How a kind is run.

    `at_most` bounds the cases of each sweep, evenly spread over it; None: all of them. A kind says
    what it has before it yields cases: `expect` hears the number.
    """

    folder: Path
    at_most: int | None = None
    seed: int = 1
    jobs: int = 2
    expect: Callable[[int], None] = field(default=lambda _cases: None)
    say: Callable[[str], None] = field(default=lambda _text: None)

    def some(self, all_of_them: Sequence[T]) -> list[T]:
        """`at_most` of a sweep, first and last among them."""
        if self.at_most is None or len(all_of_them) <= self.at_most:
            return list(all_of_them)
        if self.at_most == 1:
            return [all_of_them[len(all_of_them) // 2]]
        step = (len(all_of_them) - 1) / (self.at_most - 1)
        return [all_of_them[round(n * step)] for n in range(self.at_most)]


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table: what is done, and how its cases come about."""

    name: str
    title: str
    run: Callable[[Setting], Iterator[Case]]
