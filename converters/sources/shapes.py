"""Dimensions of a brought file: what is free gets a name that the product knows, or a size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from edge_runtime.errors import InputError
from edge_runtime.inference.tasks.items import BATCH, SEQUENCE

Dims = Sequence["int | str | None"]
PICTURE_RANK = 4
"""Dimensions of a batch of pictures."""
TOKENS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""Inputs whose second dimension is a sequence."""


def settled(
    inputs: Mapping[str, Dims], given: Mapping[str, Sequence[int]], where: str
) -> dict[str, tuple[int | str, ...]]:
    """The shape of each input: its first free dimension is the batch, the second one of token ids
    the sequence; every other must be given.

    `given` are whole shapes by input, from `--shape` or the recipe; 1 stands for a free batch too.

    Raises:
        InputError: a free dimension has no size, or a given shape does not fit; says which.
    """
    for name in given:
        if name not in inputs:
            raise InputError(f"{where}: shape of {name!r}: the inputs are {', '.join(inputs)}")
    return {name: _settled(name, dims, given.get(name), where) for name, dims in inputs.items()}


def _settled(
    name: str, dims: Dims, given: Sequence[int] | None, where: str
) -> tuple[int | str, ...]:
    shown = _shown(dims)
    if given is not None and len(given) != len(dims):
        raise InputError(f"{where}: shape of {name} is {list(given)}, the model has {shown}")
    found: list[int | str] = []
    for place, dim in enumerate(dims):
        size = None if given is None else given[place]
        if isinstance(dim, int) and dim > 0:
            if size is not None and size != dim:
                raise InputError(f"{where}: shape of {name} is {list(given or ())}, the model has "
                                 f"{shown}")  # fmt: skip
            found.append(dim)
        elif place == 0 and size in (None, 1):
            found.append(BATCH)
        elif size is not None:
            found.append(size)
        elif place == 1 and name in TOKENS:
            found.append(SEQUENCE)
        else:
            example = ",".join(str(d) if isinstance(d, int) and d > 0 else ("1" if not p else "N")
                               for p, d in enumerate(dims))  # fmt: skip
            free = [_word(d, p) for p, d in enumerate(dims) if p and not _sized(d)]
            raise InputError(
                f"{where}: input {name} has the free dimensions {', '.join(free)} in {shown}; "
                f"say how large they are: --shape {name}={example}, or in the recipe's source.shape"
            )
    return tuple(found)


def _sized(dim: int | str | None) -> bool:
    return isinstance(dim, int) and dim > 0


def _word(dim: int | str | None, place: int) -> str:
    return dim if isinstance(dim, str) and dim else f"number {place}"


def _shown(dims: Dims) -> str:
    return f"[{', '.join(_word(d, p) if not _sized(d) else str(d) for p, d in enumerate(dims))}]"


def parse_shapes(written: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of a command line: NAME=1,3,224,224 each.

    Raises:
        InputError: one has another form.
    """
    shapes = {}
    for one in written:
        name, equals, sizes = one.rpartition("=")
        if not equals or not name or not re.fullmatch(r"[1-9]\d{0,8}(,[1-9]\d{0,8})*", sizes):
            raise InputError(f"--shape {one!r}: expected NAME=1,3,224,224: sizes above 0")
        shapes[name] = tuple(int(size) for size in sizes.split(","))
    return shapes
