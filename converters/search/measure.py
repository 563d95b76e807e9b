"""From weights to figures: export, quantize and verify a candidate, and what each variant costs.

The passes are those of any conversion; nothing is refused here, because a search wants to know how
far off a variant is. Memory is measured in a process of its own, see `footprint`.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from converters.answers import ENGINES
from converters.cache import tool_versions
from converters.configs import VerifyConfig
from converters.draft import open_candidates
from converters.feeds import feeds_of
from converters.latency import interleaved_p50
from converters.model import Candidate, Job, TextModel
from converters.passes import KINDS, kind_of
from converters.pipeline import Conversion, run_passes
from converters.recipe import Recipe
from converters.search.budget import Cost
from converters.search.footprint import peak_bytes
from converters.search.result import Finalist
from converters.verify import draft_folder
from edge_runtime.inference.pipeline import Pipeline

ANYTHING = 1e9
"""A drop that nothing is over."""


def lenient(config: VerifyConfig) -> VerifyConfig:
    """The same measurements, and no refusal."""
    return replace(config, max_drop=ANYTHING, min_agreement=0.0, min_cosine=-1.0)


def measure(model: TextModel, recipe: Recipe, job: Job) -> Conversion:
    """Run the passes of `recipe` that come after the weights, up to the verdict."""
    passes = [
        lenient(config) if isinstance(config, VerifyConfig) else config
        for config in recipe.passes
        if KINDS[kind_of(config)].stage not in ("weights", "package")
    ]
    return run_passes(model, passes, replace(job, recipe=recipe))


def finalists(candidate: str, conversion: Conversion, job: Job) -> list[Finalist]:
    """Each measured variant with its costs ."""
    model = conversion.model
    verdict = model.verdict
    assert verdict is not None
    job = replace(job, recipe=conversion.recipe)
    folder = draft_folder(model, job)
    longest = job.lengths[-1]
    found = []
    for one, evidence in zip(model.candidates, verdict.candidates, strict=True):
        ram = _ram_bytes(folder, one, longest, job) if one.quantized else 0
        found.append(
            Finalist(
                name=one.id,
                candidate=candidate,
                backend=one.backend,
                evidence=evidence,
                cost=Cost(
                    latency_ms=evidence.latency_ms[longest],
                    size_bytes=one.artifact.size_bytes,
                    ram_bytes=ram,
                    drop=evidence.reference - evidence.value,
                    golden=evidence.golden_cosine,
                ),
                quantized=one.quantized,
            )
        )
    return found


def _ram_bytes(folder: Path, one: Candidate, tokens: int, job: Job) -> int:
    """Peak memory of a process that answers `tokens` tokens, measured once."""
    parts: dict[str, object] = {
        "file": one.artifact.sha256,
        "backend": one.backend,
        "tokens": tokens,
        "host": platform.node(),
        "tools": tool_versions(*ENGINES),
    }
    return int(job.cache.value("memory", parts, lambda: peak_bytes(folder, one.id, tokens)))


def together(found: Sequence[tuple[Conversion, Finalist]], job: Job, runs: int) -> list[Finalist]:
    """The finalists with latencies measured in one run, in turns, so that their ratios can be
    trusted. Those of a single conversion were.
    """
    by_conversion: dict[int, tuple[Conversion, list[Finalist]]] = {}
    for conversion, one in found:
        by_conversion.setdefault(id(conversion), (conversion, []))[1].append(one)
    if len(by_conversion) == 1:
        return [one for _, one in found]
    with contextlib.ExitStack() as stack:
        pipelines: dict[str, Pipeline] = {}
        for conversion, members in by_conversion.values():
            own = replace(job, recipe=conversion.recipe)
            wanted = {one.name for one in members}
            candidates = [one for one in conversion.model.candidates if one.id in wanted]
            opened = stack.enter_context(
                open_candidates(draft_folder(conversion.model, own), own, candidates, threads=1)
            )
            pipelines |= {one.id: opened[one.name] for one in members}
        interface = found[0][0].model.interface(job.recipe.data)
        with job.progress.busy("latency of all finalists in turn"):
            times = interleaved_p50(pipelines, feeds_of(interface, job), runs)
    return [_timed(one, times[one.id]) for _, one in found]


def _timed(one: Finalist, latency_ms: Mapping[int, float]) -> Finalist:
    longest = max(latency_ms)
    return replace(
        one,
        evidence=replace(one.evidence, latency_ms=latency_ms),
        cost=replace(one.cost, latency_ms=latency_ms[longest]),
    )
