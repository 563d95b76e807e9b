"""A model's files as a bundle folder: the draft that is measured, and the one that ships.

Only what is in `Model` and `Job` goes in, so equal inputs give equal bytes. Latency measured here
is left out of the manifest on purpose: it is this host's, not the board's, and it differs from run
to run; the report has it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from converters.cache import tool_versions
from converters.model import Candidate, Evidence, Job, Model
from converters.placement.simulate import open_simulated
from converters.quiet import quiet
from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.files import FileEntry
from edge_runtime.bundle.manifest import (
    MANIFEST_NAME,
    UNKNOWN,
    Figure,
    Golden,
    Manifest,
    Needs,
    Placement,
    Provenance,
    Quality,
    Tolerance,
    Variant,
)
from edge_runtime.bundle.verify import verify as verify_bundle
from edge_runtime.inference.golden import load_golden
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.profile import CPU

GOLDEN_FILE = "golden.safetensors"
FLOOR_MARGIN = 0.03
"""Kept below the golden cosine measured here: another CPU rounds otherwise, a wrong engine is far
off (0.07 was seen)."""
CPU_PLACEMENT = Placement(CPU, Figure(1.0, "measured", "the CPU runs every node"))
MAX_OFF, MAX_WORDS = 200, 200
"""Operators left off the accelerator that a manifest names, and the words about each."""
TOOLS = (
    "torch", "transformers", "onnx", "onnxruntime", "litert-torch", "ai-edge-quantizer",
    "ai-edge-litert", "tensorflow", "tokenizers", "numpy",
)  # fmt: skip


def write_bundle(
    model: Model, job: Job, out: Path, candidates: Sequence[Candidate] | None = None
) -> Manifest:
    """Write manifest and files to the folder `out`; variants as in `candidates`, all by default."""
    chosen = model.candidates if candidates is None else tuple(candidates)
    assert model.verdict is not None
    golden = model.verdict.golden
    sources = {
        GOLDEN_FILE: golden.artifact.path,
        **golden.files,
        **model.interface(job.recipe.data).files,
        **{name: one.artifact.path for one, name in zip(chosen, files_of(chosen), strict=True)},
    }
    entries = []
    for name, source in sorted(sources.items()):
        data = source.read_bytes()
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
        entries.append(file_entry(name, data))
    manifest = _manifest(model, job, chosen, tuple(entries))
    data = manifest.to_bytes()
    # What a device would refuse must not leave the host: parse what was written.
    Manifest.from_bytes(data, where=f"bundle {manifest.name} {manifest.version}")
    (out / MANIFEST_NAME).write_bytes(data)
    return manifest


def files_of(candidates: Sequence[Candidate]) -> list[str]:
    """The name of each one's file in the bundle; equal files are there once, by the first's name.

    Engines that ask for the same thing get the same file, as a CPU and its own accelerator do.
    """
    names: dict[tuple[str, str], str] = {}
    return [names.setdefault((one.artifact.sha256, one.backend), one.file) for one in candidates]


@contextlib.contextmanager
def open_candidates(
    folder: Path, job: Job, candidates: Sequence[Candidate], *, threads: int
) -> Iterator[dict[str, Pipeline]]:
    """The candidates of the bundle in `folder`, loaded as a device would, by id.

    The engine's options are the profile's; its thread count is `threads`. What is meant for an
    accelerator runs on this host's CPU, or in its vendor's simulator where only that can: the
    numbers are the file's, the speed is nobody's.
    """
    bundle = verify_bundle(FolderReader(folder), files=False)
    wanted = {candidate.id: candidate for candidate in candidates}
    first = load_golden(bundle)[0].inputs
    pipelines: dict[str, Pipeline] = {}
    try:
        for variant in bundle.manifest.variants:
            if variant.id in wanted:
                engine, built = job.profile.engine_of(variant), wanted[variant.id].built
                if built is not None and engine is not None:
                    pipelines[variant.id] = open_simulated(
                        bundle,
                        variant,
                        built.source.path,
                        engine,
                        calibration=built.samples.path if built.samples else None,
                    )
                    continue
                if variant.placement.accelerator != CPU:
                    variant, engine = on_this_host(variant), None
                with quiet():  # engines greet when they load, or at the first run
                    pipelines[variant.id] = Pipeline.open(
                        bundle, variant, replace(engine, threads=threads) if engine else None
                    )
                    pipelines[variant.id].run(first)
        yield pipelines
    finally:
        for pipeline in pipelines.values():
            pipeline.close()


def on_this_host(variant: Variant) -> Variant:
    """`variant` as the CPU's, which runs every file but a compiled one."""
    return replace(variant, providers=(), placement=CPU_PLACEMENT)


def _manifest(
    model: Model, job: Job, candidates: Sequence[Candidate], files: tuple[FileEntry, ...]
) -> Manifest:
    recipe, verdict = job.recipe, model.verdict
    assert verdict is not None
    evidence = {one.id: one for one in verdict.candidates}
    interface = model.interface(recipe.data)
    return Manifest(
        name=recipe.name,
        version=recipe.version,
        created=recipe.created,
        task=recipe.task,
        profile=job.profile.name,
        profile_sha256=job.profile.sha256,
        inputs=interface.inputs,
        outputs=interface.outputs,
        preprocess=interface.preprocess,
        postprocess=interface.postprocess,
        variants=tuple(
            _variant(one, name, evidence.get(one.id), job)
            for one, name in zip(candidates, files_of(candidates), strict=True)
        ),
        golden=Golden(GOLDEN_FILE, verdict.golden.cases, verdict.golden.raw),
        quality=_quality(model, job, evidence.get(candidates[0].id)),
        files=files,
        provenance=Provenance(
            source=model.name,
            source_sha256=model.source_sha256,
            licence=model.licence,
            recipe_sha256=recipe.sha256,
            tools=tool_versions(*TOOLS),
        ),
    )


def _variant(candidate: Candidate, file: str, evidence: Evidence | None, job: Job) -> Variant:
    engine = job.profile.engine(candidate.backend, candidate.accelerator)
    providers = engine.providers if engine else ()
    floor = -1.0 if evidence is None else max(0.0, round(evidence.golden_cosine - FLOOR_MARGIN, 2))
    return Variant(
        id=candidate.id,
        backend=candidate.backend,
        file=file,
        precision=candidate.precision,
        providers=providers,
        options={},
        signatures=candidate.signatures,
        needs=Needs(),
        latency_ms=UNKNOWN,
        memory_bytes=UNKNOWN,
        placement=_placement(candidate),
        tolerance=Tolerance("cosine", floor),
    )


def _placement(candidate: Candidate) -> Placement:
    placed = candidate.placed
    if candidate.accelerator == CPU:
        return CPU_PLACEMENT
    if placed is None:
        return Placement(candidate.accelerator, Figure(None, "unknown", "no tool places it"))
    off = [(node.name[:MAX_WORDS], node.reason[:MAX_WORDS]) for node in placed.off]
    if len(off) > MAX_OFF:
        off = [*off[:MAX_OFF], ("…", f"and {len(off) - MAX_OFF} more")]
    share = Figure(placed.share, placed.evidence, placed.tool[:MAX_WORDS])
    return Placement(candidate.accelerator, share, tuple(off))


def _quality(model: Model, job: Job, evidence: Evidence | None) -> Quality | None:
    if evidence is None or model.verdict is None:
        return None
    rows = job.data.test
    measured = rows if evidence.n == len(rows) else rows.first(evidence.n)
    return Quality(
        metric=evidence.metric,
        reference=evidence.reference,
        bundle=evidence.value,
        n=evidence.n,
        interval=evidence.interval,
        data_sha256=measured.sha256,
    )
