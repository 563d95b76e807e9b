"""What an engine must offer, the table of engines, and the checks that every engine needs.

A backend turns model bytes into a session; a session runs tensors. Engines are imported when one
is asked for, never before: a device pays for its own engine only. This module imports none.

Order for a backend: `merge_options`, start the engine, `agree` on the interface, then hand the
session out. A session checks its feeds with `cast` only; names, shapes and ranges are the
pipeline's business.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_runtime.bundle.manifest import Manifest, TensorSpec, Variant
from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.fields import Json
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.messages.worker import MAX_OFF
from edge_runtime.profile import Engine
from edge_runtime.text import plain

Tensor: TypeAlias = NDArray[Any]

BACKENDS: dict[str, str] = {
    "onnxruntime": "edge_runtime.inference.onnxruntime:OrtBackend",
    "litert": "edge_runtime.inference.litert:LiteRtBackend",
    "rknn": "edge_runtime.inference.rknn:RknnBackend",
}


SHARE_MARGIN = 0.05
"""A board may run a smaller share of the operators than the host found, by so much.

The host's tool and the board's engine do not cut a graph into quite the same operators.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """Where a model's operators ran, as the engine itself says: all, and those off by kind.

    Counted are operators of the file that compute: no constants, no steps to and from integers.
    `told` says who told it.
    """

    nodes: int
    off: Mapping[str, int]
    told: str

    @property
    def share(self) -> float:
        """Of the operators that ran on the accelerator, 0..1."""
        return 1 - sum(self.off.values()) / self.nodes if self.nodes else 0.0

    @property
    def most(self) -> tuple[str, ...]:
        """The kinds that are off, the most frequent first, as `RESHAPE x12`."""
        ranked = sorted(self.off.items(), key=lambda one: (-one[1], one[0]))
        return tuple(plain(f"{kind} x{count}", 80) for kind, count in ranked[:MAX_OFF])


class Session(Protocol):
    """A loaded model. `run` may be called from any thread; `close` only when none runs."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The manifest's inputs with the engine's own dtypes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The manifest's outputs with the engine's own dtypes."""

    @property
    def accelerator(self) -> Accelerator:
        """What was asked for and what runs."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Sizes of the dimension "sequence" that the model has entry points for, ascending.

        () where every length runs.
        """

    @property
    def max_batch(self) -> int | None:
        """Most rows in one run; None where every batch runs."""

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One inference. Inputs are cast to the engine's dtypes.

        Raises:
            InputError: a value that does not fit the engine's dtype, or that the model refuses.
            DeviceError: the engine failed.
            RuntimeError: the session is closed.
        """

    def account(self) -> Account | None:
        """Where the operators ran; None where the CPU was meant, or the load was not `watched`.

        After the first run, and once.

        Raises:
            DeviceError: the engine does not tell.
        """

    def close(self) -> None:
        """Free the model. A second call does nothing."""


class Backend(Protocol):
    """An engine."""

    def available(self) -> str | None:
        """Why this engine cannot run here, in a sentence, or None where it can."""

    def load(
        self,
        model: bytes,
        manifest: Manifest,
        variant: Variant,
        engine: Engine | None,
        *,
        watched: bool = False,
    ) -> Session:
        """`model`, the bytes of `variant.file`, ready to run.

        Args:
            watched: keep account of where operators run, which costs time until it is asked for.

        Raises:
            IncompatibleError: no engine here, bytes that it cannot load, unknown options, or an
                interface other than the manifest's.
        """


def load_backend(name: str) -> Backend:
    """The engine called `name`.

    Raises:
        IncompatibleError: not in the table; the known ones are listed.
    """
    if name not in BACKENDS:
        raise IncompatibleError(
            f"backend {name!r} is not known to this software; known are {', '.join(BACKENDS)}"
        )
    module, _, attribute = BACKENDS[name].partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)()
    return backend


@dataclasses.dataclass(frozen=True, slots=True)
class EngineOptions:
    """What to start an engine with: the profile's word first, then the bundle's.

    `own` comes from the device profile, which the device's owner wrote; `bundled` from the
    bundle, which may name only what cannot reach outside the model.
    """

    threads: int
    own: Mapping[str, Json]
    bundled: Mapping[str, Json]

    @property
    def merged(self) -> dict[str, Json]:
        """Both, the profile's taking precedence."""
        return {**self.bundled, **self.own}


def merge_options(
    variant: Variant, engine: Engine | None, from_bundle: frozenset[str]
) -> EngineOptions:
    """Options and thread count for `variant` on `engine`.

    Args:
        from_bundle: keys that a bundle may set. Engines have options that load libraries and
            write files; a bundle is data.

    Raises:
        IncompatibleError: the bundle sets another key, or `threads` is not 1..256.
    """
    bundled = {key: value for key, value in variant.options.items() if key != "threads"}
    for key in bundled:
        if key not in from_bundle:
            raise IncompatibleError(
                f"variant {variant.id}: a bundle may not set the option {key[:80]!r}, "
                f"only {', '.join(sorted(from_bundle)) or 'threads'}; the device profile may"
            )
    threads = engine.threads if engine else variant.options.get("threads", 1)
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= 256:
        raise IncompatibleError(
            f"variant {variant.id}: threads is {str(threads)[:40]}, expected 1..256"
        )
    return EngineOptions(threads, engine.options if engine else {}, bundled)


def share_floor(variant: Variant, engine: Engine | None) -> float:
    """Least share of the operators that must run on the accelerator, 0..1.

    What the bundle's evidence promises less SHARE_MARGIN: the converter held that to the profile's
    coverage, or a person said --allow-fallback. Without evidence the coverage itself; and where
    nobody says anything, all of them: what is left to the CPU in silence would never be noticed.
    """
    promised = variant.placement.share.value
    if promised is None:
        return (engine.coverage if engine else 0.0) or 1.0
    return max(promised - SHARE_MARGIN, 0.0)


def agree(
    variant: Variant,
    kind: str,
    declared: Sequence[TensorSpec],
    found: Mapping[str, tuple[str, int]],
    *,
    exactly: bool,
) -> tuple[TensorSpec, ...]:
    """`declared` with the engine's dtypes, once the model has been found to have those tensors.

    Args:
        kind: "inputs" or "outputs", for the message.
        found: dtype and rank of each tensor of the model.
        exactly: whether the model may have no others.

    Raises:
        IncompatibleError: a tensor is missing, left over, or of another kind or rank.
    """
    names = [spec.name for spec in declared]
    if set(names) - set(found) or (exactly and set(found) != set(names)):
        raise IncompatibleError(
            f"variant {variant.id}: {variant.file} has the {kind} {_list(found)}, "
            f"the manifest says {_list(names)}"
        )
    specs = []
    for spec in declared:
        dtype, rank = found[spec.name]
        if rank != len(spec.shape):
            raise IncompatibleError(
                f"variant {variant.id}: {spec.name} has {rank} dimensions in {variant.file}, "
                f"{len(spec.shape)} in the manifest"
            )
        if np.dtype(dtype).kind != np.dtype(spec.dtype).kind:
            raise IncompatibleError(
                f"variant {variant.id}: {spec.name} is {dtype} in {variant.file}, "
                f"{spec.dtype} in the manifest"
            )
        specs.append(dataclasses.replace(spec, dtype=dtype))
    return tuple(specs)


def _list(names: Mapping[str, object] | Sequence[str]) -> str:
    return plain(", ".join(sorted(names))) or "none"


def cast(name: str, value: Tensor, dtype: np.dtype[Any]) -> Tensor:
    """`value` as C-contiguous `dtype`; itself where it already is.

    Raises:
        InputError: an integer outside the range of `dtype`, which would wrap around in silence.
    """
    if value.dtype == dtype:
        return np.ascontiguousarray(value)
    if dtype.kind in "iu" and value.size and not np.can_cast(value.dtype, dtype):
        low, high = int(value.min()), int(value.max())
        info = np.iinfo(dtype)
        if low < info.min or high > info.max:
            raise InputError(f"input {name}: holds {low}..{high}, the engine takes {dtype}")
    return np.ascontiguousarray(value, dtype=dtype)


def one_line(reason: BaseException | str) -> str:
    """What an engine or a library said, without line breaks, cut at 300 characters."""
    return plain(" ".join(str(reason).split()), 300) or type(reason).__name__
