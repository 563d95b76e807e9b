"""What a bundle may cost and may lose, as a person writes it, and whether figures are within. Pure.

A person writes four bounds, each optional: `latency_ms` (p50 of the longest input, one thread, on
this host), `size_bytes` (the model's file), `ram_bytes` (peak of a process that loads it and
answers), `drop` (how far the metric may be below the original's). Instead of the first two a ratio
may be given, of the original's float model, because milliseconds of this host say little of a
board: `faster`, `smaller`. A fifth bound is the recipe's: what answers its golden vectors otherwise
than its float model does would not be packed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from converters.metrics import ROUNDING
from edge_runtime.errors import InputError
from edge_runtime.text import size

UNITS = {"": 1, "k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9,
         "kib": 2**10, "mib": 2**20, "gib": 2**30}  # fmt: skip
MOST = 1e15
HIGHEST = {"drop": 1e9, "faster": 1e6, "smaller": 1e6}
"""Bounds above these are slips of the pen; errors of a regression can drop by more than 1."""
USUAL_DROP = 0.01
"""What may be lost where a budget does not say: a point of accuracy, 0.01 of a cosine."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Figures of one candidate, in the units of a budget. `drop` is negative where it is better.

    `golden` is the lowest cosine with its own float model on a golden vector, 0..1.
    """

    latency_ms: float
    size_bytes: float
    ram_bytes: float
    drop: float
    golden: float = 1.0


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper bounds; 0 means that there is none, except of `drop`, which always has one.

    `faster` and `smaller` become bounds by `against`, once the original was measured. `golden` is a
    lower bound.
    """

    latency_ms: float = 0.0
    size_bytes: float = 0.0
    ram_bytes: float = 0.0
    drop: float = USUAL_DROP
    faster: float = 0.0
    smaller: float = 0.0
    golden: float = 0.0

    def against(self, original: Cost) -> Budget:
        """The same with ratios to `original` made bounds; the stricter of two counts."""
        return replace(
            self,
            latency_ms=_stricter(self.latency_ms, original.latency_ms, self.faster),
            size_bytes=_stricter(self.size_bytes, original.size_bytes, self.smaller),
            faster=0.0,
            smaller=0.0,
        )

    def broken(self, cost: Cost) -> dict[str, float]:
        """The bounds that `cost` is over, each with how many times; empty where it is within."""
        over = {}
        for name in COSTS:
            bound, found = getattr(self, name), getattr(cost, name)
            if bound and not found <= bound:
                over[name] = found / bound
        if not cost.drop <= self.drop + ROUNDING:
            times = cost.drop / max(self.drop, USUAL_DROP / 10)
            over["drop"] = max(times, 1 + ROUNDING) if math.isfinite(times) else math.inf
        if not cost.golden >= self.golden:
            over["golden"] = (1 - cost.golden) / max(1 - self.golden, ROUNDING)
        return over

    def words(self) -> str:
        """For people, as `latency 5 ms, size 9.0 MB, drop 0.01`."""
        shown = [bound_words(name, getattr(self, name)) for name in BOUNDS
                 if name != "drop" and getattr(self, name)]  # fmt: skip
        return ", ".join([*shown, bound_words("drop", self.drop)])


COSTS = ("latency_ms", "size_bytes", "ram_bytes")
BOUNDS: tuple[str, ...] = tuple(one.name for one in fields(Budget) if one.name != "golden")
"""Those that a person writes."""


def _stricter(bound: float, original: float, ratio: float) -> float:
    """The lower of a bound, 0 for none, and the original's share, 0 for none."""
    wanted = [one for one in (bound, original / ratio if ratio else 0.0) if one]
    return min(wanted, default=0.0)


def bound_words(name: str, value: float) -> str:
    """One bound or figure with its unit."""
    if name.endswith("_bytes"):
        return f"{name.removesuffix('_bytes')} {size(round(value))}"
    if name in ("faster", "smaller"):
        return f"{value:g} times {name}"
    if name == "golden":
        return f"cosine {value:.4f} on a golden vector"
    return f"latency {value:.3g} ms" if name == "latency_ms" else f"drop {value:.4g}"


def parse_budget(words: Sequence[str], usual: Budget) -> Budget:
    """`name=value` pairs, several to a word with commas between, over the bounds in `usual`.

    A number may have a unit (`size_bytes=9MB`) or be a percentage (`drop=2%`).

    Raises:
        InputError: a name is not known or stands twice, a value is no number above 0.
    """
    found: dict[str, float] = {}
    for pair in (part.strip() for word in words for part in word.split(",")):
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or name not in BOUNDS:
            raise InputError(
                f"budget {pair!r}: expected name=value with a name of {', '.join(BOUNDS)}"
            )
        if name in found:
            raise InputError(f"budget {pair!r}: {name} stands twice")
        found[name] = _value(name, text)
    return Budget(**{name: found.get(name, getattr(usual, name)) for name in BOUNDS})


def _value(name: str, text: str) -> float:
    match = re.fullmatch(r"([0-9]*\.?[0-9]+|[0-9]+\.)\s*(%|[a-z]*)", text.lower())
    units: Mapping[str, float] = {"": 1}
    if name.endswith("_bytes"):
        units = UNITS
    elif name == "latency_ms":
        units = {"": 1, "ms": 1, "s": 1000}
    elif name == "drop":
        units = {"": 1, "%": 0.01}
    else:
        units = {"": 1, "x": 1}
    value = round(float(match[1]) * units[match[2]], 12) if match and match[2] in units else -1.0
    lowest = "a number from 0 on" if name == "drop" else "a number above 0"
    if not (value > 0 or (name == "drop" and value == 0)) or value > HIGHEST.get(name, MOST):
        raise InputError(
            f"budget {name}={text}: expected {lowest}, such as 0.5 or 12, with one of the units "
            f"{', '.join(one for one in units if one)} or none"
        )
    return value
