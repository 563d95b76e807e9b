"""One question about native code, in a process that may crash or hang; `bounded.ask` starts it.

`import MODULE PACKAGE…`: does it import, which version, which execution providers.
`delegate PATH SYMBOL`: does the library load, and does it export the symbol.
`provider NAME`: does the library of an execution provider of ONNX Runtime load; one that is a
plug-in is registered, and must find a device.

The answer is one object in JSON on stdout; {"fault": …} says what is wrong, in words. What the
code itself prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import json
import os
import stat
import sys
from collections.abc import Callable, Sequence

from edge_runtime.errors import DeviceError
from edge_runtime.inference.ort_plugins import PLUGINS, device, is_plugin
from edge_runtime.text import plain

SHARED = "libonnxruntime_providers_shared.so"
"""Through it the libraries of providers find the engine; loaded before them, for all to see."""
MAX_NAME = 120


def imported(module: str, *packages: str) -> dict[str, object]:
    """What is installed of `packages`, and what `module` says of itself once it is imported."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.distribution(package)
    versions = {package: one.version for package, one in found.items()}
    answer: dict[str, object] = {"versions": versions}
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as reason:
        # The module itself is missing, or one that it needs: the second is a broken install.
        absent = module == reason.name or module.startswith(f"{reason.name}.")
        answer["absent" if absent else "broken"] = str(reason)
        return answer
    except Exception as reason:
        answer["broken"] = f"{type(reason).__name__}: {reason}"
        return answer
    beside = {package: one.version for package, one in found.items() if _beside(one, module)}
    answer["versions"] = beside or versions
    providers: list[object] = getattr(loaded, "get_available_providers", list)()
    return {
        **answer,
        "version": str(getattr(loaded, "__version__", "")),
        "providers": [str(name) for name in providers],
    }


def _beside(package: importlib.metadata.Distribution, module: str) -> bool:
    """Whether a package lies in the folder that `module` came from.

    One in a folder further back is not what runs: a board's own build of an engine stands in front
    of the one that the agent's package brings.
    """
    places = getattr(sys.modules[module.partition(".")[0]], "__path__", ())
    home = os.path.realpath(str(package.locate_file("")))
    return home in {os.path.realpath(os.path.dirname(place)) for place in places}


def library(path: str, symbol: str) -> dict[str, object]:
    """Whether `path` loads and has `symbol`."""
    # The loader would wait at a pipe. A name without a folder it looks for in the system's.
    if "/" in path and not _may_be_library(path):
        return {"fault": "is no regular file"}
    try:
        loaded = ctypes.CDLL(path)
    except OSError as reason:
        said = str(reason).replace(path, plain(path, MAX_NAME))
        return {"fault": f"cannot be loaded ({said})"}
    if not hasattr(loaded, symbol):
        return {"fault": f"loads, but does not export {symbol}"}
    return {"loads": True}


def _may_be_library(path: str) -> bool:
    """False for what is there and no regular file; the loader says what else is wrong."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def provider(name: str) -> dict[str, object]:
    """Whether the library of the execution provider called `name` loads with what it needs."""
    engine = importlib.import_module("onnxruntime")
    if is_plugin(engine, name):
        try:
            device(engine, name)
        except DeviceError as reason:
            return {"fault": str(reason)}
        return {"loads": True, "plugin": PLUGINS[name].installed}
    folder = os.path.join(os.path.dirname(str(engine.__file__)), "capi")
    short = name.removesuffix("ExecutionProvider").lower()
    path = os.path.join(folder, f"libonnxruntime_providers_{short}.so")
    if not os.path.exists(path):
        return {"loads": True, "built_in": True}
    try:
        ctypes.CDLL(os.path.join(folder, SHARED), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(path)
    except OSError as reason:
        return {"fault": f"its library cannot be loaded ({reason})"}
    return {"loads": True}


QUESTIONS: dict[str, Callable[..., dict[str, object]]] = {
    "import": imported,
    "delegate": library,
    "provider": provider,
}


def main(argv: Sequence[str]) -> int:
    """Answer, on what was stdout."""
    out = os.dup(1)
    os.dup2(2, 1)
    question, *arguments = argv
    try:
        answer = QUESTIONS[question](*arguments)
    except Exception as reason:
        answer = {"fault": f"{type(reason).__name__}: {reason}"}
    with open(out, "w", encoding="utf-8") as file:
        json.dump(answer, file)
        file.flush()
        # What was loaded may crash while it is torn down, after all was said.
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
