"""From weights to figures: export, quantize and verify a candidate, and what each variant costs.

The passes are those of any conversion, the quantize pass once for each of `schemes.ways`; nothing
is refused here, because a search wants to know how far off a variant is. Where there are several
ways, one that cannot be made or run is left out with the reason. Memory is measured in a process of
its own, see `footprint`.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from converters.answers import ENGINES
from converters.cache import tool_versions
from converters.configs import VerifyConfig
from converters.draft import open_candidates
from converters.feeds import feeds_of, longest_feeds
from converters.latency import interleaved_p50
from converters.model import Candidate, Job, Model, TextModel
from converters.passes import KINDS, PassConfig, kind_of
from converters.pipeline import Conversion, run_passes
from converters.quantize.config import Options, QuantizeConfig
from converters.recipe import Recipe
from converters.search.budget import Cost
from converters.search.footprint import peak_bytes
from converters.search.result import Finalist
from converters.search.schemes import float_ready, unchanged, ways
from converters.verify import draft_folder
from edge_runtime.errors import EdgeError, InputError
from edge_runtime.fields import Json
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.pipeline import Pipeline

ANYTHING = 1e9
"""A drop that nothing is over."""
REHEARSED_ROWS = 8
"""Rows that everything answers before all rows are asked, and runs that it is timed for."""
SLOW = 10.0
"""What takes so many times as long as its float file runs without a kernel made for it: LiteRT's
convolutions with activations of 16 bits take 60 times as long on a PC."""


@dataclass(slots=True)
class Attempts:
    """A model's conversion while it grows: how each variant was quantized, and what was left out.

    `options` are by the variant's id; `left_out` are sentences.
    """

    conversion: Conversion
    options: dict[str, Options] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def took(self, done: Conversion, model: Model) -> None:
        """Go on with `model` after passes were run, whose figures and seconds add up by kind."""
        before = self.conversion
        figures = {name: dict(one) for name, one in before.passes.items()}
        seconds = dict(before.seconds)
        for name, one in done.passes.items():
            figures[name] = {**figures.get(name, {}), **one}
            seconds[name] = round(seconds.get(name, 0.0) + done.seconds[name], 2)
        self.conversion = replace(before, model=model, passes=figures, seconds=seconds)

    def leave_out(self, what: str, reason: object, job: Job) -> None:
        self.left_out.append(f"{what} was left out: {reason}")
        job.progress.say(f"  left out  {what}: {reason}")


def lenient(config: VerifyConfig, model: Model) -> VerifyConfig:
    """The same measurements, and no refusal; all rows for whatever may be chosen."""
    rows = config.float_rows if isinstance(model, TextModel) else 0
    return replace(config, max_drop=ANYTHING, min_agreement=0.0, min_cosine=-1.0, float_rows=rows)


def measure(model: Model, recipe: Recipe, job: Job, deadline: float) -> Attempts:
    """Run the passes of `recipe` that come after the weights, up to the verdict.

    After `deadline`, of the monotonic clock, no further way of quantizing is begun.

    Raises:
        EdgeError: nothing can be exported or run, or an engine's one way of quantizing fails.
    """
    job = replace(job, recipe=recipe)
    tried = Attempts(run_passes(model, _of(recipe, "export", "fuse"), job))
    _quantize(tried, job, deadline)
    (verify,) = _of(recipe, "verify")
    assert isinstance(verify, VerifyConfig)
    verify = lenient(verify, model)
    floats = [one for one in tried.conversion.model.candidates if not one.quantized]
    if len(tried.options) > len(floats):  # some engine was given several ways
        _rehearse(tried, verify, job)
    done = run_passes(tried.conversion.model, [verify], job)
    tried.took(done, done.model)
    return tried


def _of(recipe: Recipe, *stages: str) -> list[PassConfig]:
    return [config for config in recipe.passes if KINDS[kind_of(config)].stage in stages]


def _quantize(tried: Attempts, job: Job, deadline: float) -> None:
    """Every way of every float candidate, the quantized ones before the float ones."""
    model = tried.conversion.model
    floats, made = model.candidates, list[Candidate]()
    for one in floats:
        wanted = ways(one, model, job)
        for options in wanted:
            what = f"{one.backend} {options.precision}"
            if made and len(wanted) > 1 and time.monotonic() > deadline:
                tried.leave_out(what, "the time was over", job)
                continue
            config = QuantizeConfig({one.backend: options})
            try:
                done = run_passes(replace(model, candidates=(one,)), [config], job)
            except InputError as reason:
                if len(wanted) == 1:
                    raise
                tried.leave_out(what, reason, job)
                continue
            found = done.model.candidates[0]
            twin = next(
                (other for other in made if other.artifact.sha256 == found.artifact.sha256), None
            )
            if len(wanted) > 1 and (twin or unchanged(found, one)):
                what_for = f"the file is that of {twin.id}" if twin else "no operator takes it"
                tried.leave_out(what, what_for, job)
                continue
            tried.options[found.id] = options
            made.append(found)
            tried.took(done, model)
    tried.conversion = replace(tried.conversion, model=replace(model, candidates=(*made, *floats)))


def _rehearse(tried: Attempts, config: VerifyConfig, job: Job) -> None:
    """Leave out what does not run, or takes so long that nobody would have it.

    A few rows are enough to see both, before all of the test rows are answered by everyone.
    """
    few = replace(config, quick_rows=REHEARSED_ROWS, latency_runs=REHEARSED_ROWS)
    quick = replace(job, quick=True)
    model = tried.conversion.model
    try:
        done = run_passes(model, [few], quick).model
    except EdgeError:
        model = replace(model, candidates=_running(tried, few, quick))
        done = run_passes(model, [few], quick).model
    assert done.verdict is not None
    taken = {one.id: max(one.latency_ms.values()) for one in done.verdict.candidates}
    floats = {one.backend: taken[one.id] for one in model.candidates if not one.quantized}
    kept: list[Candidate] = []
    for one in model.candidates:
        times = taken[one.id] / floats.get(one.backend, taken[one.id])
        if times > SLOW:
            what = f"{one.backend} {one.precision}"
            reason = f"it takes {taken[one.id]:.3g} ms, {times:.0f} times as long as in float"
            tried.leave_out(what, reason, job)
        else:
            kept.append(one)
    tried.conversion = replace(tried.conversion, model=replace(model, candidates=tuple(kept)))


def _running(tried: Attempts, config: VerifyConfig, job: Job) -> tuple[Candidate, ...]:
    """The candidates that get a verdict when they are alone.

    Raises:
        EdgeError: none does; the reason of the last.
    """
    model = tried.conversion.model
    kept: list[Candidate] = []
    for one in model.candidates:
        try:
            run_passes(replace(model, candidates=(one,)), [config], job)
        except EdgeError as reason:
            if not kept and one is model.candidates[-1]:
                raise
            tried.leave_out(f"{one.backend} {one.precision}", reason, job)
        else:
            kept.append(one)
    return tuple(kept)


def finalists(candidate: str, conversion: Conversion, job: Job) -> list[Finalist]:
    """Each measured variant with its costs."""
    model = conversion.model
    verdict = model.verdict
    assert verdict is not None
    job = replace(job, recipe=conversion.recipe)
    folder = draft_folder(model, job)
    feeds = longest_feeds(model.interface(job.recipe.data), job)
    found = []
    for one, evidence in zip(model.candidates, verdict.candidates, strict=True):
        ready = not one.quantized and float_ready(one, model, job)
        ram = _ram_bytes(folder, one, feeds, job) if one.quantized or ready else 0
        found.append(
            Finalist(
                name=one.id,
                candidate=candidate,
                backend=one.backend,
                evidence=evidence,
                cost=Cost(
                    latency_ms=evidence.latency_ms[max(evidence.latency_ms)],
                    size_bytes=one.artifact.size_bytes,
                    ram_bytes=ram,
                    drop=evidence.reference - evidence.value,
                    golden=evidence.golden_cosine,
                ),
                quantized=one.quantized,
                float_ready=ready,
            )
        )
    return found


def _ram_bytes(folder: Path, one: Candidate, feeds: Mapping[str, Tensor], job: Job) -> int:
    """Peak memory of a process that answers `feeds`, measured once; their values do not matter."""
    sizes: Json = {name: [str(value.dtype), *value.shape] for name, value in feeds.items()}
    parts: dict[str, object] = {
        "file": one.artifact.sha256,
        "backend": one.backend,
        "inputs": sizes,
        "host": platform.node(),
        "tools": tool_versions(*ENGINES),
    }
    with job.progress.busy(f"memory of {one.id}"):
        return int(job.cache.value("memory", parts, lambda: peak_bytes(folder, one.id, feeds)))


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
