"""Inputs to time and measure a model with: the sizes that count, values that do not matter.

Where a model has sequences there is one set of inputs a length, of any valid token; else the one
set that the first calibration row makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from converters.samples import read_samples
from converters.sources.interface import Interface
from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.inference.backend import Tensor
from edge_runtime.inference.tasks.items import BATCH, SEQUENCE

if TYPE_CHECKING:
    from converters.model import Job

ORDINARY_ID = 7
"""Any valid token: latency does not depend on which words they are."""
WHOLE = 0
"""Stands for the length of a model without sequences."""


def feeds_of(interface: Interface, job: Job) -> dict[int, Mapping[str, Tensor]]:
    """Inputs, batch 1, by length; by `WHOLE` where the model has no sequences."""
    if any(SEQUENCE in spec.shape for spec in interface.inputs):
        return {length: tokens(interface.inputs, length) for length in job.lengths}
    return {WHOLE: read_samples(interface, job.data.calibration.first(1))[0].tensors()}


def longest_feeds(interface: Interface, job: Job) -> Mapping[str, Tensor]:
    """The largest of `feeds_of`."""
    found = feeds_of(interface, job)
    return found[max(found)]


def tokens(inputs: Sequence[TensorSpec], length: int) -> dict[str, Tensor]:
    """Tokens without padding; what is no sequence is ones."""
    return {spec.name: _of(spec, length) for spec in inputs}


def _of(spec: TensorSpec, length: int) -> Tensor:
    shape = [1 if dim == BATCH else length if dim == SEQUENCE else dim for dim in spec.shape]
    value = {"input_ids": ORDINARY_ID, "token_type_ids": 0}.get(spec.name, 1)
    return np.full([dim if isinstance(dim, int) else 1 for dim in shape], value, spec.dtype)


def at_words(length: int) -> str:
    """As "at 128 tokens" behind a space, or nothing where the model has no sequences."""
    return f" at {length} tokens" if length else ""
