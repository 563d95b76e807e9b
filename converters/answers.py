"""What each candidate answers to the test rows, on its own engine, one row at a time.

Candidates run side by side, one thread each: a host with two cores is busy, and no engine's own
threads get in the way. Answers are cached by file and rows.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from converters.cache import tool_versions
from converters.data import Rows
from converters.draft import open_candidates
from converters.model import Candidate, Job, Model
from converters.ort import host_threads
from converters.samples import Declared, Sample, read_samples
from converters.scored import scored, stacked
from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.verify import verify as verify_bundle
from edge_runtime.inference.golden import Case, load_golden, mismatch, worst
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.tasks.table import Steps

FloatArray = npt.NDArray[np.float32]
ENGINES = ("onnxruntime", "ai-edge-litert", "tokenizers", "pillow")


@dataclass(frozen=True, slots=True)
class Answers:
    """A candidate's outputs for `rows`, (rows, width), and its lowest cosine to a golden vector."""

    candidate: Candidate
    rows: Rows
    answers: FloatArray
    golden_cosine: float


class _Stopped(Exception):
    """Another candidate failed, or a person has had enough."""


def answer_all(
    model: Model, draft: Path, asked: Sequence[tuple[Candidate, Rows]], job: Job
) -> list[Answers]:
    """The answers of each of `asked`, in order; `draft` is a bundle folder that holds them all.

    Raises:
        IncompatibleError: an engine is not installed or cannot load its file.
        DeviceError: an engine failed.
    """
    missing = [
        (candidate, rows)
        for candidate, rows in asked
        if not job.cache.holds("answers", _parts(model, candidate, rows, job))
    ]
    if missing:
        _fill(model, draft, missing, job)
    return [_load(_cached(model, pair, job), pair) for pair in asked]


def _fill(model: Model, draft: Path, missing: Sequence[tuple[Candidate, Rows]], job: Job) -> None:
    """Let the candidates answer, side by side, into the cache."""
    interface = model.interface(job.recipe.data)
    steps = Declared(model.name, interface).steps
    cases = load_golden(verify_bundle(FolderReader(draft), files=False))
    candidates = [candidate for candidate, _ in missing]
    total = sum(len(rows) for _, rows in missing)
    stop = threading.Event()
    with (
        open_candidates(draft, job, candidates, threads=1) as pipelines,
        job.progress.count("answers to the test rows, all variants", total) as advance,
        ThreadPoolExecutor(host_threads()) as pool,
    ):

        def one(pair: tuple[Candidate, Rows]) -> None:
            candidate, rows = pair

            def make(out: Path) -> None:
                pipeline = pipelines[candidate.id]
                samples = read_samples(interface, rows, name=model.name)
                found = _run(pipeline, samples, steps, stop, advance)
                np.save(out / "answers.npy", found)
                (out / "golden.json").write_text(json.dumps(golden_cosine(pipeline, cases)))

            job.cache.folder("answers", _parts(model, candidate, rows, job), make)

        longest_first = sorted(missing, key=lambda pair: -len(pair[1]))
        jobs = [pool.submit(one, pair) for pair in longest_first]
        try:
            for done in jobs:
                done.result()
        except BaseException:
            stop.set()
            raise


def _run(
    pipeline: Pipeline,
    samples: Sequence[Sample],
    steps: Steps,
    stop: threading.Event,
    advance: Callable[[int, str], None],
) -> FloatArray:
    answers: list[FloatArray] = []
    for sample in samples:
        if stop.is_set():
            raise _Stopped
        answers.append(scored(steps, sample, pipeline.run(sample.tensors())))
        advance(1, "")
    return stacked(answers)


def golden_cosine(pipeline: Pipeline, cases: Sequence[Case]) -> float:
    """The lowest cosine over the golden cases, as the device's self-test computes it.

    0 where an output has the wrong shape or is not finite: no bound lets that pass.
    """
    lowest = 1.0
    for case in cases:
        outputs = pipeline.run(case.inputs)
        lowest = min(lowest, 0.0 if mismatch(outputs, case) else worst(outputs, case))
    return lowest


def _parts(model: Model, candidate: Candidate, rows: Rows, job: Job) -> dict[str, object]:
    return {
        "file": candidate.artifact.sha256,
        "backend": candidate.backend,
        "signatures": [asdict(one) for one in candidate.signatures],
        "model": model.sha256,
        "steps": asdict(replace(model.interface(job.recipe.data), files={})),
        "golden": model.verdict.golden.artifact.sha256 if model.verdict else "",
        "rows": rows.sha256,
        "tools": tool_versions(*ENGINES),
    }


def _cached(model: Model, pair: tuple[Candidate, Rows], job: Job) -> Path:
    def make(out: Path) -> None:
        raise RuntimeError(f"the answers of {pair[0].id} were in the cache a moment ago")

    return job.cache.folder("answers", _parts(model, *pair, job), make)


def _load(folder: Path, pair: tuple[Candidate, Rows]) -> Answers:
    found: FloatArray = np.load(folder / "answers.npy", allow_pickle=False)
    return Answers(*pair, found, float(json.loads((folder / "golden.json").read_text())))
