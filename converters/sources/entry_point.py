"""A torch module that a function of the user's makes: `file.py:function`.

The function takes nothing and returns `(module, example)`, or `(module, example, interface)`.
`example` is a dict of input name → tensor, or a tuple of tensors in the order of the module's
forward, whose parameters then name them; the first dimension of each is the batch. Without an
`Interface` the model is one of plain tensors: nothing says how its inputs are made. The function is
code of the person who converts, run on the host; nothing of it goes into the bundle.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from converters.source import file_sha256
from converters.sources.interface import FloatModel, Interface
from converters.sources.torch_model import TorchModel, sentence
from converters.sources.torch_module import BATCH, probe, sized, state_sha256
from converters.user_code import load_function
from edge_runtime.bundle.manifest import TensorSpec
from edge_runtime.errors import InputError

USER_MODULE = "edge_user_model"
DTYPES = {
    torch.float32: "float32", torch.float16: "float32", torch.float64: "float32",
    torch.bfloat16: "float32", torch.int64: "int64", torch.int32: "int32", torch.int16: "int16",
    torch.int8: "int8", torch.uint8: "uint8", torch.bool: "bool",
}  # fmt: skip
"""What a tensor becomes; a model is converted in float32."""


def open_entry_point(
    named: str, base: Path, *, name: str = "", licence: str = "unknown"
) -> FloatModel:
    """The module that `named`, as `file.py:function` relative to `base`, makes.

    Args:
        named: the file and its function.
        base: what a relative file is relative to.
        name: of the model; the function's where none is given.
        licence: what is known of it.

    Raises:
        InputError: no such file or function, the function fails, or it returns something else.
    """
    file, colon, function = named.rpartition(":")
    if not colon or not file.endswith(".py") or not function:
        raise InputError(f"model {named!r}: expected a function of yours as file.py:function")
    where, path = f"model {named}", base / file
    made = _call(load_function(path, function, where, module=USER_MODULE, said=_said), where)
    module, example, interface = _parts(made, where)
    module = module.float().eval()
    samples = _samples(module, example, interface, where)
    try:
        if interface is None:
            interface = _told(module, samples)
        else:
            probe(module, interface.inputs, samples, [one.name for one in interface.outputs])
    except InputError as reason:
        raise InputError(f"{where}: {reason}") from None
    except Exception as reason:  # a stranger's module raises what it likes
        raise InputError(f"{where}: the module cannot run its example ({_said(reason)})") from None
    state = state_sha256(module)
    whole = f"{file_sha256(path)}\n{function}\n{state}\n"
    size = sum(one.numel() * one.element_size() for one in module.parameters())
    return TorchModel(
        module, interface, samples, name or function, hashlib.sha256(whole.encode()).hexdigest(),
        licence, "torch", size,
    )  # fmt: skip


def _said(reason: BaseException) -> str:
    """The error's kind and what it says, in one line."""
    kind, said = type(reason).__name__, sentence(reason)
    return said if said.startswith(kind) else f"{kind}: {said}"


def _call(function: Callable[[], Any], where: str) -> Any:
    try:
        return function()
    except (Exception, SystemExit) as reason:  # a stranger's code raises what it likes
        raise InputError(f"{where}: the function fails ({_said(reason)})") from None


def _parts(made: Any, where: str) -> tuple[torch.nn.Module, Any, Interface | None]:
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise InputError(
            f"{where}: the function returned {type(made).__name__}, expected (module, example) or "
            "(module, example, interface)"
        )
    module, example, interface = (*made, None)[:3]
    if not isinstance(module, torch.nn.Module):
        raise InputError(
            f"{where}: the function returned {type(module).__name__} first, expected a torch module"
        )
    if interface is not None and not isinstance(interface, Interface):
        raise InputError(
            f"{where}: the function returned {type(interface).__name__} third, expected an "
            "Interface"
        )
    return module, example, interface


def _samples(
    module: torch.nn.Module, example: Any, interface: Interface | None, where: str
) -> dict[str, torch.Tensor]:
    """Input name → tensor, float32 where it is a float."""
    if isinstance(example, torch.Tensor):
        example = (example,)
    if isinstance(example, (tuple, list)):
        names = _parameters(module, interface)
        if len(names) < len(example):
            raise InputError(
                f"{where}: the example holds {len(example)} tensors, forward takes "
                f"{', '.join(names) or 'none by name'}"
            )
        example = dict(itertools.islice(zip(names, example, strict=False), len(example)))
    if not isinstance(example, Mapping) or not example:
        raise InputError(
            f"{where}: the example is {type(example).__name__}, expected a dict of name → tensor "
            "or a tuple of tensors"
        )
    made = {}
    for name, value in example.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise InputError(f"{where}: the example's {name} is no tensor")
        if value.dtype not in DTYPES:
            raise InputError(f"{where}: the example's {name} is of {value.dtype}")
        if not value.ndim or not value.numel():
            raise InputError(
                f"{where}: the example's {name} has the shape {list(value.shape)}, expected a "
                "batch of at least one row"
            )
        made[name] = value.detach().to(getattr(torch, DTYPES[value.dtype]))
    lacking = [one.name for one in interface.inputs if one.name not in made] if interface else []
    if lacking:
        raise InputError(f"{where}: the example has no {lacking[0]}, which the interface names")
    return made


def _parameters(module: torch.nn.Module, interface: Interface | None) -> list[str]:
    """Names of forward's parameters that take a tensor each."""
    if interface is not None:
        return [one.name for one in interface.inputs]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        name
        for name, one in inspect.signature(module.forward).parameters.items()
        if one.kind in kinds
    ]


def _told(module: torch.nn.Module, samples: Mapping[str, torch.Tensor]) -> Interface:
    """Inputs from the example, outputs from what the module returns for it."""
    inputs = tuple(
        TensorSpec(name, DTYPES[one.dtype], (BATCH, *one.shape[1:]))
        for name, one in samples.items()
    )
    with torch.inference_mode():
        found = module(**{one.name: sized(samples[one.name], one, {BATCH: 2}) for one in inputs})
    if isinstance(found, torch.Tensor):
        found = (found,)
    if isinstance(found, Mapping):
        names = [str(name) for name, one in found.items() if isinstance(one, torch.Tensor)]
    elif isinstance(found, (tuple, list)):
        names = [f"output_{at}" for at, one in enumerate(found) if isinstance(one, torch.Tensor)]
    else:
        names = []
    if not names or len(names) != len(found):
        raise InputError(
            f"the module returns {type(found).__name__}, expected tensors: one, a tuple or a dict"
        )
    return Interface("", inputs, probe(module, inputs, samples, names))
