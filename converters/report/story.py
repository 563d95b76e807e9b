"""From the original to the choice, step by step: what each pass did, and what was measured between.

A measured row is a finalist; a pass between two of them has figures of its own, taken on rows that
are not the test rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from converters.passes import KINDS, pass_words
from converters.search.result import ORIGINAL, Finalist, Found, float_model

WEIGHTS = "weights"


@dataclass(frozen=True, slots=True)
class Told:
    """One row: a pass with its words and seconds, or a finalist that was measured after it."""

    title: str
    words: str
    seconds: float | None = None
    measured: Finalist | None = None


def subject(found: Found) -> Finalist:
    """What the report is about: the choice, or what came nearest where nothing was chosen."""
    from converters.search.front import nearest

    if found.choice is not None:
        return found.finalist(found.choice)
    ready = {one.id: one.cost for one in found.finalists if one.ready}
    costs = ready or {one.id: one.cost for one in found.finalists}
    return found.finalist(nearest(costs, found.budget))


def beside(found: Found, candidate: str, engine: str, *, quantized: bool) -> Finalist | None:
    """The finalist of this shape for this engine, if there is one."""
    return next(
        (
            one
            for one in found.finalists
            if one.candidate == candidate and one.quantized is quantized and one.backend == engine
        ),
        None,
    )


def original(found: Found) -> Finalist:
    """What everything is compared with, as the budget's ratios are."""
    return float_model([one for one in found.finalists if one.candidate == ORIGINAL])


def passes_of(found: Found, candidate: str) -> Mapping[str, Mapping[str, Any]]:
    """Figures of the passes that made `candidate`, as many of them as were kept."""
    chosen = found.choice and found.finalist(found.choice).candidate == candidate
    if chosen and found.chosen is not None:
        return found.chosen.passes
    return found.conversions[candidate].passes


def story(found: Found) -> Iterator[Told]:
    """The rows, the original first and the subject last."""
    end = subject(found)
    engine = end.backend
    yield Told("the original", "float", measured=original(found))
    if end.candidate != ORIGINAL:
        after = beside(found, ORIGINAL, engine, quantized=True)
        if after:
            yield Told("the original, quantized", "what no training gives", measured=after)
        yield from _passes(found, end.candidate, {WEIGHTS})
        between = beside(found, end.candidate, engine, quantized=False)
        if between:
            yield Told(f"{end.candidate}, float", "the new shape before quantization",
                       measured=between)  # fmt: skip
    yield from _passes(found, end.candidate, {"fuse", "quantize"})
    title = "the choice" if found.choice else "the nearest"
    yield Told(title, end.id, measured=end)


def _passes(found: Found, candidate: str, stages: set[str]) -> Iterator[Told]:
    seconds = found.conversions[candidate].seconds
    if found.chosen is not None:
        seconds = {**found.chosen.seconds, **seconds}
    for title, figures in passes_of(found, candidate).items():
        kind = title.partition(" ")[0]
        if kind == "finetune" or KINDS[kind].stage not in stages:
            continue  # the fine-tuned model is what is compared with
        # What comes from the cache took no time now; some passes remember what they took.
        now = None if figures.get("cached") else seconds.get(title)
        taken = figures.get("seconds", now)
        yield Told(title, pass_words(title, figures), taken)
