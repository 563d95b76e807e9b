"""The passes between weights and candidates: export, fuse, quantize. Each is cached by its inputs.

They hold no technique of their own; that is in `export`, `fuse` and `quantize`. What is decided
here is which engines the profile asks for, and what the cache may reuse.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from converters.cache import tool_versions
from converters.configs import ExportConfig, FuseConfig
from converters.feeds import longest_feeds
from converters.model import FLOAT, SUFFIXES, Artifact, Candidate, Job, Model, TextModel
from converters.operators import check_runtime, float_operators, operators_of
from converters.placement.build import BUILDERS, build_candidate, exported_as
from converters.placement.candidate import place_candidate
from converters.placement.coverage import ALLOW, BelowFloor
from converters.quantize import Quantized, quantizer
from converters.quantize.config import Options, QuantizeConfig
from converters.quantize.scheme import FLOAT as FLOAT_SCHEME
from converters.samples import Samples, read_samples
from converters.source import file_sha256
from edge_runtime.bundle.manifest import Signature
from edge_runtime.errors import InputError
from edge_runtime.fields import Json
from edge_runtime.profile import CPU, Engine

TOOLS = {
    "onnxruntime": ("torch", "transformers", "onnx", "onnxruntime"),
    "litert": ("torch", "transformers", "litert-torch", "ai-edge-quantizer"),
}
CONVOLUTIONS = frozenset(("Conv", "ConvTranspose", "CONV_2D", "DEPTHWISE_CONV_2D",
                          "TRANSPOSE_CONV", "CONV_3D"))  # fmt: skip
"""Operators of either format that slide a kernel over a picture or a sound."""
WRONG = {"tflite-runtime": "dynamic_"}
"""Runtime → what the names of schemes have in them that it computes wrongly."""
LEFT_OUT = "left out"
"""Among the figures of an accelerator that there was no way to: why."""
TENSORFLOW = "tensorflow_"
"""What schemes of TensorFlow's own converter begin with."""


def export(model: Model, config: ExportConfig, job: Job) -> tuple[Model, dict[str, Json]]:
    """One float candidate for each engine of the profile, in the profile's order.

    A model that was brought may lead to some engines only; the others are left out, and the
    figures say why.

    Raises:
        InputError: nothing could be exported.
    """
    candidates: list[Candidate] = []
    left_out: dict[str, Json] = {}
    for backend in dict.fromkeys(exported_as(engine.backend) for engine in job.profile.engines):
        try:
            candidates.append(_export_one(backend, model, config, job))
        except InputError as reason:
            if isinstance(model, TextModel):
                raise
            left_out[backend] = str(reason)
            job.progress.say(f"  left out  {backend}: {reason}")
    if not candidates:
        raise InputError("; ".join(str(reason) for reason in left_out.values()))
    figures: dict[str, Json] = {
        "size_bytes": {one.id: one.artifact.size_bytes for one in candidates}
    }
    if left_out:
        figures["left_out"] = left_out
    return replace(model, candidates=tuple(candidates)), figures


def _export_one(
    backend: str,
    model: Model,
    config: ExportConfig,
    job: Job,
    lengths: Sequence[int] = (),
) -> Candidate:
    """The float file for `backend`, with entry points for `lengths`; the profile's by default."""
    lengths = list(lengths or job.lengths)
    fixed = backend == "litert"
    optimum = () if fixed or config.exporter != "optimum" else ("optimum", "optimum-onnx")
    parts: dict[str, object] = {
        "backend": backend,
        "model": model.sha256,
        # What does not shape the file stays out of its key.
        "config": lengths if fixed else config,
        "tools": tool_versions(*TOOLS[backend], *optimum),
    }

    def make(out: Path) -> None:
        opened = model.opened(job.recipe.data, exporter=config.exporter)
        with job.progress.busy(f"export for {backend}"):
            made = opened.export(backend, opset=config.opset, lengths=lengths)
        (out / _file(backend)).write_bytes(made.data)
        signatures = [asdict(one) for one in made.signatures]
        (out / "signatures.json").write_text(json.dumps(signatures))

    folder = job.cache.folder("export", parts, make)
    _check_runtime(folder / _file(backend), backend, job)
    signatures = tuple(
        Signature(one["name"], one["dims"])
        for one in json.loads((folder / "signatures.json").read_text())
    )
    return Candidate(backend, FLOAT, Artifact.of(folder / _file(backend)), signatures, {})


def _check_runtime(path: Path, backend: str, job: Job) -> None:
    """Refuse operators that the package which the board has does not know."""
    engine = job.profile.engine(backend)
    if backend == "litert" and engine is not None and engine.runtime:
        check_runtime(path.read_bytes(), engine.runtime, f"profile {job.profile.name}")


def _check_scheme(backend: str, scheme: str, job: Job) -> None:
    """Refuse schemes that the board's package runs without an error, and wrongly."""
    engine = job.profile.engine(backend)
    if engine is not None and engine.runtime in WRONG and WRONG[engine.runtime] in scheme:
        raise InputError(
            f"profile {job.profile.name}: {engine.runtime} answers nonsense in {scheme} (cosines "
            "of 0.07 to 0.13 were measured); use static_w8a8_channel or weight_w8_channel"
        )


def _file(backend: str) -> str:
    return f"model{SUFFIXES[backend]}"


def fuse(model: Model, config: FuseConfig, job: Job) -> tuple[Model, dict[str, Json]]:
    """The ONNX candidates with fused operators and folded constants; others as they are.

    Figures: operators by name, nodes that folding took away, and the most that activations take
    before and after, for the longest text.
    """
    figures: dict[str, Json] = {"fused_operators": {}}

    def rewrite(candidate: Candidate) -> Candidate:
        parts: dict[str, object] = {
            "file": candidate.artifact.sha256,
            "fused_as": model.fused_as,
            "tokens": job.lengths[-1],
            "tools": tool_versions("onnx", "onnxruntime"),
        }
        folder = job.cache.folder("fuse", parts, lambda out: _fuse_one(candidate, model, job, out))
        figures.update(json.loads((folder / "figures.json").read_text()))
        fused = Artifact.of(folder / _file("onnxruntime"))
        return replace(candidate, artifact=fused, plain=candidate.artifact)

    return _each(model, "onnxruntime", rewrite), figures


def _fuse_one(candidate: Candidate, model: Model, job: Job, out: Path) -> None:
    """Write file and figures to `out`."""
    from converters.fold import fold_constants
    from converters.fuse import fuse_onnx
    from converters.memory import onnx_activations

    plain, kind = candidate.artifact.path.read_bytes(), model.fused_as
    feeds = longest_feeds(model.interface(job.recipe.data), job)
    with job.progress.busy(f"fuse operators of {candidate.id}"):
        fused, found = fuse_onnx(
            plain,
            architecture=kind.architecture,
            heads=kind.heads,
            hidden=kind.hidden,
        )
        fused, folded = fold_constants(fused)
        before, after = (onnx_activations(one, feeds).peak_bytes for one in (plain, fused))
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
    """A candidate for each engine, before the float ones; the profile says how.

    Each one's operators are placed by the tool that the engine names.

    Raises:
        InputError: an accelerator is left less of the model than the profile's floor, or there is
            no way to it at all.
    """
    made = []
    left_out: dict[str, Json] = {}
    floats = {one.backend: one for one in model.candidates}
    for engine in job.profile.engines:
        base = floats.get(exported_as(engine.backend))
        if base is None:
            continue  # no way led there
        if engine.accelerator == CPU:
            options = config.options(engine.backend, _scheme(base, engine))
            made.append(_quantize_one(base, options.under(engine.demands), model, job))
            continue
        try:
            one = _accelerated(base, engine, model, job)
        except BelowFloor:
            raise
        except InputError as reason:
            if not job.allow_fallback:
                where = f"profile {job.profile.name}: {engine.id}"
                raise InputError(f"{where}: {reason}. Or go without it: {ALLOW}") from None
            left_out[engine.id] = {LEFT_OUT: str(reason)}
            job.progress.say(f"  left out  {engine.id}: {reason}")
            continue
        if one is not None:
            made.append(one)
    notes: dict[str, Json] = {one.id: _figures(one) for one in made}
    return replace(model, candidates=(*made, *model.candidates)), {**notes, **left_out}


def _figures(candidate: Candidate) -> dict[str, Json]:
    """How the candidate came about and where it runs, for the report."""
    if candidate.placed is None:
        return dict(candidate.notes)
    return {**candidate.notes, "placement": candidate.placed.as_json()}


def _accelerated(base: Candidate, engine: Engine, model: Model, job: Job) -> Candidate | None:
    """The candidate for an accelerator, of the file that no fusing for the CPU has touched.

    None where its file is a vendor's, whose tool is not set up: that is told.
    """
    if base.plain is not None:
        base = replace(base, artifact=base.plain, plain=None)
    export_config = job.recipe.config(ExportConfig)
    assert export_config is not None  # no recipe is without
    highest = engine.demands.max_opset
    if base.backend == "onnxruntime" and highest and export_config.opset > highest:
        older = replace(export_config, opset=highest)
        base = _export_one(base.backend, model, older, job)
    if engine.backend in BUILDERS:
        return build_candidate(base, engine, _scheme(base, engine), model, job)
    if engine.demands.static_shapes:
        base = _fixed(base, model, job)
    options = Options("").over(_scheme(base, engine)).under(engine.demands)
    # LiteRT's entry points pad by themselves.
    fixed = engine.demands.static_shapes and base.backend == "onnxruntime"
    if options.scheme == FLOAT_SCHEME:
        made = base
    else:
        length = job.lengths[-1] if fixed else 0
        made = _quantize_one(base, options, model, job, length)
    return place_candidate(replace(made, accelerator=engine.accelerator), engine, job)


def _fixed(base: Candidate, model: Model, job: Job) -> Candidate:
    """`base` with one length and one row."""
    longest = job.lengths[-1]
    if base.backend == "litert":
        if not base.signatures:
            return base
        export_config = job.recipe.config(ExportConfig)
        assert export_config is not None  # no recipe is without
        return _export_one(base.backend, model, export_config, job, (longest,))
    parts: dict[str, object] = {
        "file": base.artifact.sha256,
        "length": longest,
        "tools": tool_versions("onnx", "onnxruntime"),
    }

    def make(out: Path) -> None:
        from converters.quantize.whole import fix_shapes, simplify

        with job.progress.busy(f"fix the shapes of {base.id}"):
            dims = {"batch": 1, "sequence": longest}
            fixed = simplify(fix_shapes(base.artifact.path.read_bytes(), dims))
        (out / _file(base.backend)).write_bytes(fixed)

    folder = job.cache.folder("fixed", parts, make)
    return replace(base, artifact=Artifact.of(folder / _file(base.backend)))


def _scheme(candidate: Candidate, engine: Engine) -> str:
    """What the profile asks for, for a model like this."""
    if not engine.convolutions:
        return engine.quantization
    kinds = operators_of(candidate.artifact.path)
    return engine.scheme(convolutional=bool(CONVOLUTIONS & set(kinds)))


def _quantize_one(
    candidate: Candidate, options: Options, model: Model, job: Job, length: int = 0
) -> Candidate:
    """`candidate` quantized; calibrated with samples padded to `length` where that is fixed."""
    interface = model.interface(job.recipe.data)
    name = _file(candidate.backend)
    _check_scheme(candidate.backend, options.scheme, job)
    parts: dict[str, object] = {
        "file": candidate.artifact.sha256,
        "options": options.key(),
        "calibration": job.data.calibration.sha256,
        "steps": [asdict(step) for step in interface.preprocess],
        "files": {name: file_sha256(path) for name, path in interface.files.items()},
        "model": model.sha256 if options.scheme.startswith(TENSORFLOW) else "",
        "tools": tool_versions(*TOOLS[candidate.backend]),
    }

    def make(out: Path) -> None:
        samples = read_samples(interface, job.data.calibration, name=model.name, length=length)
        with job.progress.busy(f"quantize for {candidate.backend}, {options.precision}"):
            made = _quantized(candidate, options, model, samples, job)
        (out / name).write_bytes(made.model)
        (out / "notes.json").write_text(json.dumps(dict(made.notes)))

    folder = job.cache.folder("quantize", parts, make)
    _check_runtime(folder / name, candidate.backend, job)
    notes: Mapping[str, Json] = json.loads((folder / "notes.json").read_text())
    artifact = Artifact.of(folder / name)
    return replace(candidate, precision=options.precision, artifact=artifact, notes=notes)


def _quantized(
    candidate: Candidate, options: Options, model: Model, samples: Samples, job: Job
) -> Quantized:
    """By the engine's own quantizer, or by TensorFlow's of the Keras model the file came from."""
    if not options.scheme.startswith(TENSORFLOW):
        run = quantizer(candidate.backend, options)
        return run(candidate.artifact.path.read_bytes(), tuple(samples[: options.rows or None]))
    opened = model.opened(job.recipe.data)
    convert = getattr(opened, "quantize", None)
    if convert is None:
        raise InputError(
            f"quantization {options.scheme}: TensorFlow quantizes Keras models and SavedModels, "
            f"{model.name} is none"
        )
    few = samples[: options.rows or None]
    made: bytes = convert(options.scheme, few)
    left = [f"{name} x{count}" for name, count in float_operators(made).items()]
    return Quantized(made, {"calibration_texts": len(few), "float_operators": left})
