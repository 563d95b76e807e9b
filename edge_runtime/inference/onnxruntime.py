"""ONNX Runtime: execution providers, threads and session options as the profile says.

It runs bytes and nothing else: a model that keeps weights in other files, or that points into
memory, is refused before the engine sees it. A provider that does not run does not stop the load;
`ort_providers` tells it, and the self-test decides.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from edge_runtime.bundle.manifest import Manifest, TensorSpec, Variant
from edge_runtime.errors import DeviceError, IncompatibleError, InputError
from edge_runtime.inference.backend import (
    Account,
    EngineOptions,
    Tensor,
    agree,
    cast,
    merge_options,
    one_line,
    share_floor,
)
from edge_runtime.inference.fixed import fixed_size
from edge_runtime.inference.onnx_wire import external_tensors
from edge_runtime.inference.ort_account import Watch
from edge_runtime.inference.ort_products import EXACT, open_exactly
from edge_runtime.inference.ort_providers import CPU, start
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.profile import Engine

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
FROM_BUNDLE = frozenset(
    {
        "graph_optimization_level",
        "session.intra_op.allow_spinning",
        "session.set_denormal_as_zero",
        "session.disable_prepacking",
        "session.disable_quant_qdq",
        "session.enable_quant_qdq_cleanup",
        "session.qdq_matmulnbits_accuracy_level",
    }
)
LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
SWITCHES = ("enable_cpu_mem_arena", "enable_mem_pattern")


def _engine() -> ModuleType:
    # From 1.29 on the engine reports to its vendor; only this, set before the import, stops it.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    return importlib.import_module("onnxruntime")


class OrtBackend:
    """ONNX Runtime, if it is installed."""

    def available(self) -> str | None:
        """See `Backend`."""
        try:
            _engine()
        except Exception as reason:  # a broken install raises whatever its loader raises
            return (
                f"ONNX Runtime cannot be imported ({reason}); "
                'install it with pip install "edge-runtime[onnxruntime]"'
            )
        return None

    def load(
        self,
        model: bytes,
        manifest: Manifest,
        variant: Variant,
        engine: Engine | None,
        *,
        watched: bool = False,
    ) -> OrtSession:
        """See `Backend`."""
        if missing := self.available():
            raise IncompatibleError(f"variant {variant.id}: {missing}")
        ort = _engine()
        outside = external_tensors(model, f"variant {variant.id}: {variant.file}")
        if outside:
            raise IncompatibleError(
                f"variant {variant.id}: {variant.file} keeps {outside[0]!r} outside the file; "
                "weights must be inside"
            )
        options = merge_options(variant, engine, FROM_BUNDLE)
        wanted = variant.providers or (engine.providers if engine else ()) or (CPU,)
        watch = Watch(model) if watched and wanted[0] != CPU else None

        def settings(exact: bool) -> Any:
            made = _session_options(ort, options, variant)
            if exact:
                made.add_session_config_entry(EXACT, "1")
            if watch is not None:
                watch.prepare(made)
            return made

        whole = share_floor(variant, engine) == 1.0

        def opened(exact: bool) -> tuple[Any, Accelerator]:
            made = partial(settings, exact)
            return start(ort, model, made, options, variant, wanted, whole=whole)

        try:
            chosen = EXACT in options.merged
            inner, accelerator = opened(False) if chosen else open_exactly(model, opened)
            account = partial(watch.account, inner, wanted[0]) if watch is not None else None
            return OrtSession(ort, inner, manifest, variant, accelerator, account)
        except BaseException:
            if watch is not None:
                watch.close()
            raise


class OrtSession:
    """A loaded ONNX model. See `Session`."""

    def __init__(
        self,
        ort: ModuleType,
        inner: Any,
        manifest: Manifest,
        variant: Variant,
        accelerator: Accelerator,
        account: Callable[[], Account] | None = None,
    ) -> None:
        self._inner = inner
        self._account = account
        # The engine's wrapper keeps the file's bytes to start over on another provider; nobody
        # asks it to, and they weigh as much as the model.
        if hasattr(inner, "_model_bytes"):
            inner._model_bytes = b""
        self._variant = variant.id
        self._refusals: tuple[type[Exception], ...] = (
            ort.capi.onnxruntime_pybind11_state.InvalidArgument,
        )
        self.inputs: tuple[TensorSpec, ...] = agree(
            variant, "inputs", manifest.inputs, _tensors(inner.get_inputs(), variant), exactly=True
        )
        self.outputs: tuple[TensorSpec, ...] = agree(
            variant,
            "outputs",
            manifest.outputs,
            _tensors(inner.get_outputs(), variant),
            exactly=False,
        )
        shapes = {one.name: one.shape for one in inner.get_inputs()}
        length = fixed_size("sequence", manifest.inputs, shapes)
        self.lengths: tuple[int, ...] = (length,) if length else ()
        self.max_batch: int | None = fixed_size("batch", manifest.inputs, shapes)
        self._names = [spec.name for spec in self.outputs]
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in self.inputs}
        self.accelerator = accelerator

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Session`."""
        if self._inner is None:
            raise RuntimeError(f"session of variant {self._variant} is closed")
        ready = {name: cast(name, feeds[name], dtype) for name, dtype in self._dtypes.items()}
        try:
            values = self._inner.run(self._names, ready)
        except self._refusals as reason:
            raise InputError(
                f"variant {self._variant}: the model refuses this input ({one_line(reason)})"
            ) from None
        except Exception as reason:
            raise DeviceError(
                f"variant {self._variant}: ONNX Runtime failed ({one_line(reason)})"
            ) from None
        return dict(zip(self._names, values, strict=True))

    def account(self) -> Account | None:
        """See `Session`."""
        account, self._account = self._account, None
        return account() if account is not None else None

    def close(self) -> None:
        """See `Session`."""
        with contextlib.suppress(DeviceError):
            self.account()  # What it has written goes, too.
        self._inner = None


def _session_options(ort: ModuleType, options: EngineOptions, variant: Variant) -> Any:
    """Small by default: no arena that keeps the largest request's memory for ever."""
    made = ort.SessionOptions()
    made.intra_op_num_threads = options.threads
    made.inter_op_num_threads = 1
    made.log_severity_level = 4  # every error comes back as an exception too
    made.enable_cpu_mem_arena = False
    # Else bytes 4 to 8 may say that it is another format, which `external_tensors` cannot read.
    made.add_session_config_entry("session.load_model_format", "ONNX")
    for key, value in options.merged.items():
        if key in SWITCHES and isinstance(value, bool):
            setattr(made, key, value)
        elif key == "graph_optimization_level" and value in LEVELS:
            made.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[str(value)])
        elif "." in key and isinstance(value, (str, int)):
            made.add_session_config_entry(key, str(int(value) if value is True else value))
        elif not (key.endswith("ExecutionProvider") and isinstance(value, Mapping)):
            raise IncompatibleError(
                f"variant {variant.id}: ONNX Runtime option {key[:80]!r} = {str(value)[:80]!r} is "
                "not known; "
                "known are session configuration entries (session.… and ep.…), "
                f"graph_optimization_level ({', '.join(LEVELS)}), {', '.join(SWITCHES)} (true or "
                "false), and an object of options under an execution provider's name"
            )
    return made


def _tensors(arguments: Any, variant: Variant) -> dict[str, tuple[str, int]]:
    """Dtype and rank by name."""
    found = {}
    for argument in arguments:
        if argument.type not in DTYPES:
            raise IncompatibleError(
                f"variant {variant.id}: {one_line(argument.name)} in {variant.file} is "
                f"{one_line(argument.type)}, "
                f"expected one of {', '.join(DTYPES)}"
            )
        found[argument.name] = (DTYPES[argument.type], len(argument.shape))
    return found
