"""A conversion's figures as JSON, and as the short table that the command line prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from converters.metrics import figure_words
from converters.model import Candidate, Evidence
from converters.pipeline import Conversion
from converters.placement.build import BUILDERS
from converters.placement.targets import TARGETS
from converters.placement.words import placed_words
from converters.show import over_budget, table
from converters.steps import LEFT_OUT
from edge_runtime.text import MAX_ERROR, plain, size


def as_json(conversions: Sequence[Conversion]) -> dict[str, Any]:
    """Everything, one entry a profile."""
    return {"conversions": [_conversion(one) for one in conversions]}


def _conversion(conversion: Conversion) -> dict[str, Any]:
    return {
        "name": conversion.recipe.name,
        "version": conversion.recipe.version,
        "profile": conversion.profile.name,
        "task": conversion.recipe.task,
        "quick": conversion.quick,
        "recipe_sha256": conversion.recipe.sha256,
        "seconds": dict(conversion.seconds),
        "passes": {name: dict(figures) for name, figures in conversion.passes.items()},
    }


def measured(conversion: Conversion) -> list[tuple[Candidate, Evidence]]:
    """Each candidate with what was measured of it, in the bundle's order."""
    verdict = conversion.model.verdict
    assert verdict is not None
    return list(zip(conversion.model.candidates, verdict.candidates, strict=True))


def baseline(conversion: Conversion) -> tuple[Candidate, Evidence]:
    """What ratios are taken of: ONNX Runtime float, else the first float candidate."""
    floats = [pair for pair in measured(conversion) if not pair[0].asked_for]
    return next((pair for pair in floats if pair[0].backend == "onnxruntime"), floats[0])


def state(
    conversion: Conversion, candidate: Candidate, evidence: Evidence
) -> tuple[str, bool | None]:
    """What became of a candidate, in a word or two; whether that is good, bad or neither."""
    if evidence.refused:
        return "refused", False
    packed = conversion.passes.get("package", {}).get("variants")
    names = list(packed) if isinstance(packed, Sequence) else []
    if candidate.id not in names:
        return "to compare", None
    return (
        "first" if names[0] == candidate.id else f"number {names.index(candidate.id) + 1}"
    ), True


def emulated_words(evidence: Evidence) -> str:
    """What the vendor's emulator made of the golden vectors, or nothing."""
    if evidence.emulated_cosine is None:
        return ""
    return f"; golden vectors there: cosine {evidence.emulated_cosine:.4f} at least"


def left_out(conversion: Conversion) -> list[str]:
    """A line for each way to an accelerator that the bundle is without."""
    found: dict[str, str] = {}
    quantized = conversion.passes.get("quantize", {})
    for name, notes in quantized.items():
        if isinstance(notes, Mapping) and LEFT_OUT in notes:
            found[name] = str(notes[LEFT_OUT])
    packed = conversion.passes.get("package", {}).get("left_out")
    if isinstance(packed, Mapping):
        found |= {name: str(why) for name, why in packed.items()}
    made = {(one.backend, one.accelerator) for one in conversion.model.candidates}
    for engine in conversion.profile.engines:
        if engine.backend in BUILDERS and (engine.backend, engine.accelerator) not in made:
            how = f"type `edge-convert setup-target {engine.compiler}`"
            found.setdefault(engine.id, f"the vendor's tool that makes its file is missing; {how}")
    return [f"left out: {name}: {why}" for name, why in found.items()]


def unproved(conversion: Conversion) -> list[str]:
    """A line for each variant of which nobody knows where it runs."""
    packed = conversion.passes.get("package", {}).get("left_out")
    gone = packed if isinstance(packed, Mapping) else {}
    lines = []
    for one in conversion.model.candidates:
        if one.placed is None or one.placed.known or one.id in gone:
            continue
        engine = conversion.profile.engine(one.backend, one.accelerator)
        how = one.placed.why or "the tool says nothing"
        if engine is not None and TARGETS[engine.compiler].own_process:
            how = f"type `edge-convert setup-target {engine.compiler}`"
        lines.append(f"not proved: where {one.id} runs is unknown ({how})")
    return lines


MAX_LENGTHS = 3
"""More latencies would not fit a terminal; the report has all."""


def summary(conversion: Conversion) -> str:
    """Before and after, variant by variant, as a text table of 80 columns at most.

    A variant takes two lines: its name and what became of it, then its figures.
    """
    verdict = conversion.model.verdict
    assert verdict is not None
    reference = verdict.reference
    base, base_evidence = baseline(conversion)
    lengths = sorted(base_evidence.latency_ms)
    if len(lengths) > MAX_LENGTHS:
        lengths = [lengths[0], lengths[len(lengths) // 2], lengths[-1]]
    names, rows = [], []
    for candidate, evidence in measured(conversion):
        fewer = "" if evidence.n == reference.n else f", n = {evidence.n:,}"
        words = state(conversion, candidate, evidence)[0]
        names.append(plain(f"  {candidate.id}: {words}{fewer}"))
        ratio = candidate.artifact.size_bytes / base.artifact.size_bytes
        row = [f"  {size(candidate.artifact.size_bytes)} {ratio:.2f}x"]
        for length in lengths:
            found, of = evidence.latency_ms.get(length), base_evidence.latency_ms[length]
            row.append(f"{found:.{2 if found < 100 else 0}f} {found / of:.2f}x" if found else "-")
        rows.append(
            [*row, figure_words(evidence.value, evidence.metric), f"{evidence.agreement:.2%}"]
        )
    head = ["  size", *(f"ms @ {n}" if n else "ms" for n in lengths), reference.metric, "agreement"]
    shown_head, *shown = table(head, rows).splitlines()
    low, high = reference.interval
    title = (
        f"{conversion.recipe.name} {conversion.recipe.version} for {conversion.profile.name}: "
        f"float {reference.metric} {figure_words(reference.value, reference.metric)} "
        f"(n = {reference.n:,}, 95 % interval {figure_words(low, reference.metric)} to "
        f"{figure_words(high, reference.metric)}){', quick mode' if conversion.quick else ''}"
    )
    lines = [plain(title), shown_head]
    lines += [line for pair in zip(names, shown, strict=True) for line in pair]
    lines.append("  x: share of the float variant's; latency: p50, 1 thread, batch 1; measured on")
    lines.append(plain(f"  {verdict.host}, not on the board"))
    lines += [
        plain(f"  {one.id}: at most {one.max_error:.1e} of its largest output off the model's")
        for candidate, one in measured(conversion)
        if not candidate.quantized
    ]
    lines += [
        plain(f"  {one.id}: {placed_words(one.placed, brief=True)}{emulated_words(evidence)}")
        for one, evidence in measured(conversion)
        if one.placed is not None
    ]
    p95_ms = conversion.passes.get("package", {}).get("latency_p95_ms")
    if isinstance(p95_ms, Mapping):
        lines += over_budget(conversion.profile, cast("Mapping[str, float]", p95_ms))
    lines += [
        plain(f"  refused {one.id}: {one.refused}") for one in verdict.candidates if one.refused
    ]
    lines += [
        plain(f"  {line}", MAX_ERROR) for line in (*left_out(conversion), *unproved(conversion))
    ]
    if conversion.model.bundle is not None:
        total = size(conversion.model.bundle.stat().st_size)
        lines.append(plain(f"  bundle: {conversion.model.bundle} ({total})", MAX_ERROR))
    return "\n".join(lines)
