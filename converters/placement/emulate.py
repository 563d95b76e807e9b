"""What a candidate answers on its accelerator's emulator, simulator, or device, where one is here.

The golden vectors go through the vendor's own arithmetic and are held to the same bound as on every
engine. How long that takes says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from converters.answers import golden_cosine
from converters.placement.environments import tool_of
from converters.placement.simulate import open_simulated
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.fields import Json
from edge_runtime.inference.golden import load_golden

if TYPE_CHECKING:
    from converters.model import Candidate, Job, Model
    from edge_runtime.profile import Engine

EXECUTE = ("openvino", "qnn")
"""Tools that run a file that is quantized already."""


def emulated_cosine(
    candidate: Candidate, model: Model, draft: VerifiedBundle, job: Job
) -> float | None:
    """The lowest cosine of a golden case's outputs with the reference's, as the tool runs it.

    `draft` holds the candidate and the golden vectors. None where no tool runs it: there is none,
    or it is not set up, or some operators are known to be off the accelerator, or this machine has
    not the device.

    Raises:
        InputError: the tool fails.
    """
    engine = job.profile.engine(candidate.backend, candidate.accelerator)
    placed = candidate.placed
    if engine is None or placed is None or placed.share != 1 or engine.compiler not in EXECUTE:
        return None
    parts: dict[str, object] = {
        "file": candidate.artifact.sha256,
        "target": dict(engine.target),
        "tool": tool_of(engine.compiler),
        "golden": model.verdict.golden.artifact.sha256 if model.verdict else "",
    }

    def compute() -> Json:
        with job.progress.busy(f"golden vectors of {candidate.id} by {placed.tool}"):
            return _lowest(candidate, engine, draft, job)

    return float(job.cache.value("emulated", parts, compute))


def _lowest(candidate: Candidate, engine: Engine, draft: VerifiedBundle, job: Job) -> float:
    variant = next(one for one in draft.manifest.variants if one.id == candidate.id)
    length = job.lengths[-1] if engine.demands.static_shapes else 0
    pipeline = open_simulated(draft, variant, candidate.artifact.path, engine, length=length)
    try:
        return golden_cosine(pipeline, load_golden(draft))
    finally:
        pipeline.close()
