"""Measure every candidate on its own engine, against the float reference, before it is packed.

The candidates are put into a draft bundle and opened by the very code that a device runs. Each
answers every test row one at a time, because that is how it will be asked; float candidates that
only prove the export answer the first of them. The golden vectors come from the float model itself.
Nothing here believes a toolchain: a candidate that loads and answers nonsense is refused with its
figure.

Steps: 1. the reference; 2. golden vectors; 3. each candidate's answers; 4. latency, all candidates
taking turns in the same run; 5. the verdict on each.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.answers import ENGINES, answer_all
from converters.bootstrap import interval, paired
from converters.cache import tool_versions
from converters.configs import PackageConfig, VerifyConfig
from converters.data import Rows
from converters.draft import open_candidates, write_bundle
from converters.feeds import feeds_of
from converters.figures import class_figures, confusion, wilson
from converters.golden import golden_cases
from converters.latency import interleaved_p50
from converters.metrics import (
    ROUNDING,
    Figure,
    cosines,
    figure_words,
    find_metric,
    metric_for,
)
from converters.model import Candidate, ClassFigures, Evidence, Job, Model, Verdict
from converters.placement.emulate import emulated_cosine
from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.verify import verify as verify_bundle
from edge_runtime.errors import InputError
from edge_runtime.fields import Json
from edge_runtime.profile import CPU

FloatArray = npt.NDArray[np.float32]
SIMULATED_ROWS = 128
"""Test rows for what only a vendor's simulator answers: a transformer takes it 0.2 s each."""


def verify(model: Model, config: VerifyConfig, job: Job) -> tuple[Model, dict[str, Json]]:
    """The pass.

    Raises:
        InputError: no quantized candidate, or where there is none, no candidate, is good enough.
    """
    rows = _rows(config, job)
    reference = model.reference(rows, job)  # 1
    golden = golden_cases(model, config.golden_cases, job)  # 2
    drafted = replace(
        model,
        verdict=Verdict(
            reference=_judge("reference", reference, reference, rows, config, job),
            candidates=(),
            golden=golden,
            host=_host(),
        ),
    )
    draft = draft_folder(drafted, job)
    opened = verify_bundle(FolderReader(draft), files=False)
    found = []
    for asked in answer_all(drafted, draft, _asked(model, rows, config, job), job):  # 3
        evidence = _judge(
            asked.candidate.id,
            asked.answers,
            reference[: len(asked.answers)],
            asked.rows,
            config,
            job,
        )
        emulated = (
            asked.golden_cosine
            if asked.candidate.built  # whose every answer came from there
            else emulated_cosine(asked.candidate, drafted, opened, job)
        )
        found.append(replace(evidence, golden_cosine=asked.golden_cosine, emulated_cosine=emulated))
    latencies = _latencies(drafted, draft, config, job)  # 4
    checked = tuple(  # 5
        replace(one, latency_ms=latencies.get(one.id, {}), refused=_refusal(one, config))
        for one in found
    )
    assert drafted.verdict is not None
    done = replace(drafted, verdict=replace(drafted.verdict, candidates=checked))
    _require_one(done)
    return done, {"rows": len(rows), "verdict": _as_json(done)}


def _rows(config: VerifyConfig, job: Job) -> Rows:
    rows = job.data.test
    return rows.first(config.quick_rows) if job.quick else rows


def _asked(
    model: Model, rows: Rows, config: VerifyConfig, job: Job
) -> list[tuple[Candidate, Rows]]:
    """Each candidate and the rows it is asked."""
    package = job.recipe.config(PackageConfig)
    packs_float = (package is not None and package.keep_float) or not any(
        candidate.quantized for candidate in model.candidates
    )
    few = rows if packs_float else rows.first(config.float_rows)
    simulated = rows.first(SIMULATED_ROWS)
    return [
        (one, simulated if one.built else rows if one.quantized else few)
        for one in model.candidates
    ]


def draft_folder(model: Model, job: Job) -> Path:
    """A bundle of every candidate, without floors or figures, in the cache."""
    parts: dict[str, object] = {
        "files": [candidate.artifact.sha256 for candidate in model.candidates],
        "ids": [candidate.id for candidate in model.candidates],
        "profile": job.profile.sha256,
        "recipe": job.recipe.sha256,
        "golden": model.verdict.golden.artifact.sha256 if model.verdict else "",
        "quick": job.quick,
    }

    def make(out: Path) -> None:
        write_bundle(model, job, out)

    return job.cache.folder("draft", parts, make)


def _latencies(
    model: Model, draft: Path, config: VerifyConfig, job: Job
) -> Mapping[str, Mapping[int, float]]:
    """p50 in ms by candidate and token count: 1 thread, batch 1, all in one run.

    What is meant for an accelerator has none: how fast this CPU runs it says nothing.
    """
    timed = [one for one in model.candidates if one.accelerator == CPU]
    parts: dict[str, object] = {
        "files": {one.id: one.artifact.sha256 for one in timed},
        "lengths": list(job.lengths),
        "runs": config.latency_runs,
        "host": _host(),
        "tools": tool_versions(*ENGINES),
    }

    def compute() -> Json:
        with (
            open_candidates(draft, job, timed, threads=1) as pipelines,
            job.progress.busy("latency, all variants in turn"),
        ):
            feeds = feeds_of(model.interface(job.recipe.data), job)
            found = interleaved_p50(pipelines, feeds, config.latency_runs)
        return {
            name: {str(length): p50 for length, p50 in times.items()}
            for name, times in found.items()
        }

    return {
        name: {int(length): float(p50) for length, p50 in times.items()}
        for name, times in job.cache.value("latency", parts, compute).items()
    }


def _judge(
    name: str,
    answers: FloatArray,
    reference: FloatArray,
    rows: Rows,
    config: VerifyConfig,
    job: Job,
) -> Evidence:
    """Figures of `answers` against labels and reference, without latency and verdict."""
    targets = job.data.targets(rows)
    named = metric_for(job.recipe.task, config.metric, labelled=targets is not None)
    metric = find_metric(named, base=job.recipe.path.parent)
    close = cosines(answers, reference)
    found = paired(metric, answers, reference, reference, targets)
    classes: tuple[ClassFigures, ...] = ()
    confused: tuple[tuple[int, ...], ...] = ()
    if targets is not None and job.data.classified:
        labels = targets.astype(np.int64)
        classes = class_figures(job.data.classes, labels, reference, answers)
        confused = confusion(len(job.data.classes), labels, answers)
    return Evidence(
        id=name,
        metric=metric.name,
        value=found.candidate.value,
        reference=found.baseline.value,
        interval=found.interval or _interval(found.candidate),
        difference=found.difference,
        n=len(answers),
        agreement=_agreement(answers, reference, close, bool(classes)),
        cosine_mean=float(close.mean()),
        cosine_min=float(close.min()),
        golden_cosine=1.0,
        latency_ms={},
        classes=classes,
        refused="",
        confusion=confused,
        max_error=_max_error(answers, reference),
    )


def _max_error(answers: FloatArray, reference: FloatArray) -> float:
    scale = float(np.abs(reference).max()) or 1.0
    gap = float(np.abs(answers - reference).max())
    return gap / scale if np.isfinite(gap) else float(np.finfo(np.float32).max)


def _interval(figure: Figure) -> tuple[float, float]:
    """95 % interval of a mean over rows: Wilson's of a share, by bootstrap of others."""
    assert figure.scores is not None  # else it has one already
    if np.isin(figure.scores, (0, 1)).all():
        return wilson(int(figure.scores.sum()), len(figure.scores))
    return interval(figure.scores)


def _agreement(
    answers: FloatArray, reference: FloatArray, close: FloatArray, classified: bool
) -> float:
    """Share of rows with the reference's class; without classes, the mean cosine."""
    if not classified:
        return float(close.mean())
    return float((answers.argmax(axis=1) == reference.argmax(axis=1)).mean())


def _refusal(evidence: Evidence, config: VerifyConfig) -> str:
    """Why the candidate is not good enough, or nothing."""
    drop = evidence.reference - evidence.value
    if evidence.golden_cosine < config.min_cosine:
        return (
            f"cosine {evidence.golden_cosine:.4f} to the reference on a golden vector, "
            f"expected {config.min_cosine:g} or more"
        )
    if evidence.emulated_cosine is not None and evidence.emulated_cosine < config.min_cosine:
        return (
            f"cosine {evidence.emulated_cosine:.4f} to the reference on a golden vector by the "
            f"vendor's emulator, expected {config.min_cosine:g} or more"
        )
    if not drop <= config.max_drop + ROUNDING:  # also what is not a number
        found, had, allowed = (
            figure_words(one, evidence.metric)
            for one in (evidence.value, evidence.reference, config.max_drop)
        )
        return (
            f"{evidence.metric} {found} on {evidence.n} rows, the reference has {had}; "
            f"expected a drop of {allowed} at most"
        )
    if evidence.classes and evidence.agreement < config.min_agreement:
        return (
            f"agrees with the reference on {evidence.agreement:.2%} of {evidence.n} rows, "
            f"expected {config.min_agreement:.2%} or more"
        )
    return ""


def _require_one(model: Model) -> None:
    """Something to pack must be left."""
    assert model.verdict is not None
    wanted = {one.id for one in model.candidates if one.quantized} or {
        one.id for one in model.candidates
    }
    refused = {one.id: one.refused for one in model.verdict.candidates if one.id in wanted}
    if all(refused.values()):
        raise InputError(
            "no variant is good enough: "
            + "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        )


def _as_json(model: Model) -> Json:
    assert model.verdict is not None
    verdict = model.verdict
    value: Json = json.loads(
        json.dumps(
            {
                "host": verdict.host,
                "reference": asdict(verdict.reference),
                "variants": [
                    {
                        **asdict(evidence),
                        "size_bytes": candidate.artifact.size_bytes,
                        "precision": candidate.precision,
                        "backend": candidate.backend,
                        "notes": dict(candidate.notes),
                    }
                    for evidence, candidate in zip(
                        verdict.candidates, model.candidates, strict=True
                    )
                ],
            }
        )
    )
    return value


def _host() -> str:
    """The processor that latencies come from, as the kernel names it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor() or 'unknown'} ({platform.machine()})"
