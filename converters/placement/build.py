"""Candidates whose file a vendor's tool builds of the float file: formats that no engine here runs.

The tool gets the float ONNX file with fixed shapes, inputs and outputs in the manifest's order,
because the board's engine knows them by their place only; and calibration samples where it shall
quantize. Nothing of ours quantizes it. What it answers is asked of the tool, see `simulate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converters.cache import tool_versions
from converters.placement.candidate import place_candidate
from converters.placement.place import save_arrays
from converters.quantize.config import Options
from converters.quantize.scheme import FLOAT
from converters.samples import read_samples
from converters.source import file_sha256
from edge_runtime.bundle.manifest import Signature
from edge_runtime.errors import InputError
from edge_runtime.fields import Json
from edge_runtime.inference.tasks.items import SEQUENCE

if TYPE_CHECKING:
    from converters.model import Artifact, Candidate, Job, Model
    from converters.sources.interface import Interface
    from edge_runtime.profile import Engine


@dataclass(frozen=True, slots=True)
class Builder:
    """What is built for an engine: of whose float file, and the precision for each scheme."""

    source: str
    precisions: Mapping[str, str]


BUILDERS: Mapping[str, Builder] = {
    "rknn": Builder(
        "onnxruntime", {FLOAT: "float16", "static_w8a8_channel": "static_w8a8_channel"}
    ),
}
"""By engine. Rockchip's NPUs have no float32: what is not quantized runs in half floats."""

ROWS = Options("").rows
"""Calibration samples, as many as our own quantizers take."""


def exported_as(backend: str) -> str:
    """The engine whose float file `backend` begins with: itself, where nothing is built for it."""
    return BUILDERS[backend].source if backend in BUILDERS else backend


def check_scheme(backend: str, scheme: str) -> None:
    """The builder of `backend` makes files of that scheme.

    Raises:
        InputError: it does not; says which it makes.
    """
    known = BUILDERS[backend].precisions
    if scheme not in known:
        raise InputError(
            f"quantization {scheme!r} is not known for engine {backend}; known are "
            f"{', '.join(known)}"
        )


def build_candidate(
    base: Candidate, engine: Engine, scheme: str, model: Model, job: Job
) -> Candidate | None:
    """The candidate for `engine`, of the float ONNX file `base`; None where its tool is missing.

    Raises:
        InputError: the tool cannot build it, or less of it than the floor is on the accelerator.
    """
    from converters.model import Built

    check_scheme(engine.backend, scheme)
    interface = model.interface(job.recipe.data)
    length = job.lengths[-1] if any(SEQUENCE in one.shape for one in interface.inputs) else 0
    source = _fixed(base, interface, length, job)
    samples: Artifact | None = None
    notes: dict[str, Json] = {}
    if scheme != FLOAT:
        samples = _calibration(model, interface, length, job)
        notes = {"calibration_texts": min(ROWS, len(job.data.calibration))}
    made = place_candidate(
        replace(
            base,
            backend=engine.backend,
            accelerator=engine.accelerator,
            precision=BUILDERS[engine.backend].precisions[scheme],
            artifact=source,
            plain=None,
            signatures=(Signature("model", {SEQUENCE: length}),) if length else (),
            notes=notes,
            built=Built(source, samples),
        ),
        engine,
        job,
    )
    return replace(made, artifact=made.compiled) if made.compiled is not None else None


def _fixed(base: Candidate, interface: Interface, length: int, job: Job) -> Artifact:
    """The float file for one row of `length`, inputs and outputs as the manifest has them."""
    from converters.model import Artifact

    inputs, outputs = ([one.name for one in some] for some in (interface.inputs, interface.outputs))
    parts: dict[str, object] = {
        "file": base.artifact.sha256,
        "length": length,
        "inputs": inputs,
        "outputs": outputs,
        "tools": tool_versions("onnx", "onnxruntime"),
    }

    def make(out: Path) -> None:
        from converters.fold import fold_constants
        from converters.quantize.whole import fix_shapes, in_order

        with job.progress.busy(f"fix the shapes of {base.id}"):
            dims = {"batch": 1, **({SEQUENCE: length} if length else {})}
            # Not `simplify`: it fuses to operators of ONNX Runtime's own.
            folded, _ = fold_constants(fix_shapes(base.artifact.path.read_bytes(), dims))
            (out / "model.onnx").write_bytes(in_order(folded, inputs, outputs))

    return Artifact.of(job.cache.folder("to-build", parts, make) / "model.onnx")


def _calibration(model: Model, interface: Interface, length: int, job: Job) -> Artifact:
    """Calibration samples as such a tool reads them: for each input an array (samples, 1, …)."""
    from converters.model import Artifact

    parts: dict[str, object] = {
        "calibration": job.data.calibration.sha256,
        "steps": [asdict(step) for step in interface.preprocess],
        "files": {name: file_sha256(path) for name, path in interface.files.items()},
        "inputs": [asdict(one) for one in interface.inputs],
        "length": length,
        "rows": ROWS,
    }

    def make(out: Path) -> None:
        samples = read_samples(interface, job.data.calibration, name=model.name, length=length)
        with job.progress.busy("calibration samples"):
            made = [sample.tensors() for sample in samples[:ROWS]]
            stacked = {
                one.name: np.stack([tensors[one.name] for tensors in made])
                for one in interface.inputs
            }
        save_arrays(out / "samples.npz", stacked)

    return Artifact.of(job.cache.folder("calibration", parts, make) / "samples.npz")
