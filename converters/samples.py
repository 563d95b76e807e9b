"""Rows of data as the tensors that a model takes, made by the very steps that a device runs.

A row is read when it is asked for, so that a thousand pictures need no more memory than one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from converters.data import Rows
from converters.sources.interface import Interface
from edge_runtime.bundle.manifest import Step, TensorSpec
from edge_runtime.errors import InputError
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.batching import pad
from edge_runtime.inference.pipeline import check_feeds
from edge_runtime.inference.tasks.items import SEQUENCE, Item
from edge_runtime.inference.tasks.table import Reader, Steps, declared_steps, reader


@dataclass(frozen=True, slots=True)
class Sample:
    """One row, ready: see `Item`. `length` pads it, with `fills` by input; 0 leaves it as it is."""

    item: Item
    inputs: tuple[TensorSpec, ...] = ()
    length: int = 0
    fills: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Its size in the dimension "sequence", 1 where there is none."""
        return self.item.length

    def tensors(self) -> dict[str, Tensor]:
        """The model's inputs by name, batch 1."""
        made = {name: np.asarray(value)[None] for name, value in self.item.tensors.items()}
        for spec in self.inputs if self.length else ():
            if SEQUENCE in spec.shape:
                axis, fill = spec.shape.index(SEQUENCE), self.fills.get(spec.name, 0)
                made[spec.name] = pad(made[spec.name], axis, self.length, fill)
        return made


@dataclass(frozen=True)
class Declared:
    """What a manifest would say of an interface: enough to make its steps of."""

    name: str
    interface: Interface
    version: str = ""

    @property
    def task(self) -> str:
        return self.interface.task

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.interface.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.interface.outputs

    @property
    def preprocess(self) -> tuple[Step, ...]:
        return self.interface.preprocess

    @property
    def postprocess(self) -> tuple[Step, ...]:
        return self.interface.postprocess

    @cached_property
    def steps(self) -> Steps:
        """The declared steps.

        Raises:
            IncompatibleError: they are unknown, faulty, or do not add up to the task.
        """
        return declared_steps(self)

    def reader(self) -> tuple[str, Reader]:
        """What an input is, and the steps before the model, with their files."""
        files = self.interface.files
        return reader(self, lambda name: files[name].read_bytes())


class Samples(Sequence[Sample]):
    """The rows of a split as samples, each made when it is asked for, padded to `length` if any."""

    def __init__(
        self, reader: Reader, rows: Rows, inputs: tuple[TensorSpec, ...], length: int = 0
    ) -> None:
        self._reader = reader
        self._rows = rows
        self._inputs = inputs
        self._length = length

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Samples: ...

    def __getitem__(self, index: int | slice) -> Sample | Samples:
        """A row, or some of them.

        Raises:
            InputError: the row is not what the model's steps take; says which.
        """
        if isinstance(index, slice):
            rows = self._rows.some(range(len(self))[index])
            return Samples(self._reader, rows, self._inputs, self._length)
        raw = self._rows.inputs[index]
        try:
            sample = Sample(self._read(raw), self._inputs, self._length, self._reader.fills)
            check_feeds(self._inputs, sample.tensors())
        except InputError as reason:
            raise InputError(f"data {self._rows.named(index)}: {reason}") from None
        return sample

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def _read(self, raw: Any) -> Item:
        if isinstance(raw, dict) and all(isinstance(one, np.ndarray) for one in raw.values()):
            return Item(raw)
        return self._reader(raw.read_bytes() if isinstance(raw, Path) else raw)


def read_samples(
    interface: Interface, rows: Rows, *, name: str = "model", length: int = 0
) -> Samples:
    """The rows of `rows` through the steps of `interface`, padded to `length` where it is given.

    Raises:
        IncompatibleError: the declared steps are not to be used.
    """
    return Samples(Declared(name, interface).reader()[1], rows, interface.inputs, length)
