"""A search's report for people: one HTML file that holds everything and loads nothing.

It opens with the choice and what it costs against the float original, then shows the front, every
finalist, how the choice came about step by step, what was tried beside it, and the choice from
inside: its layers, its classes, its nodes. What could not be measured is left out with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from converters.feeds import at_words
from converters.metrics import figure_words, is_share
from converters.passes import pass_words
from converters.pipeline import Conversion
from converters.placement.here import placement
from converters.report import front_plots
from converters.report.confused import NUMBERS, heat, moved
from converters.report.front_plots import Bounds, Mark
from converters.report.layers import TEXTS, layer_errors, sensitivities
from converters.report.plots import Series
from converters.report.story import original, passes_of, story, subject
from converters.report.template import raw, render
from converters.search.budget import bound_words
from converters.search.front import front
from converters.search.result import ORIGINAL, Finalist, Found
from converters.search.show import ENGINES
from edge_runtime.text import size

TEMPLATE = "search.html.j2"
MAX_OPERATORS = 12
MAX_PLACED = 6
"""Files whose nodes are told of whatever they are."""


def search_page(found: Found) -> str:
    """The page for `found`, which may have no choice."""
    end = subject(found)
    numbers = {one.id: place for place, one in enumerate(_ranked(found), 1)}
    conversion = found.conversions[end.candidate]
    recipe = conversion.recipe
    page = {
        "title": f"{recipe.name} {recipe.version}",
        "lead": f"The search for the best bundle for {conversion.profile.name} within the budget: "
        f"{found.budget.words()}.",
        "chosen": found.choice is not None,
        "subject": end.id,
        "broken": _broken(found, end),
        "quick": conversion.quick,
        "stopped": found.stopped,
        "notes": [f"{note[:1].upper()}{note[1:]}" for note in found.notes],
        "base": ENGINES.get(original(found).backend, original(found).backend),
        "tiles": list(_tiles(found, end)),
        "metric": end.evidence.metric,
        "front": raw(_front(found, numbers)),
        "finalists": [_finalist(found, one, numbers[one.id]) for one in _ranked(found)],
        "host": _host(found),
        "story": [_step(found, one) for one in story(found)],
        "tried": [_tried(found, one.name) for one in found.tried],
        "held": sorted({name for one in found.tried for name in one.held_out if name != "n"}),
        "plots": list(_plots(found)),
        **_classes(found, end),
        "nodes": list(_nodes(found, conversion)),
        "passes": [
            (title, pass_words(title, figures))
            for title, figures in passes_of(found, end.candidate).items()
        ],
        "provenance": list(_provenance(found, conversion)),
    }
    return render(TEMPLATE, page=page)


def _ranked(found: Found) -> list[Finalist]:
    return sorted(found.finalists, key=lambda one: (one.cost.latency_ms, one.id))


def _broken(found: Found, one: Finalist) -> str:
    """The bounds that it is over, in words, or nothing."""
    return "; ".join(
        f"{bound_words(name, getattr(one.cost, name))}, allowed "
        f"{bound_words(name, getattr(found.budget, name)).partition(' ')[2]}"
        for name in found.budget.broken(one.cost)
    )


def change_words(value: float, metric: str) -> str:
    """A difference as people read it: points of a percentage, or a signed number."""
    words = f"{100 * value:+.2f}" if is_share(metric) else f"{value:+.4f}"
    return "±0" if not value else words.replace("-", "−")


def _unit(metric: str) -> str:
    return " points" if is_share(metric) else ""


def times(before: float, after: float, words: tuple[str, str]) -> str:
    """`3.4× smaller`, or the second word where it grew."""
    if after <= before:
        return f"{before / max(after, 1e-12):.1f}× {words[0]}"
    return f"{after / max(before, 1e-12):.1f}× {words[1]}"


def _tiles(found: Found, end: Finalist) -> Iterator[dict[str, str]]:
    """What the choice costs and saves against the float original, in four figures."""
    base, evidence = original(found), end.evidence
    yield {
        "name": "Size",
        "value": times(base.cost.size_bytes, end.cost.size_bytes, ("smaller", "larger")),
        "words": f"{size(base.cost.size_bytes)} → {size(end.cost.size_bytes)}",
    }
    longest = max(evidence.latency_ms)
    yield {
        "name": f"Latency{at_words(longest)}",
        "value": times(base.cost.latency_ms, end.cost.latency_ms, ("faster", "slower")),
        "words": f"{base.cost.latency_ms:.2f} → {end.cost.latency_ms:.2f} ms, p50, on this host",
    }
    low, high = evidence.difference.interval
    yield {
        "name": evidence.metric.capitalize(),
        "value": f"{change_words(evidence.difference.value, evidence.metric)}"
        f"{_unit(evidence.metric)}",
        "words": f"{figure_words(evidence.reference, evidence.metric)} → "
        f"{figure_words(evidence.value, evidence.metric)}; 95 % interval of the difference "
        f"{change_words(low, evidence.metric)} to {change_words(high, evidence.metric)}, "
        f"paired, n = {evidence.n:,}",
    }
    if end.cost.ram_bytes:
        bound = found.budget.ram_bytes
        yield {
            "name": "Memory",
            "value": size(end.cost.ram_bytes),
            "words": "peak of a process that loads it and answers, engine included"
            + (f"; allowed {size(bound)}" if bound else ""),
        }


def _front(found: Found, numbers: Mapping[str, int]) -> str:
    """The plot. Every variant stands at the original's figure plus its paired difference."""
    metric = subject(found).evidence.metric
    reference = _reference(found)
    marks = []
    for one in _ranked(found):
        difference = one.evidence.difference
        marks.append(
            Mark(
                number=numbers[one.id],
                series=Series(one.id, one.backend, one.quantized),
                latency_ms=one.cost.latency_ms,
                size_bytes=one.cost.size_bytes,
                value=reference + difference.value,
                interval=(reference + difference.interval[0], reference + difference.interval[1]),
                within=not found.budget.broken(one.cost),
                chosen=one.id == found.choice,
            )
        )
    costs = {one.id: one.cost for one in found.finalists}
    line = [numbers[name] for name in front(costs, over=("latency_ms", "drop"))]
    bounds = Bounds(found.budget.latency_ms, reference - found.budget.drop, reference)
    return front_plots.front("front", metric, marks, line, bounds)


def _reference(found: Found) -> float:
    """The original's figure on all test rows, in torch's arithmetic."""
    verdict = found.conversions[ORIGINAL].model.verdict
    assert verdict is not None
    return verdict.reference.value


def _host(found: Found) -> str:
    verdict = found.conversions[ORIGINAL].model.verdict
    assert verdict is not None
    return verdict.host


def _finalist(found: Found, one: Finalist, number: int) -> dict[str, Any]:
    base, evidence = original(found), one.evidence
    low, high = evidence.difference.interval
    broken = found.budget.broken(one.cost)
    states = []
    if one.id == found.choice:
        states.append(("the choice", "good"))
    if one.id in found.front:
        states.append(("on the front", ""))
    if broken:
        over = ", ".join(name.removesuffix("_bytes").removesuffix("_ms") for name in broken)
        states.append((f"over: {over}", "bad"))
    return {
        "number": number,
        "candidate": one.candidate,
        "variant": one.name,
        "backend": one.backend,
        "quantized": one.quantized,
        "chosen": one.id == found.choice,
        "size": size(one.cost.size_bytes),
        "size_ratio": f"{one.cost.size_bytes / base.cost.size_bytes:.2f}×",
        "latency": f"{one.cost.latency_ms:.2f}",
        "latency_ratio": f"{one.cost.latency_ms / base.cost.latency_ms:.2f}×",
        "ram": size(one.cost.ram_bytes) if one.cost.ram_bytes else "–",
        "value": figure_words(evidence.value, evidence.metric),
        "n": "" if evidence.n == _most_rows(found) else f"n = {evidence.n:,}",
        "difference": change_words(evidence.difference.value, evidence.metric),
        "interval": f"{change_words(low, evidence.metric)} to "
        f"{change_words(high, evidence.metric)}",
        "agreement": f"{evidence.agreement:.2%}",
        "states": states,
    }


def _most_rows(found: Found) -> int:
    return max(one.evidence.n for one in found.finalists)


def _step(found: Found, told: Any) -> dict[str, Any]:
    """A row of the story; the bars are shares of the original's cost."""
    row: dict[str, Any] = {
        "title": told.title,
        "words": told.words,
        "seconds": "" if told.seconds is None else f"{told.seconds:,.1f} s",
        "measured": told.measured is not None,
    }
    if told.measured is not None:
        one, base = told.measured, original(found)
        evidence = one.evidence
        row |= {
            "size": size(one.cost.size_bytes),
            "size_share": f"{min(100, 100 * one.cost.size_bytes / base.cost.size_bytes):.0f}",
            "latency": f"{one.cost.latency_ms:.2f} ms",
            "latency_share": f"{min(100, 100 * one.cost.latency_ms / base.cost.latency_ms):.0f}",
            "value": figure_words(evidence.value, evidence.metric),
            "difference": change_words(evidence.difference.value, evidence.metric)
            + ("" if evidence.n == _most_rows(found) else f", n = {evidence.n:,}"),
        }
    return row


def _tried(found: Found, name: str) -> dict[str, Any]:
    one = next(one for one in found.tried if one.name == name)
    longest = max(len(other.rungs) for other in found.tried)
    measured = any(other.candidate == name for other in found.finalists)
    dropped = "" if len(one.rungs) == longest else f"dropped, rung {len(one.rungs)}"
    return {
        "name": one.name,
        "estimated_ms": f"{one.estimated_ms:.2f}",
        "estimated_size": size(one.estimated_bytes),
        "rungs": " + ".join(f"{steps:,}" for steps in one.rungs),
        "seconds": f"{one.seconds:,.0f} s",
        "held": {key: f"{value:,.4g}" for key, value in one.held_out.items()},
        "rows": f"{one.held_out.get('n', 0):,.0f}",
        "loss": f"{one.loss:.4f}",
        "state": "measured" if measured else dropped or "not measured",
        "good": measured,
    }


def _plots(found: Found) -> Iterator[dict[str, Any]]:
    """Training, sensitivity and error of layers; a figure that cannot be drawn says why."""
    courses = front_plots.as_courses(_histories(found))
    if courses:
        yield {
            "title": "Training of the shapes",
            "words": "Loss of the training batches, and below it how often the student answers as "
            "its teacher does (or how close its vectors are) on rows held out of training. Rungs "
            "end at the dashed lines.",
            "svg": raw(front_plots.trainings("training", courses)),
        }
    for place, (title, parts, curves) in enumerate(sensitivities(found)):
        yield {
            "title": f"What each layer bears: {title}",
            "words": f"Loss of the network's output with {parts} of one layer alone gone, "
            "calibration texts. Flat layers are cut first.",
            "svg": raw(front_plots.sensitivity(f"sensitivity-{place}", curves, parts)),
        }
    errors, reason = layer_errors(found)
    plot: dict[str, Any] = {
        "title": "Error by layer, float against quantized",
        "words": f"Signal over error at each layer's output, {TEXTS} calibration rows, errors of "
        "the layers before included. 20 dB is an error of 10 % of the signal, 30 dB of 3 %.",
        "svg": raw(front_plots.layer_error("errors", errors)) if errors else "",
    }
    if not errors:
        plot["words"] = f"Could not be measured: {reason}."
    yield plot


def _histories(found: Found) -> dict[str, list[Any]]:
    histories = {}
    for name in found.conversions:
        rungs = [
            figures["history"]
            for title, figures in passes_of(found, name).items()
            if title.startswith("distil") and figures.get("history")
        ]
        if rungs:
            histories[name] = rungs
    return histories


def _classes(found: Found, end: Finalist) -> dict[str, Any]:
    """The two matrices, where there are classes and not too many."""
    conversion = found.conversions[end.candidate]
    classes = conversion.model.interface(conversion.recipe.data).labels
    verdict = found.conversions[ORIGINAL].model.verdict
    assert verdict is not None
    before, after = verdict.reference.confusion, end.evidence.confusion
    if not before or not after:
        return {"confusion": [], "moved": [], "numbers": False, "classes": []}
    return {
        "confusion": [
            ("The original", heat(classes, before)),
            (end.id, heat(classes, after)),
        ],
        "moved": moved(classes, before, after) if end.evidence.n == _total(before) else [],
        "numbers": len(classes) <= NUMBERS,
        "classes": list(classes),
    }


def _total(matrix: Sequence[Sequence[int]]) -> int:
    return sum(sum(row) for row in matrix)


def _nodes(found: Found, conversion: Conversion) -> Iterator[dict[str, Any]]:
    """Where the nodes of each file of the subject's shape run; of many, of those that count."""
    candidates = conversion.model.candidates
    if len(candidates) > MAX_PLACED:
        end = subject(found)
        kept = {end.name, *(found.finalist(one).name for one in found.front)}
        candidates = tuple(one for one in candidates if one.id in kept or not one.quantized)
    for candidate in candidates:
        row: dict[str, Any] = {"id": candidate.id, "backend": candidate.backend,
                               "quantized": candidate.quantized}  # fmt: skip
        try:
            placed = placement(candidate.backend, candidate.artifact.path)
        except Exception as reason:  # an engine's own; the report goes on without it
            yield row | {
                "in_file": "–", "runs": f"where they run is unknown: {reason}"[:200],
                "operators": [],
            }  # fmt: skip
            continue
        homes: dict[str, int] = {}
        for node in placed.nodes:
            homes[node.runs_on] = homes.get(node.runs_on, 0) + node.count
        runs = " and ".join(f"{count:,} on {home}" for home, count in sorted(homes.items()))
        shown = [(node.operator, node.count) for node in placed.nodes[:MAX_OPERATORS]]
        rest = sum(node.count for node in placed.nodes[MAX_OPERATORS:])
        yield row | {
            "in_file": placed.in_file,
            "runs": f"{sum(homes.values()):,} run, {runs} ({placed.evidence})",
            "operators": shown + ([("others", rest)] if rest else []),
        }


def _provenance(found: Found, conversion: Conversion) -> Iterator[tuple[str, str, bool]]:
    """Name, value, and whether the value is to be copied exactly."""
    model = conversion.model
    yield "model", model.name, False
    yield "licence", model.licence, False
    yield "model sha256", model.source_sha256, True
    yield "profile", f"{conversion.profile.name}, {conversion.profile.title}", False
    yield "seed", str(conversion.recipe.seed), False
    yield "budget", found.budget.words(), False
    yield "time", f"{found.seconds / 60:.1f} of {found.minutes:g} minutes", False
    yield "memory of the search", f"{size(found.peak_rss_bytes)} at its peak", False
    if found.recipe is not None:
        yield "recipe", str(found.recipe), False
    if found.chosen is not None and found.chosen.model.bundle is not None:
        yield "bundle", str(found.chosen.model.bundle), False
