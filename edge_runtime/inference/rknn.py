"""Rockchip's NPUs: RKNNLite runs a .rknn file, which was compiled for one kind of chip.

There is no other way to run such a file, so what starts is the NPU, or nothing is. Shapes are
fixed: one row, and one length where the variant names one. The library knows tensors by their
place only, so the file has them in the manifest's order; that the numbers are right is the
self-test's matter. It greets at length, on stdout too, and tells a failure by a number and the
reason in its log alone.

No board has run this yet: it is written against rknn-toolkit-lite2 2.5.0, whose api/rknn_lite.py
is readable Python, and tested with a stand-in for that library.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from edge_runtime.bundle.manifest import Manifest, TensorSpec, Variant
from edge_runtime.errors import DeviceError, IncompatibleError
from edge_runtime.inference.backend import (
    Account,
    Tensor,
    agree,
    cast,
    merge_options,
    one_line,
)
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.profile import Engine

PACKAGE = "rknn-toolkit-lite2"
MAGIC = b"RKNN"
LOGGER = "rknnLogger"
"""Of the library; where it has another, reasons stay in the log."""
CORES = (
    "NPU_CORE_AUTO", "NPU_CORE_0", "NPU_CORE_1", "NPU_CORE_2", "NPU_CORE_0_1", "NPU_CORE_0_1_2",
    "NPU_CORE_ALL",
)  # fmt: skip
"""What `core_mask` may be, by the names of the library's constants."""
AS_IN_FILE = "nchw"
"""The order of four-dimensional inputs that the model had before it was compiled.

One word for all inputs: for what has not four dimensions it means nothing.
"""
ANSWERS = "float32"
"""What outputs come back in, whatever the NPU computes in."""


class RknnBackend:
    """RKNNLite, if it is installed."""

    def available(self) -> str | None:
        """See `Backend`."""
        try:
            self._library()
        except ModuleNotFoundError:
            return (
                f"no RKNN engine ({PACKAGE} is not installed); "
                'install it with pip install "edge-runtime[rknn]"'
            )
        except Exception as reason:  # a wheel for another system raises what it likes
            return f"{PACKAGE} cannot be imported ({one_line(reason)})"
        return None

    def _library(self) -> Any:
        with _aside():
            return importlib.import_module("rknnlite.api").RKNNLite

    def load(
        self,
        model: bytes,
        manifest: Manifest,
        variant: Variant,
        engine: Engine | None,
        *,
        watched: bool = False,
    ) -> RknnSession:
        """See `Backend`. Nothing tells where operators ran, so `watched` changes nothing."""
        if missing := self.available():
            raise IncompatibleError(f"variant {variant.id}: {missing}")
        if model[: len(MAGIC)] != MAGIC:
            raise IncompatibleError(
                f"variant {variant.id}: {variant.file} is not an RKNN model "
                "(it does not begin with RKNN)"
            )
        options = merge_options(variant, engine, frozenset())
        mask = options.own.get("core_mask", CORES[0])
        unknown = [key for key in options.own if key != "core_mask"]
        if unknown or mask not in CORES:
            found = f"option {unknown[0]!r}" if unknown else f"core_mask = {str(mask)[:80]!r}"
            raise IncompatibleError(
                f"variant {variant.id}: RKNN {found} is not known; known is core_mask, "
                f"one of {', '.join(CORES)}"
            )
        return RknnSession(_started(self._library(), model, variant, str(mask)), manifest,
                           variant, str(mask))  # fmt: skip


def _started(library: Any, model: bytes, variant: Variant, mask: str) -> Any:
    """The library with `model` on the NPU.

    Raises:
        IncompatibleError: it refuses the file, or finds no NPU that runs it.
    """
    made, why = None, _Reason()
    try:
        with _aside(), why.listening():
            made = library(verbose=False)
            with _as_file(model) as path:
                failed = made.load_rknn(path)
            failed = failed or made.init_runtime(core_mask=getattr(library, mask))
    except Exception as reason:  # an older library has not the constant; anything else is a bug
        _release(made)
        raise IncompatibleError(
            f"variant {variant.id}: {PACKAGE} cannot load {variant.file} ({one_line(reason)})"
        ) from None
    if failed:
        _release(made)
        raise IncompatibleError(
            f"variant {variant.id}: {PACKAGE} cannot load {variant.file} ({why.words(failed)})"
        )
    return made


class RknnSession:
    """A compiled model on the NPU. See `Session`; runs are serialized, the library is one state."""

    max_batch: int | None = 1

    def __init__(self, library: Any, manifest: Manifest, variant: Variant, mask: str) -> None:
        self._library: Any = library
        self._lock = threading.Lock()
        self._variant = variant.id
        self.inputs: tuple[TensorSpec, ...] = manifest.inputs
        try:
            self.outputs: tuple[TensorSpec, ...] = agree(
                variant,
                "outputs",
                manifest.outputs,
                {one.name: (ANSWERS, len(one.shape)) for one in manifest.outputs},
                exactly=True,
            )
        except IncompatibleError:
            self.close()
            raise
        self.lengths: tuple[int, ...] = tuple(
            sorted(one.dims["sequence"] for one in variant.signatures if "sequence" in one.dims)
        )
        self._ranks = [len(spec.shape) for spec in self.outputs]
        actual = f"{PACKAGE} {_version()}: {mask}"
        self.accelerator = Accelerator(variant.id, f"rknn: {mask}", actual)

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Session`. The length must be the one of `lengths`, the batch 1."""
        ready = [cast(one.name, feeds[one.name], np.dtype(one.dtype)) for one in self.inputs]
        why = _Reason()
        with self._lock:
            if self._library is None:
                raise RuntimeError(f"session of variant {self._variant} is closed")
            try:
                with why.listening():
                    values = self._library.inference(inputs=ready, data_format=AS_IN_FILE)
            except Exception as reason:
                raise DeviceError(
                    f"variant {self._variant}: the NPU failed ({one_line(reason)})"
                ) from None
        if values is None:
            raise DeviceError(f"variant {self._variant}: the NPU failed ({why.words(None)})")
        found = [np.asarray(value, dtype=ANSWERS) for value in values]
        if [value.ndim for value in found] != self._ranks:
            raise DeviceError(
                f"variant {self._variant}: the NPU answers the shapes "
                f"{[list(value.shape) for value in found]}, the manifest's outputs have "
                f"{self._ranks} dimensions"
            )
        return {spec.name: value for spec, value in zip(self.outputs, found, strict=True)}

    def account(self) -> Account | None:
        """Nothing: the library does not tell which layers its own CPU kernels took."""
        return None

    def close(self) -> None:
        """See `Session`."""
        with self._lock:
            library, self._library = self._library, None
        _release(library)


def _release(library: Any) -> None:
    if library is not None:
        with _aside(), contextlib.suppress(Exception):
            library.release()


def _version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:  # put there by hand
        return "of an unknown version"


class _Reason(logging.Handler):
    """The first error that the library logs, where it logs as it did when this was written."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._said: list[str] = []

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hear it meanwhile."""
        logger = logging.getLogger(LOGGER)
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it; of a traceback the end, which says what was raised."""
        lines = record.getMessage().strip().splitlines()
        if lines:
            self._said.append(lines[-1])

    def words(self, code: object) -> str:
        """What was said last, which is what was raised, or else the number."""
        return one_line(self._said[-1]) if self._said else f"it says {code}, and why in its log"


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """`data` under a path of memory, gone afterwards: the library reads paths only."""
    file = os.memfd_create("model.rknn")
    try:
        with open(file, "wb", closefd=False) as writer:
            writer.write(data)
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)


_streams = threading.Lock()


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """What is printed meanwhile goes to stderr, C's too: stdout is for results.

    Only while a model is loaded or freed: it is the whole process's, other threads' words too.
    """
    with _streams:
        if sys.stdout is not None:
            sys.stdout.flush()
        kept = os.dup(1)
        try:
            os.dup2(2, 1)
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
