"""The floor: how much of a model must run on the accelerator, and what to change where it does not.

Only what is known can miss a floor. Tools give reasons in their vendors' words; `ADVICE` says what
to do about the kinds that occur, the first that matches.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from converters.placement.result import Placed, first_names, percent
from edge_runtime.errors import InputError
from edge_runtime.profile import Engine
from edge_runtime.profile.engine import Demands
from edge_runtime.text import MAX_ERROR, plain

REASONS = 3
"""That a sentence tells, each with its first nodes."""

CHANNEL, TENSOR = "static_w8a8_channel", "static_w8a8_tensor"
FLOATS = (
    f"quantize its activations too ({CHANNEL}, integer throughout): float operators are not for "
    "this accelerator"
)
TYPES = f"use a type that it takes: 8-bit activations ({CHANNEL}), 32-bit indexes"
OTHER_OPERATORS = (
    "say it with other operators in the source model, or leave it to the application's own pre- "
    "or postprocessing"
)
ADVICE: tuple[tuple[str, str], ...] = (
    (
        r"power of two",
        "quantize with scales that are powers of two, as the profile demands",
    ),
    (
        r"weights are packed",
        "leave the weights in float: this accelerator does not unpack integers",
    ),
    (
        r"^behind ",
        "mend the operator in front of it, or move that one to the end of the model",
    ),
    (
        r"(?i)float|hybrid|\bFP?(16|32)\b|not quantized|without a scale",
        FLOATS,
    ),
    (
        r"(?i)\bu?int(16|32|64)\b|16-bit|data ?type|[io]fm type|precision",
        TYPES,
    ),
    (
        r"(?i)not fixed|free dim|dynamic (shape|dim|size)|(is|are) computed|unknown shape|symbolic",
        "fix the shapes of the inputs (--shape), so that no size is computed",
    ),
    (
        r"(?i)opset|version",
        "export with the opset of the profile's demands",
    ),
    (
        r"(?i)per.?channel|for each channel|per.?tensor",
        "quantize with one scale for a tensor (static_w8a8_tensor)",
    ),
    (
        r"(?i)zero.?point|symmetric",
        "quantize symmetrically: zero points of 0",
    ),
    (
        r"(?i)unsupported op|no operator of|not among the operators|not supported|cpu only",
        OTHER_OPERATORS,
    ),
    (
        r"(?i)dimension|dims|rank|shape|axis|axes|batch|depth|stride|dilation|padding|kernel",
        "give it a shape within the limits that the reason names",
    ),
)
ALLOW = "--allow-fallback"
OTHERWISE = "change the operator in the source model"
LEAVE = "leave it: it computes nothing and only moves numbers"
MOVERS = frozenset(("EXPANDDIMS", "FLATTEN", "RESHAPE", "SQUEEZE", "TRANSPOSE", "UNSQUEEZE"))
"""Operators that only move numbers, in both formats' names, without underscores."""
VAIN = (FLOATS, TYPES, OTHER_OPERATORS, OTHERWISE)
"""What is no help with those."""
ANYTHING = Demands()


class BelowFloor(InputError):
    """Less of a model runs on the accelerator than the profile asks for."""


class NotProved(BelowFloor):
    """Nothing is known of what runs on the accelerator, and proof was asked for."""


def advice(reason: str, demands: Demands = ANYTHING, operator: str = "") -> str:
    """What to change about an `operator` that is off for `reason`, within the profile's demands."""
    words = next((words for kind, words in ADVICE if re.search(kind, reason)), OTHERWISE)
    if operator.upper().replace("_", "") in MOVERS and words in VAIN:
        return LEAVE
    return words.replace(CHANNEL, TENSOR) if demands.per_tensor else words


def meets(placed: Placed, engine: Engine) -> bool:
    """Whether nothing is known that misses the engine's floor."""
    share = placed.share
    return share is None or share >= engine.coverage


def check_coverage(placed: Placed, engine: Engine, where: str) -> None:
    """The share on the accelerator is at the engine's `coverage` at least, as far as it is known.

    `where` begins the sentence.

    Raises:
        BelowFloor: it is not; names the first nodes that fell off, and what to change about each
            reason.
    """
    share = placed.share
    if share is None or share >= engine.coverage:
        return
    changes = "; ".join(
        f"{words} ({named})" for words, named in _changes(placed, engine.demands).items()
    )
    raise BelowFloor(
        plain(
            f"{where}: {percent(share)} of its operators run on {engine.accelerator} "
            f"({placed.evidence} by {placed.tool}), the profile's floor is "
            f"{percent(engine.coverage)}. "
            f"On the CPU: {_first(placed)}. To change: {changes}. "
            f"Or take it as it is: {ALLOW}",
            MAX_ERROR,
        )
    )


def _first(placed: Placed) -> str:
    """The first nodes that fell off, with those that did for the same reason."""
    names: dict[str, list[str]] = {}
    for node in placed.off:
        names.setdefault(node.reason, []).append(node.name)
    told = [f"{first_names(some)}: {reason}" for reason, some in list(names.items())[:REASONS]]
    if len(names) > REASONS:
        told.append(f"{len(names) - REASONS} more reasons")
    return "; ".join(told)


def _changes(placed: Placed, demands: Demands) -> Mapping[str, str]:
    """Advice → the operators that it is about, of the reasons with most nodes."""
    found: dict[str, dict[str, None]] = {}
    for group in placed.groups:
        if not group.on:
            found.setdefault(advice(group.reason, demands, group.operator), {})[group.operator] = (
                None
            )
    return {words: first_names(list(kinds)) for words, kinds in list(found.items())[:REASONS]}
