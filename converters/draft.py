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
from converters.configs import VerifyConfig
from converters.model import Candidate, Evidence, Job, Model
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

GOLDEN_FILE = "golden.safetensors"
FLOOR_MARGIN = 0.03
"""Kept below the golden cosine measured here: another CPU rounds otherwise, a wrong engine is far
off (0.07 was seen)."""
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
        **{candidate.file: candidate.artifact.path for candidate in chosen},
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


@contextlib.contextmanager
def open_candidates(
    folder: Path, job: Job, candidates: Sequence[Candidate], *, threads: int
) -> Iterator[dict[str, Pipeline]]:
    """The candidates of the bundle in `folder`, loaded as a device would, by id.

    The engine's options are the profile's; its thread count is `threads`.
    """
    bundle = verify_bundle(FolderReader(folder), files=False)
    wanted = {candidate.id for candidate in candidates}
    first = load_golden(bundle)[0].inputs
    pipelines: dict[str, Pipeline] = {}
    try:
        for variant in bundle.manifest.variants:
            if variant.id in wanted:
                engine = job.profile.engine_of(variant)
                with quiet():  # engines greet when they load, or at the first run
                    pipelines[variant.id] = Pipeline.open(
                        bundle, variant, replace(engine, threads=threads) if engine else None
                    )
                    pipelines[variant.id].run(first)
        yield pipelines
    finally:
        for pipeline in pipelines.values():
            pipeline.close()


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
        variants=tuple(_variant(one, evidence.get(one.id), job) for one in candidates),
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


def _variant(candidate: Candidate, evidence: Evidence | None, job: Job) -> Variant:
    engine = job.profile.engine(candidate.backend)
    providers = engine.providers if engine else ()
    floor = -1.0 if evidence is None else max(0.0, round(evidence.golden_cosine - FLOOR_MARGIN, 2))
    return Variant(
        id=candidate.id,
        backend=candidate.backend,
        file=candidate.file,
        precision=candidate.precision,
        providers=providers,
        options={},
        signatures=candidate.signatures,
        needs=Needs(),
        latency_ms=UNKNOWN,
        memory_bytes=UNKNOWN,
        placement=Placement("cpu", Figure(1.0, "measured", "the CPU runs every node")),
        tolerance=Tolerance("cosine", floor),
    )


def _quality(model: Model, job: Job, evidence: Evidence | None) -> Quality | None:
    if evidence is None or model.verdict is None:
        return None
    rows = job.data.test
    config = job.recipe.config(VerifyConfig)
    assert config is not None  # no recipe is without
    measured = rows.first(config.quick_rows) if job.quick else rows
    return Quality(
        metric=evidence.metric,
        reference=evidence.reference,
        bundle=evidence.value,
        n=evidence.n,
        interval=evidence.interval,
        data_sha256=measured.sha256,
    )
