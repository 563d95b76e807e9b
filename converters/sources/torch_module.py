"""A torch module by its tensors' names: called with them, its outputs named, measured, digested.

Exporters differ in how they call a module and in how they name what it returns, so a module is
wrapped once, in `Named`. What its outputs are is found by running it with two sizes of whatever is
free: a dimension that follows has that name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.errors import InputError

BATCH, SEQUENCE = "batch", "sequence"
ROWS, TOKENS = 2, 7
"""Of a traced sample: sizes that no weight has, so that a dim can't be mistaken."""
PROBED = ((ROWS, TOKENS), (3, 11))


class Named(torch.nn.Module):
    """A module called with named inputs, in order or by name, that answers a dict by name."""

    def __init__(
        self, module: torch.nn.Module, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        super().__init__()
        self.module = module
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

    def forward(self, *given: torch.Tensor, **named: torch.Tensor) -> dict[str, torch.Tensor]:
        """Tensors in the order of `inputs`, or by their names."""
        found = self.module(**dict(zip(self.inputs, given, strict=False)), **named)
        return dict(zip(self.outputs, tensors_of(found, self.outputs), strict=True))


def tensors_of(found: Any, names: Sequence[str]) -> tuple[torch.Tensor, ...]:
    """What a module returned, as the tensors called `names`, in that order.

    Raises:
        InputError: it returned something else, or another number of tensors.
    """
    if isinstance(found, torch.Tensor):
        found = (found,)
    if isinstance(found, Mapping):
        missing = [name for name in names if not isinstance(found.get(name), torch.Tensor)]
        if missing:
            raise InputError(f"the module returns no tensor {missing[0]}")
        return tuple(found[name] for name in names)
    if (
        not isinstance(found, (tuple, list))
        or len(found) < len(names)
        or not all(isinstance(one, torch.Tensor) for one in found[: len(names)])
    ):
        raise InputError(f"the module returns no {len(names)} tensors ({type(found).__name__})")
    return tuple(found[: len(names)])


def free(spec: TensorSpec) -> dict[int, str]:
    """Axis → name of the dims that are no sizes."""
    return {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}


def sized(sample: torch.Tensor, spec: TensorSpec, sizes: Mapping[str, int]) -> torch.Tensor:
    """`sample` with `sizes` in the free dims of `spec`, cut, or repeated from its start on."""
    for axis, dim in free(spec).items():
        places = torch.arange(sizes[dim]) % sample.shape[axis]
        sample = sample.index_select(axis, places)
    return sample


def probe(
    module: torch.nn.Module,
    inputs: Sequence[TensorSpec],
    samples: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
) -> tuple[TensorSpec, ...]:
    """What the module's outputs are, by running it with two sizes of batch and sequence.

    A dimension that follows one of them has its name.

    Raises:
        InputError: the module fails, or an output's first dimension is not the batch.
    """
    named = Named(module, [one.name for one in inputs], outputs).eval()
    found = []
    for rows, tokens in PROBED:
        sizes = {BATCH: rows, SEQUENCE: tokens}
        feeds = {one.name: sized(samples[one.name], one, sizes) for one in inputs}
        with torch.inference_mode():
            found.append(named(**feeds))
    return tuple(_spec(name, *(one[name] for one in found)) for name in outputs)


def _spec(name: str, first: torch.Tensor, second: torch.Tensor) -> TensorSpec:
    shapes = list(zip(first.shape, second.shape, strict=True))
    if not shapes or shapes[0] != (PROBED[0][0], PROBED[1][0]):
        raise InputError(
            f"output {name} has the shape {list(first.shape)} for a batch of {PROBED[0][0]}: "
            "its first dimension must be the batch"
        )
    dims: list[int | str] = [BATCH]
    for one, other in shapes[1:]:
        if one != other and (one, other) != (PROBED[0][1], PROBED[1][1]):
            raise InputError(f"output {name} has a dimension of {one} here and of {other} there")
        dims.append(one if one == other else SEQUENCE)
    dtype = str(first.dtype).removeprefix("torch.")
    return TensorSpec(name, dtype, tuple(dims))


def state_sha256(module: torch.nn.Module) -> str:
    """Digest of every parameter and buffer, by name."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
            total.update(
                tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
    return total.hexdigest()
