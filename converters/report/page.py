"""The report for people: one HTML file that holds everything and loads nothing.

Every word goes through Jinja's escaping; only the figures, which `plots` made, go in as they are.
A figure that was measured says where. What nobody measured is called unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from converters.cache import tool_versions
from converters.configs import VerifyConfig
from converters.draft import TOOLS
from converters.feeds import at_words
from converters.metrics import figure_words
from converters.model import Candidate, Evidence
from converters.passes import pass_words
from converters.pipeline import Conversion
from converters.placement.result import first_names
from converters.placement.words import placed_words
from converters.report import plots
from converters.report.figures import (
    baseline,
    emulated_words,
    left_out,
    measured,
    state,
    unproved,
)
from converters.report.plots import Series
from converters.report.template import raw, render
from edge_runtime.text import size

TEMPLATE = "page.html.j2"
MAX_CLASSES = 60
"""More would be a wall; the worst are shown."""


def html_page(conversions: Sequence[Conversion]) -> str:
    """The page for `conversions`, which come from one recipe."""
    page = _page(conversions)
    for conversion in page["conversions"]:
        for plot in conversion["plots"]:
            plot["svg"] = raw(plot["svg"])
    return render(TEMPLATE, page=page)


def _page(conversions: Sequence[Conversion]) -> dict[str, Any]:
    first = conversions[0]
    recipe = first.recipe
    return {
        "title": f"{recipe.name} {recipe.version}",
        "lead": f"{recipe.task.capitalize().replace('-', ' ')} on {first.model.name}, "
        f"converted for {', '.join(one.profile.name for one in conversions)}.",
        "quick": any(one.quick for one in conversions),
        "conversions": [_section(index, one) for index, one in enumerate(conversions)],
    }


def _section(index: int, conversion: Conversion) -> dict[str, Any]:
    pairs = measured(conversion)
    base = baseline(conversion)
    lengths = sorted(base[1].latency_ms)
    verdict = conversion.model.verdict
    assert verdict is not None
    whole = [pair for pair in pairs if pair[1].n == verdict.reference.n]
    classes, classes_words = _classes(conversion, whole)
    return {
        "anchor": f"profile-{index}",
        "profile": conversion.profile.name,
        "board": conversion.profile.title,
        "metric": verdict.reference.metric,
        "baseline": base[0].id,
        "lengths": lengths,
        "tiles": list(_tiles(conversion, pairs, base)),
        "rows": [_row(conversion, pair, base, lengths) for pair in pairs],
        "latency_evidence": f"Latency: p50, 1 thread, batch 1, all variants taking turns; measured "
        f"on {verdict.host}, not on the board.",
        "quality_evidence": f"Quality: {verdict.reference.n:,} test rows where no other n is "
        "given, one at a time, each variant on its own engine; measured on the same host. "
        "Memory: unknown."
        + (
            " What is meant for an accelerator answered by this host's CPU, from the same file."
            if any(candidate.placed is not None for candidate, _ in pairs)
            else ""
        ),
        "parity": [
            {"id": one.id, "error": f"{one.max_error:.1e}", "n": f"{one.n:,}"}
            for candidate, one in pairs
            if not candidate.quantized
        ],
        "placements": [_placement(*pair) for pair in pairs if pair[0].placed is not None],
        "refused": [
            {"id": one.id, "reason": one.refused} for one in verdict.candidates if one.refused
        ],
        "missing": [*left_out(conversion), *unproved(conversion)],
        "bounds": _bounds(
            _verify_config(conversion), verdict.reference.metric, bool(verdict.reference.classes)
        ),
        "plots": list(_plots(f"p{index}", conversion, pairs)),
        "classes": classes,
        "classes_words": classes_words,
        "class_variants": [candidate.id for candidate, _ in whole],
        "passes": list(_passes(conversion)),
        "provenance": list(_provenance(conversion)),
    }


def _tiles(
    conversion: Conversion,
    pairs: Sequence[tuple[Candidate, Evidence]],
    base: tuple[Candidate, Evidence],
) -> Iterator[dict[str, str]]:
    """The preferred variant in four figures."""
    candidate, evidence = next((pair for pair in pairs if not pair[1].refused), pairs[0])
    verdict = conversion.model.verdict
    assert verdict is not None
    reference = verdict.reference
    yield {
        "name": "Size",
        "value": f"{candidate.artifact.size_bytes / base[0].artifact.size_bytes:.2f}×",
        "words": f"{size(candidate.artifact.size_bytes)}, "
        f"float {size(base[0].artifact.size_bytes)}",
    }
    if candidate.placed is not None:
        share = candidate.placed.share
        yield {
            "name": f"On {candidate.accelerator}",
            "value": "unknown" if share is None else f"{share:.0%}",
            "words": placed_words(candidate.placed),
        }
    if evidence.latency_ms:
        longest = max(evidence.latency_ms)
        now, before = evidence.latency_ms[longest], base[1].latency_ms[longest]
        yield {
            "name": f"Latency{at_words(longest)}",
            "value": f"{now / before:.2f}×",
            "words": f"{now:.2f} ms, float {before:.2f} ms, on this host",
        }
    low, high = evidence.interval
    yield {
        "name": reference.metric.capitalize(),
        "value": figure_words(evidence.value, reference.metric),
        "words": f"float {figure_words(reference.value, reference.metric)}; 95 % interval "
        f"{figure_words(low, reference.metric)} to {figure_words(high, reference.metric)}, "
        f"n = {evidence.n:,}",
    }
    yield {
        "name": "Agreement with float",
        "value": f"{evidence.agreement:.2%}",
        "words": f"of the answers of {candidate.id}, the variant that a device tries first",
    }


def _row(
    conversion: Conversion,
    pair: tuple[Candidate, Evidence],
    base: tuple[Candidate, Evidence],
    lengths: Sequence[int],
) -> dict[str, Any]:
    candidate, evidence = pair
    low, high = evidence.interval
    assert conversion.model.verdict is not None
    reference = conversion.model.verdict.reference
    words, good = state(conversion, candidate, evidence)
    return {
        "id": candidate.id,
        "backend": candidate.backend,
        "quantized": candidate.quantized,
        "size": size(candidate.artifact.size_bytes),
        "size_ratio": f"{candidate.artifact.size_bytes / base[0].artifact.size_bytes:.2f}×",
        "latencies": [
            {
                "value": f"{evidence.latency_ms[n]:.2f}",
                "ratio": f"{evidence.latency_ms[n] / base[1].latency_ms[n]:.2f}×",
            }
            if evidence.latency_ms
            else {"value": "–", "ratio": "on the board"}
            for n in lengths
        ],
        "value": figure_words(evidence.value, evidence.metric),
        "interval": f"{figure_words(low, evidence.metric)} to {figure_words(high, evidence.metric)}"
        + ("" if evidence.n == reference.n else f", n = {evidence.n:,}"),
        "agreement": f"{evidence.agreement:.2%}",
        "state": words,
        "state_class": {True: "good", False: "bad", None: ""}[good],
    }


def _placement(candidate: Candidate, evidence: Evidence) -> dict[str, Any]:
    """Where the operators of one variant run: a bar, and what is off by operator and reason."""
    placed = candidate.placed
    assert placed is not None
    return {
        "id": candidate.id,
        "accelerator": candidate.accelerator,
        "words": placed_words(placed) + emulated_words(evidence),
        "share": None if placed.share is None else f"{100 * placed.share:.1f}",
        "off": [
            {"operator": one.operator, "count": len(one.names), "reason": one.reason,
             "names": first_names(one.names)}
            for one in placed.groups
            if not one.on
        ],
    }  # fmt: skip


def _plots(
    prefix: str, conversion: Conversion, pairs: Sequence[tuple[Candidate, Evidence]]
) -> Iterator[dict[str, str]]:
    verdict = conversion.model.verdict
    assert verdict is not None
    reference = verdict.reference
    drawn = [(Series(c.id, c.backend, c.quantized), c, e) for c, e in pairs]
    yield {
        "title": "Size",
        "words": "The file of each variant; what a device stores is one of them or more.",
        "svg": plots.size_bars(
            f"{prefix}-size",
            [(s, c.artifact.size_bytes / 1e6, size(c.artifact.size_bytes)) for s, c, _ in drawn],
        ),
    }
    yield {
        "title": "Latency by token count",
        "words": f"p50, 1 thread, batch 1. Measured on {verdict.host}, not on the board.",
        "svg": plots.latency_lines(
            f"{prefix}-latency", [(s, e.latency_ms) for s, _, e in drawn if e.latency_ms]
        ),
    }
    lowest = reference.value - _verify_config(conversion).max_drop
    yield {
        "title": f"{reference.metric.capitalize()}, before and after",
        "words": f"On {reference.n:,} test rows, with the 95 % interval of each. The network in "
        "torch's arithmetic is the reference.",
        "svg": plots.quality_intervals(
            f"{prefix}-quality",
            reference.metric,
            [
                (Series("reference", "", True), reference.value, reference.interval),
                # On fewer rows it would be another figure: not beside this one.
                *((s, e.value, e.interval) for s, _, e in drawn if e.n == reference.n),
            ],
            lowest,
        ),
    }
    history = conversion.passes.get("finetune", {}).get("history")
    if isinstance(history, Sequence) and history:
        points = [(int(p[0]), float(p[1]), float(p[2])) for p in history]  # type: ignore[index, arg-type]
        yield {
            "title": "Training",
            "words": "On training batches, means over twenty steps.",
            "svg": plots.training_curve(f"{prefix}-training", points),
        }


def _classes(
    conversion: Conversion, pairs: Sequence[tuple[Candidate, Evidence]]
) -> tuple[list[dict[str, Any]], str]:
    """A row a class, a cell a variant, and a sentence about what is shown."""
    by_label = [{one.label: one for one in evidence.classes} for _, evidence in pairs]
    figures = pairs[0][1].classes
    words = (
        "Share of the class's test rows to which a variant gives the same answer as float, and "
        "below it how the class's accuracy changed, in points."
    )
    shown = list(figures)
    if len(shown) > MAX_CLASSES:
        shown = sorted(shown, key=lambda one: (one.agreement, one.label))[:MAX_CLASSES]
        words += f" The {MAX_CLASSES} classes of {len(figures):,} that agree least are shown."
    bound = _verify_config(conversion).min_agreement
    rows = []
    for one in shown:
        cells = []
        for table in by_label:
            found = table[one.label]
            # 90 % and less is white, 100 % the full colour: the eye needs the upper end.
            strength = max(0.0, (found.agreement - 0.9) / 0.1)
            change = 100 * (found.accuracy - found.reference_accuracy)
            cells.append(
                {
                    "agreement": f"{found.agreement:.1%}",
                    "change": "±0" if abs(change) < 0.05 else f"{change:+.1f}",
                    "share": f"{8 + 42 * strength:.0f}",
                    "low": found.agreement < bound - 0.05,
                }
            )
        rows.append(
            {
                "label": one.label,
                "rows": f"{one.rows:,}",
                "reference": f"{one.reference_accuracy:.1%}",
                "cells": cells,
            }
        )
    return rows, words


def _passes(conversion: Conversion) -> Iterator[tuple[str, str]]:
    """One line a pass: what it did, in words, and how long it took."""
    for name, figures in conversion.passes.items():
        seconds = conversion.seconds.get(name, 0.0)
        words = pass_words(name, figures)
        yield name, f"{words}{'; ' if words else ''}{seconds:.1f} s"


def _provenance(conversion: Conversion) -> Iterator[tuple[str, str, bool]]:
    """Name, value, and whether the value is to be copied exactly."""
    recipe, model = conversion.recipe, conversion.model
    yield "model", model.name, False
    yield "licence", model.licence, False
    yield "model sha256", model.source_sha256, True
    yield "recipe", str(recipe.path), False
    yield "recipe sha256", recipe.sha256, True
    yield "seed", str(recipe.seed), False
    yield "created", f"{recipe.created}, as the recipe says", False
    yield "profile sha256", conversion.profile.sha256, True
    package = conversion.passes.get("package", {})
    if "manifest_sha256" in package:
        yield "manifest sha256", str(package["manifest_sha256"]), True
        yield "bundle", re.sub(r".*/", "", str(package["bundle"])), False
    tools = ", ".join(f"{name} {version}" for name, version in tool_versions(*TOOLS).items())
    yield "tools", tools, False


def _bounds(config: VerifyConfig, metric: str, agreed: bool) -> str:
    """What a variant must reach; `agreed` where classes can be compared."""
    words = [f"{metric} at most {figure_words(config.max_drop, metric)} below the reference"]
    if agreed:
        words.append(f"agreement {config.min_agreement:.0%} or more")
    words.append(f"cosine {config.min_cosine:g} or more on every golden vector")
    return f"They are: {', '.join(words)}."


def _verify_config(conversion: Conversion) -> VerifyConfig:
    config = conversion.recipe.config(VerifyConfig)
    assert config is not None  # no recipe is without
    return config
