"""LiteRT, once TensorFlow Lite: the first of its two packages that is installed.

Shapes are fixed, so a text model has one entry point (signature) per length and runs one row at
a time; the signatures share the weights. A full-integer file is fed and answers in float32 where
the manifest says so, see `integers`. The engine verifies little of what it loads and may
abort the process on a hostile or foreign file: run it in a worker, and believe it only after the
self-test.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from edge_runtime.bundle.manifest import Manifest, TensorSpec, Variant
from edge_runtime.errors import DeviceError, IncompatibleError, InputError
from edge_runtime.inference import litert_account
from edge_runtime.inference.backend import (
    Account,
    EngineOptions,
    Tensor,
    agree,
    cast,
    merge_options,
    one_line,
)
from edge_runtime.inference.integers import FLOAT, Grid, border
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.profile import CPU, Engine

RUNTIMES = {
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}
"""Packages that carry the interpreter, the preferred first, and the module that has it."""
OWN_OPTIONS = ("delegate", "delegate_options")
FILE_IDENTIFIER = b"TFL3"
MAX_TEXT = 256
"""Of what the worker reports of a delegate, whose path may be longer."""


class LiteRtBackend:
    """LiteRT, if it is installed; `runtime` picks one of RUNTIMES instead of the first."""

    def __init__(self, runtime: str | None = None) -> None:
        self._candidates = (runtime,) if runtime else tuple(RUNTIMES)

    def available(self) -> str | None:
        """See `Backend`."""
        found = self._find()
        return found if isinstance(found, str) else None

    def _find(self) -> tuple[str, ModuleType] | str:
        """The package and its module, or why there is none."""
        reasons = []
        for package in self._candidates:
            try:
                return package, importlib.import_module(RUNTIMES[package])
            except ModuleNotFoundError:
                continue
            except Exception as reason:  # a wheel for another numpy raises what it likes
                reasons.append(f"{package} cannot be imported: {one_line(reason)}")
        why = "; ".join(reasons) or f"none of {', '.join(self._candidates)} is installed"
        return f'no LiteRT engine ({why}); install it with pip install "edge-runtime[litert]"'

    def load(
        self,
        model: bytes,
        manifest: Manifest,
        variant: Variant,
        engine: Engine | None,
        *,
        watched: bool = False,
    ) -> LiteRtSession:
        """See `Backend`."""
        found = self._find()
        if isinstance(found, str):
            raise IncompatibleError(f"variant {variant.id}: {found}")
        if model[4:8] != FILE_IDENTIFIER:
            raise IncompatibleError(
                f"variant {variant.id}: {variant.file} is not a LiteRT model "
                "(the identifier TFL3 is missing)"
            )
        package, module = found
        options = merge_options(variant, engine, frozenset())
        for key in options.own:
            if key not in OWN_OPTIONS:
                raise IncompatibleError(
                    f"variant {variant.id}: LiteRT option {key!r} is not known; "
                    f"known are {', '.join(OWN_OPTIONS)}"
                )
        alone = None
        if watched and options.own.get("delegate"):
            alone = _seen_alone(package, module, options, variant, model)
        delegates, accelerator = _accelerate(package, module, options, variant)
        interpreter = _interpreter(package, module, options, variant, model, delegates)
        account = partial(litert_account.account, interpreter, *alone) if alone else None
        return LiteRtSession(interpreter, model, manifest, variant, accelerator, account)


class LiteRtSession:
    """A loaded LiteRT model. See `Session`; runs are serialized, the interpreter is one state."""

    max_batch: int | None = 1

    def __init__(
        self,
        interpreter: Any,
        model: bytes,
        manifest: Manifest,
        variant: Variant,
        accelerator: Accelerator,
        account: Callable[[], Account] | None = None,
    ) -> None:
        self._account = account
        self._lock = threading.Lock()
        self._told = ""
        self._variant = variant.id
        # The interpreter points into these bytes without owning them.
        self._keep: tuple[Any, ...] = (model, interpreter)
        self.accelerator = accelerator
        try:
            runners = _runners(interpreter, variant)
            first = next(iter(runners.values()))
            inputs, outputs = first.get_input_details(), first.get_output_details()
            # Entry points may differ in their scales.
            self._enter = {
                length: border(manifest.inputs, runner.get_input_details())
                for length, runner in runners.items()
            }
            self._leave = {
                length: border(manifest.outputs, runner.get_output_details())
                for length, runner in runners.items()
            }
        except (ValueError, RuntimeError) as reason:
            raise IncompatibleError(
                f"variant {variant.id}: {variant.file} cannot be prepared ({one_line(reason)})"
            ) from None
        self.inputs: tuple[TensorSpec, ...] = agree(
            variant, "inputs", manifest.inputs, _tensors(inputs, self._enter), exactly=True
        )
        self.outputs: tuple[TensorSpec, ...] = agree(
            variant, "outputs", manifest.outputs, _tensors(outputs, self._leave), exactly=False
        )
        self._by_length = runners
        self.lengths: tuple[int, ...] = tuple(sorted(length for length in runners if length))
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in self.inputs}
        # Which input, and which of its axes, tells the length.
        self._sequence = next(
            (
                (spec.name, spec.shape.index("sequence"))
                for spec in self.inputs
                if "sequence" in spec.shape
            ),
            None,
        )

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Session`. The length must be one of `lengths`, the batch 1."""
        ready = {name: cast(name, feeds[name], dtype) for name, dtype in self._dtypes.items()}
        length = 0
        if self.lengths and self._sequence:
            name, axis = self._sequence
            length = ready[name].shape[axis]
        with self._lock:
            if not self._by_length:
                raise RuntimeError(f"session of variant {self._variant} is closed")
            runner = self._by_length.get(length)
            if runner is None:
                raise RuntimeError(
                    f"session of variant {self._variant}: no entry point for length {length}, "
                    f"there are {', '.join(map(str, self.lengths))}"
                )
            for name, grid in self._enter[length].items():
                ready[name] = grid.quantize(name, ready[name])
            try:
                values: dict[str, Tensor] = runner(**ready)
            except (RuntimeError, ValueError) as reason:
                text = self._new(str(reason))
                if "out of bounds" in text.lower() or "out of range" in text.lower():
                    raise InputError(
                        f"variant {self._variant}: the model refuses this input ({text})"
                    ) from None
                raise DeviceError(f"variant {self._variant}: LiteRT failed ({text})") from None
        leave = self._leave[length]
        return {
            name: leave[name].dequantize(value) if name in leave else value
            for name, value in values.items()
        }

    def _new(self, text: str) -> str:
        """What the engine says now. It repeats all that it ever said, of others' inputs, too."""
        before, self._told = self._told, text
        return one_line(text[len(before) :] if text.startswith(before) else text)

    def account(self) -> Account | None:
        """See `Session`."""
        account, self._account = self._account, None
        return account() if account is not None else None

    def close(self) -> None:
        """See `Session`."""
        self._account = None
        with self._lock:
            # Runners first: they point into the interpreter, which points into the bytes.
            self._by_length = {}
            self._keep = ()


def _runners(interpreter: Any, variant: Variant) -> dict[int, Any]:
    """Entry points by their length; 0 where the variant declares none.

    Raises:
        IncompatibleError: a declared signature is not in the file, or two have one length.
    """
    present = interpreter.get_signature_list()
    if not variant.signatures:
        if len(present) != 1:
            raise IncompatibleError(
                f"variant {variant.id}: {variant.file} has {len(present)} signatures "
                f"({one_line(', '.join(present))}) and the manifest declares none; expected "
                "exactly one"
            )
        return {0: interpreter.get_signature_runner(next(iter(present)))}
    runners: dict[int, Any] = {}
    for signature in variant.signatures:
        if signature.name not in present:
            raise IncompatibleError(
                f"variant {variant.id}: {variant.file} has no signature {signature.name!r}, "
                f"it has {one_line(', '.join(present) or 'none')}"
            )
        length = signature.dims.get("sequence", 0)
        if length in runners:
            raise IncompatibleError(
                f"variant {variant.id}: two signatures for a sequence of {length}"
            )
        runners[length] = interpreter.get_signature_runner(signature.name)
    return runners


def _tensors(
    details: Mapping[str, Any], turned: Mapping[int, Mapping[str, Grid]]
) -> dict[str, tuple[str, int]]:
    """Dtype and rank by name, as they are on this side of the border."""
    names = {name for grids in turned.values() for name in grids}
    return {
        name: (FLOAT if name in names else np.dtype(tensor["dtype"]).name, len(tensor["shape"]))
        for name, tensor in details.items()
    }


def _accelerate(
    package: str, module: ModuleType, options: EngineOptions, variant: Variant
) -> tuple[list[Any], Accelerator]:
    """The delegate that the profile names, loaded, or why the CPU runs instead."""
    version = importlib.metadata.version(package)
    library = options.own.get("delegate", "")
    meant = variant.placement.accelerator
    if not library:
        lacks = f"the profile names no delegate for {meant}; the CPU runs instead"
        return [], Accelerator(
            variant.id,
            f"litert: {meant}"[:MAX_TEXT],
            f"{package} {version}: cpu",
            "" if meant == CPU else lacks,
        )
    requested = f"litert: {library}"[:MAX_TEXT]
    given = options.own.get("delegate_options", {})
    try:
        # The engine's own loader leaves a half-made object behind, which complains when it goes.
        ctypes.CDLL(str(library))
        delegate = module.load_delegate(library, given)
    except Exception as reason:
        degraded = f"delegate {library} did not start ({one_line(reason)}); the CPU runs instead"
        return [], Accelerator(variant.id, requested, f"{package} {version}: cpu", degraded)
    actual = f"{package} {version}: {library}"[:MAX_TEXT]
    return [delegate], Accelerator(variant.id, requested, actual)


def _interpreter(
    package: str,
    module: ModuleType,
    options: EngineOptions,
    variant: Variant,
    model: bytes,
    delegates: list[Any],
    **more: Any,
) -> Any:
    try:
        return module.Interpreter(
            model_content=model,
            num_threads=options.threads,
            experimental_delegates=delegates or None,
            **more,
        )
    except MemoryError:
        raise DeviceError(f"variant {variant.id}: not enough memory to load it") from None
    except Exception as reason:
        raise IncompatibleError(
            f"variant {variant.id}: {package} cannot load {variant.file} ({one_line(reason)})"
        ) from None


def _seen_alone(
    package: str, module: ModuleType, options: EngineOptions, variant: Variant, model: bytes
) -> tuple[int, frozenset[litert_account.Part]]:
    """How many operators the file has, and what the delegate takes where there is no other.

    Both interpreters are gone on return: never are two models in memory.
    """
    others_off = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    plain = partial(
        _interpreter, package, module, options, variant, model,
        experimental_op_resolver_type=others_off,
    )  # fmt: skip
    own = litert_account.own_operators(plain([]))
    delegates, accelerator = _accelerate(package, module, options, variant)
    if accelerator.degraded:
        return own, frozenset()
    interpreter = plain(delegates)
    try:
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as reason:
        raise IncompatibleError(
            f"variant {variant.id}: {variant.file} cannot be prepared ({one_line(reason)})"
        ) from None
    return own, litert_account.taken(interpreter, own)
