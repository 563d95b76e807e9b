"""What a conversion gives and what it takes: INT8 variants against the float model.

    python -m benchmarks.conversion [--quick] [--rounds 100] [--json]

Converts the example recipe (from the cache, where it was converted before) and then times every
variant, float and INT8, in turn in one process: one thread, batch 1, 16, 64 and 128 tokens. Size,
accuracy and agreement with the float classifier are those of the conversion's report, over all
test rows. The peer is ONNX Runtime running the float model, with the same fused graph.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables import Row, at_least, at_most, show
from converters.cache import Cache, default_folder
from converters.data import load_dataset
from converters.draft import open_candidates, write_bundle
from converters.feeds import tokens
from converters.latency import interleaved_p50
from converters.model import FLOAT, Candidate, Evidence, Job
from converters.pipeline import Conversion, Options, convert
from converters.progress import Progress, Terminal
from converters.report.figures import measured
from edge_runtime.profile import load_profile

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "debian-sections"
LENGTHS = (16, 64, 128)
JUDGED = 128
GOALS = {"onnxruntime": 0.50, "litert": 0.35}
"""Share of ONNX Runtime float's p50 at JUDGED tokens that an INT8 variant should not exceed."""


def converted(
    recipe: str, profile: str, out: Path, progress: Progress, *, quick: bool
) -> Conversion:
    """The example recipe called `recipe`, converted for `profile` into `out`."""
    options = Options(out, default_folder(), quick)
    (done,) = convert(EXAMPLE / recipe, [load_profile(profile)], options, progress)
    return done


def measure(done: Conversion, rounds: int, progress: Progress) -> list[Row]:
    """Rows for every variant, the ratios of one run."""
    times = _times(done, rounds, progress)
    pairs = measured(done)
    base = next(c for c, _ in pairs if c.precision == FLOAT and c.backend == "onnxruntime")
    verdict = done.model.verdict
    assert verdict is not None
    rows = [
        Row("test rows", verdict.reference.n, ""),
        Row("float: accuracy", 100 * verdict.reference.value, "%"),
    ]
    for candidate, evidence in pairs:
        rows += [
            Row(f"{candidate.id}: p50 at {length} tokens", times[candidate.id][length], "ms")
            for length in LENGTHS
        ]
        if candidate.quantized:
            rows += _judged(candidate, evidence, base, times, 100 * verdict.reference.value)
    return rows


def _judged(
    candidate: Candidate,
    evidence: Evidence,
    base: Candidate,
    times: dict[str, dict[int, float]],
    reference: float,
) -> list[Row]:
    ratio = times[candidate.id][JUDGED] / times[base.id][JUDGED]
    size = candidate.artifact.size_bytes
    return [
        at_most(f"{candidate.id}: p50 / {base.id}", ratio, "x", GOALS[candidate.backend]),
        Row(f"{candidate.id}: size", size / 1e6, "MB"),
        at_most(f"{candidate.id}: size / float", size / base.artifact.size_bytes, "x", 0.30),
        Row(f"{candidate.id}: accuracy", 100 * evidence.value, "%"),
        at_most(f"{candidate.id}: accuracy lost", reference - 100 * evidence.value, "points", 1.0),
        at_least(f"{candidate.id}: agrees with float", 100 * evidence.agreement, "%", 97),
    ]


def _times(done: Conversion, rounds: int, progress: Progress) -> dict[str, dict[int, float]]:
    """p50 in ms by variant and token count, measured now."""
    data = load_dataset(done.recipe.data, done.recipe.task)
    candidates: Sequence[Candidate] = done.model.candidates
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = Cache(default_folder())
        job = Job(done.recipe, done.profile, data, cache, progress, folder, done.quick)
        write_bundle(done.model, job, folder)
        with (
            open_candidates(folder, job, candidates, threads=1) as pipelines,
            progress.busy("latency, all variants in turn"),
        ):
            inputs = done.model.interface(done.recipe.data).inputs
            return interleaved_p50(pipelines, {n: tokens(inputs, n) for n in LENGTHS}, rounds)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="generic-x86_64")
    parser.add_argument("--rounds", type=int, default=100, help="runs of each, per length")
    parser.add_argument("--quick", action="store_true", help="train and judge on fewer rows")
    parser.add_argument("--out", type=Path, default=Path("build/bench/v1"))
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    progress = Terminal()
    done = converted("recipe.toml", options.profile, options.out, progress, quick=options.quick)
    show("conversion", measure(done, options.rounds, progress), as_json=options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
