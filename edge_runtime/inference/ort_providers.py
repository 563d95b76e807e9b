"""ONNX Runtime's execution providers: start what was asked for, and find out what really runs.

The engine falls back to the CPU by itself, node by node, and at most logs it. So an accelerator is
tried alone first, with that fallback forbidden. What follows is told as `Accelerator.degraded`:

1. the accelerator alone: it took every node;
2. the accelerator and the CPU: some nodes were left off. Degraded where all must run there; else
   the self-test holds the share that really ran there against the floor (`backend.share_floor`);
3. the CPU: the accelerator is not in this build, or did not start. Degraded.

One that comes as a plug-in (`ort_plugins`) is tried in the same way. Only its session is made by a
device of it in the options, not by names; the engine adds the CPU by itself. So no further provider
stands between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from edge_runtime.bundle.manifest import Variant
from edge_runtime.errors import DeviceError, EdgeError, IncompatibleError
from edge_runtime.fields import Json
from edge_runtime.inference import ort_plugins
from edge_runtime.inference.backend import EngineOptions, one_line
from edge_runtime.messages.fleet import Accelerator

CPU = "CPUExecutionProvider"
MAX_TEXT = 256
"""Names come from the bundle; what the worker reports of them has this limit."""
NO_FALLBACK = "session.disable_cpu_ep_fallback"


def start(
    ort: ModuleType,
    model: bytes,
    settings: Callable[[], Any],
    options: EngineOptions,
    variant: Variant,
    wanted: Sequence[str],
    *,
    whole: bool,
) -> tuple[Any, Accelerator]:
    """An inference session, and what runs in it.

    Args:
        settings: makes fresh session options; each try needs its own.
        wanted: providers in order; the first is the one that is meant.
        whole: whether every node must run there.

    Raises:
        IncompatibleError: the model does not load, on the CPU either.
        DeviceError: there is not enough memory.
    """
    meant = wanted[0]
    known = ort.get_available_providers()
    if ort_plugins.is_plugin(ort, meant):
        present = [meant]
    else:
        # Asked for a plug-in by its name, the engine runs the CPU and says nothing.
        present = [n for n in wanted if n in known and not ort_plugins.is_plugin(ort, n)]
    reason = ""

    def attempt(providers: Sequence[str], *, alone: bool = False) -> Any:
        nonlocal reason
        made = settings()
        if alone:
            made.add_session_config_entry(NO_FALLBACK, "1")
        try:
            return _session(ort, model, made, options, providers)
        except EdgeError as error:
            reason = str(error)
            return None
        except Exception as error:  # the engine's errors share no base but Exception
            reason = one_line(error)
            if isinstance(error, MemoryError) or "bad_alloc" in reason:
                raise DeviceError(f"variant {variant.id}: not enough memory to load it") from None
            return None

    def told(actual: str, degraded: str = "") -> Accelerator:
        return Accelerator(
            variant=variant.id,
            requested=f"onnxruntime: {meant}"[:MAX_TEXT],
            actual=f"onnxruntime {ort.__version__}: {actual}"[:MAX_TEXT],
            degraded=degraded,
        )

    if meant != CPU and meant in present:
        inner = attempt([name for name in present if name != CPU], alone=True)  # 1
        if inner is not None and inner.get_providers()[0] == meant:
            return inner, told(meant)
        inner = attempt([*(name for name in present if name != CPU), CPU])  # 2
        if inner is not None and inner.get_providers()[0] == meant:
            left = f"not every node runs on {meant} ({reason}); {CPU} runs the rest"
            return inner, told(f"{meant} and {CPU}", left if whole else "")
    inner = attempt([CPU])  # 3
    if inner is None:
        raise IncompatibleError(
            f"variant {variant.id}: ONNX Runtime {ort.__version__} cannot load "
            f"{variant.file} ({reason})"
        )
    if meant == CPU:
        return inner, told(CPU)
    why = reason if meant in present else f"not among this engine's {', '.join(known)}"
    return inner, told(CPU, f"{meant} does not run here ({why}); {CPU} runs instead")


def _session(
    ort: ModuleType, model: bytes, made: Any, options: EngineOptions, providers: Sequence[str]
) -> Any:
    """A session with the options `made` on `providers`. Raises what the engine raises.

    Raises:
        DeviceError: the plug-in that is meant cannot be had.
    """
    own = {name: _provider_options(options, name) for name in providers}
    first = providers[0]
    # Else the wrapper starts over on other providers and says so on stdout only.
    alone = {"enable_fallback": 0}
    if ort_plugins.is_plugin(ort, first):
        device = ort_plugins.device(ort, first)
        made.add_provider_for_devices([device], ort_plugins.located(first, own[first]))
        return ort.InferenceSession(model, made, **alone)
    return ort.InferenceSession(
        model, made, providers=list(own), provider_options=list(own.values()), **alone
    )


def _provider_options(options: EngineOptions, provider: str) -> dict[str, str]:
    """Options of a provider, from the profile only: they name libraries and folders."""
    value: Json = options.own.get(provider, {})
    return {key: str(v) for key, v in value.items()} if isinstance(value, Mapping) else {}
