"""What a candidate answers on its accelerator's emulator, simulator, or device, where one is here.

The golden vectors go through the vendor's own arithmetic and are held to the same bound as on every
engine. How long that takes says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from converters.placement.environments import tool_of
from converters.placement.place import Tools
from converters.samples import Declared
from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.fields import Json
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.batching import pad
from edge_runtime.inference.golden import Case, mismatch, worst
from edge_runtime.inference.tasks.items import SEQUENCE

if TYPE_CHECKING:
    from converters.model import Candidate, Job, Model
    from edge_runtime.profile import Engine

EXECUTE = ("openvino", "qnn")
"""Tools that run a file that is quantized already."""


def emulated_cosine(
    candidate: Candidate, model: Model, cases: Sequence[Case], job: Job
) -> float | None:
    """The lowest cosine of a golden case's outputs with the reference's, as the tool runs it.

    None where no tool runs it: there is none, or it is not set up, or some operators are known to
    be off the accelerator, or this machine has not the device.

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
            return _lowest(candidate, engine, model, cases, job)

    return float(job.cache.value("emulated", parts, compute))


def _lowest(
    candidate: Candidate, engine: Engine, model: Model, cases: Sequence[Case], job: Job
) -> float:
    interface = model.interface(job.recipe.data)
    _, reader = Declared(model.name, interface).reader()
    length = job.lengths[-1] if engine.demands.static_shapes else 0
    lowest = 1.0
    with Tools() as tools:
        for case in cases:
            feeds = {
                spec.name: _grown(spec, case.inputs[spec.name], length, reader.fills)
                for spec in interface.inputs
            }
            answers = tools.run(candidate.artifact.path, engine, feeds)
            found = {
                spec.name: _cut(spec, answers[spec.name], case.outputs[spec.name])
                for spec in interface.outputs
            }
            lowest = min(lowest, 0.0 if mismatch(found, case) else worst(found, case))
    return lowest


def _grown(spec: TensorSpec, value: Tensor, length: int, fills: Mapping[str, int]) -> Tensor:
    """`value` padded to `length`, where it has a length."""
    if not length or SEQUENCE not in spec.shape:
        return value
    return pad(value, spec.shape.index(SEQUENCE), length, fills.get(spec.name, 0))


def _cut(spec: TensorSpec, value: Tensor, wanted: Tensor) -> Tensor:
    """`value` without what padding added."""
    if SEQUENCE not in spec.shape:
        return value
    axis = spec.shape.index(SEQUENCE)
    return value.take(range(wanted.shape[axis]), axis=axis)
