"""The passes between weights and candidates: export, fuse, quantize. Each is cached by its inputs.

They hold no technique of their own; that is in `export`, `fuse` and `quantize`. What is decided
here is which engines the profile asks for, and what the cache may reuse.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from converters.cache import tool_versions
from converters.configs import ExportConfig, FuseConfig
from converters.encoding import encode, load_tokenizer
from converters.model import FLOAT, SUFFIXES, Artifact, Candidate, Job, Model
from converters.quantize import quantizer
from converters.quantize.config import Options, QuantizeConfig
from edge_runtime.bundle.manifest import Signature
from edge_runtime.fields import Json

TOOLS = {
    "onnxruntime": ("torch", "transformers", "onnx", "onnxruntime"),
    "litert": ("torch", "transformers", "litert-torch", "ai-edge-quantizer"),
}


@dataclass(frozen=True, slots=True)
class _Exported:
    data: bytes
    signatures: tuple[Signature, ...] = ()


def export(model: Model, config: ExportConfig, job: Job) -> tuple[Model, dict[str, Json]]:
    """One float candidate for each engine of the profile, in the profile's order."""
    candidates = [_export_one(engine.backend, model, config, job) for engine in job.profile.engines]
    sizes: dict[str, Json] = {one.id: one.artifact.size_bytes for one in candidates}
    return replace(model, candidates=tuple(candidates)), {"size_bytes": sizes}


def _export_one(backend: str, model: Model, config: ExportConfig, job: Job) -> Candidate:
    lengths = list(job.lengths)
    fixed = backend == "litert"
    optimum = () if fixed or config.exporter != "optimum" else ("optimum", "optimum-onnx")
    parts: dict[str, object] = {
        "backend": backend,
        "encoder": model.encoder_sha256,
        "head": model.head_sha256(),
        # What does not shape the file stays out of its key.
        "config": lengths if fixed else config,
        "tools": tool_versions(*TOOLS[backend], *optimum),
    }

    def make(out: Path) -> None:
        with job.progress.busy(f"export for {backend}"):
            made = _export_litert(model, lengths) if fixed else _export_onnx(model, config)
        (out / _file(backend)).write_bytes(made.data)
        signatures = [asdict(one) for one in made.signatures]
        (out / "signatures.json").write_text(json.dumps(signatures))

    folder = job.cache.folder("export", parts, make)
    signatures = tuple(
        Signature(one["name"], one["dims"])
        for one in json.loads((folder / "signatures.json").read_text())
    )
    return Candidate(backend, FLOAT, Artifact.of(folder / _file(backend)), signatures, {})


def _file(backend: str) -> str:
    return f"model{SUFFIXES[backend]}"


def _export_onnx(model: Model, config: ExportConfig) -> _Exported:
    from converters.network import load_network

    network = load_network(model.encoder, model.head)
    if config.exporter == "optimum":
        from converters.export.optimum import export_optimum

        return _Exported(export_optimum(network, opset=config.opset))
    from converters.export.onnx import export_onnx

    return _Exported(export_onnx(network, opset=config.opset))


def _export_litert(model: Model, lengths: list[int]) -> _Exported:
    from converters.export.litert import export_litert, signatures
    from converters.network import load_network

    network = load_network(model.encoder, model.head)
    return _Exported(export_litert(network, lengths=lengths), signatures(lengths))


def fuse(model: Model, config: FuseConfig, job: Job) -> tuple[Model, dict[str, Json]]:
    """The ONNX candidates with fused operators and folded constants; others as they are.

    Figures: operators by name, nodes that folding took away, and the most that activations take
    before and after, for the longest text.
    """
    figures: dict[str, Json] = {"fused_operators": {}}

    def rewrite(candidate: Candidate) -> Candidate:
        parts: dict[str, object] = {
            "file": candidate.artifact.sha256,
            "source": model.source.architecture,
            "tokens": job.lengths[-1],
            "tools": tool_versions("onnx", "onnxruntime"),
        }
        folder = job.cache.folder("fuse", parts, lambda out: _fuse_one(candidate, model, job, out))
        figures.update(json.loads((folder / "figures.json").read_text()))
        return replace(candidate, artifact=Artifact.of(folder / _file("onnxruntime")))

    return _each(model, "onnxruntime", rewrite), figures


def _fuse_one(candidate: Candidate, model: Model, job: Job, out: Path) -> None:
    """Write file and figures to `out`."""
    from converters.fold import fold_constants
    from converters.fuse import fuse_onnx
    from converters.memory import activations

    plain, tokens = candidate.artifact.path.read_bytes(), job.lengths[-1]
    with job.progress.busy(f"fuse operators of {candidate.id}"):
        fused, found = fuse_onnx(
            plain,
            architecture=model.source.architecture,
            heads=model.source.heads,
            hidden=model.source.hidden,
        )
        fused, folded = fold_constants(fused)
        before, after = (
            activations("onnxruntime", one, tokens).peak_bytes for one in (plain, fused)
        )
    (out / _file("onnxruntime")).write_bytes(fused)
    figures = {
        "fused_operators": found,
        "folded_nodes": folded,
        "peak_activation_bytes": {"before": before, "after": after},
    }
    (out / "figures.json").write_text(json.dumps(figures))


def _each(model: Model, backend: str, rewrite: Callable[[Candidate], Candidate]) -> Model:
    return replace(
        model,
        candidates=tuple(
            rewrite(one) if one.backend == backend else one for one in model.candidates
        ),
    )


def quantize(model: Model, config: QuantizeConfig, job: Job) -> tuple[Model, dict[str, Json]]:
    """A quantized candidate for each engine, before the float ones; the profile says how."""
    wanted = {engine.backend: engine.quantization for engine in job.profile.engines}
    quantized = tuple(
        _quantize_one(one, config.options(one.backend, wanted[one.backend]), model, job)
        for one in model.candidates
    )
    notes: dict[str, Json] = {one.id: dict(one.notes) for one in quantized}
    return replace(model, candidates=quantized + model.candidates), notes


def _quantize_one(candidate: Candidate, options: Options, model: Model, job: Job) -> Candidate:
    run = quantizer(candidate.backend, options)
    name = _file(candidate.backend)
    parts: dict[str, object] = {
        "file": candidate.artifact.sha256,
        "options": options.key(),
        "calibration": job.data.calibration.sha256,
        "tokenizer": model.tokenizer.sha256,
        "max_length": job.recipe.data.max_length,
        "tools": tool_versions(*TOOLS[candidate.backend]),
    }

    def make(out: Path) -> None:
        tokenizer = load_tokenizer(model.tokenizer.path, max_length=job.recipe.data.max_length)
        texts = encode(tokenizer, job.data.calibration.texts)
        with job.progress.busy(f"quantize for {candidate.backend}, {options.precision}"):
            made = run(candidate.artifact.path.read_bytes(), texts)
        (out / name).write_bytes(made.model)
        (out / "notes.json").write_text(json.dumps(dict(made.notes)))

    folder = job.cache.folder("quantize", parts, make)
    notes: Mapping[str, Json] = json.loads((folder / "notes.json").read_text())
    artifact = Artifact.of(folder / name)
    return replace(candidate, precision=options.precision, artifact=artifact, notes=notes)
