"""What every model that is brought promises the passes, whatever format it came in.

A `FloatModel` is the reference: it answers in float, it can be written as a file for an engine
where a way leads there, and it says what stands around it (tensors, steps, labels) in the very
words of a bundle's manifest. It is opened by `sources.table.open_model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edge_runtime.bundle.manifest import Signature, Step, TensorSpec
from edge_runtime.inference.backend import Tensor


@dataclass(frozen=True, slots=True)
class Interface:
    """Tensors of a model and the declared steps around them.

    `task` is a key of `edge_runtime.inference.tasks.table.TASKS`, or "" where it cannot be told.
    A dimension is a size, or "batch" or "sequence" where it is free. Steps are as in the manifest;
    empty where the source does not say how its inputs are made: the recipe must. `labels` by index
    of the output. `files`: name in the bundle → file that a step reads, such as tokenizer.json.
    """

    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: tuple[Step, ...] = ()
    postprocess: tuple[Step, ...] = ()
    labels: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exported:
    """A model file for an engine, in float; `signatures` where it has an entry point a length."""

    data: bytes
    signatures: tuple[Signature, ...] = ()


@dataclass(frozen=True, slots=True)
class Description:
    """What `edge-convert inspect SOURCE` tells. `operators` by name, how many of each.

    `opset` by domain of an ONNX file, () elsewhere. `parameters` counts numbers, not bytes.
    `licence` is "unknown" where the source says none.
    """

    format: str
    name: str
    sha256: str
    size_bytes: int
    licence: str
    parameters: int
    operators: Mapping[str, int]
    interface: Interface
    opset: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


class FloatModel(Protocol):
    """A model in float, as it came. `sha256` covers everything that shapes its answers."""

    name: str
    sha256: str
    licence: str
    interface: Interface

    def export(self, backend: str, *, opset: int, lengths: Sequence[int]) -> Exported:
        """The model as a file for `backend`, float32.

        `opset` is for ONNX; `lengths` are the sizes of "sequence" where the engine's shapes are
        fixed, unused where the model has no such dimension.

        Raises:
            InputError: no way leads from this format to that engine, or the toolchain cannot.
        """
        ...

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name for `feeds`, which match `interface.inputs`; the reference."""
        ...

    def describe(self) -> Description:
        """For people."""
        ...
