"""ONNX Runtime's plug-ins: execution providers that come in a package of their own.

Such a provider is not part of any build of the engine. Its library is registered once in a process,
when the first variant asks for it and never before; from then on the engine has devices of it, and
a session is given one. The table holds those that are known; nothing else that a bundle or a
profile names is imported or registered.

Whoever reads the table pays for no engine and no numbers: this module imports none.

Source: https://onnxruntime.ai/docs/execution-providers/plugin-ep-libraries/usage.html
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edge_runtime.errors import DeviceError
from edge_runtime.text import plain

SINCE = "1.23"
"""ONNX Runtime's first version whose Python takes plug-ins."""
NEEDED = ("register_execution_provider_library", "get_ep_devices")
MAX_SAID = 300


@dataclass(frozen=True, slots=True)
class Plugin:
    """A provider's package on an index, its module, and which options name a library.

    The module has `get_library_path()`. A library without a folder is looked for beside that one
    first, where the package keeps it, and then by the system's loader.
    """

    package: str
    module: str
    libraries: tuple[str, ...] = ()

    @property
    def version(self) -> str | None:
        """Of the package; None without its module: version 1 was a build of the engine."""
        try:
            version = importlib.metadata.version(self.package)
            return version if importlib.util.find_spec(self.module) is not None else None
        except importlib.metadata.PackageNotFoundError:
            return None

    @property
    def installed(self) -> str:
        """As `onnxruntime-qnn 2.7.0`."""
        return f"{self.package} {self.version or ''}".strip()

    def library(self) -> Path:
        """Where the provider's library is.

        Raises:
            DeviceError: the package is not installed, broken, or no plug-in.
        """
        try:
            module = importlib.import_module(self.module)
            return Path(module.get_library_path())
        except ModuleNotFoundError as reason:
            if reason.name == self.module and self.version is None:
                raise DeviceError(
                    f"no part of this ONNX Runtime, and its plug-in {self.package} is not installed"
                ) from None
            raise self.broken(reason) from None
        except Exception as reason:  # a vendor's module may raise anything
            raise self.broken(reason) from None

    def broken(self, reason: Exception) -> DeviceError:
        """The error that says so."""
        said = plain(" ".join(str(reason).split()), MAX_SAID) or type(reason).__name__
        return DeviceError(f"its plug-in {self.installed} does not work ({said})")


PLUGINS: Mapping[str, Plugin] = {
    "QNNExecutionProvider": Plugin("onnxruntime-qnn", "onnxruntime_qnn", ("backend_path",)),
}
"""By the name of the provider."""

_registered: set[str] = set()
_lock = threading.Lock()


def is_plugin(ort: ModuleType, provider: str) -> bool:
    """Whether `provider` is to be had as a plug-in only: it is in the table, and not built in."""
    # Newer engines list a plug-in among their own once it is registered.
    return provider in PLUGINS and (
        provider in _registered or provider not in ort.get_available_providers()
    )


def device(ort: ModuleType, provider: str) -> Any:
    """A device of the plug-in that has `provider`, for `SessionOptions.add_provider_for_devices`.

    An NPU where it has one. Which part of a chip is meant the provider's options say.

    Raises:
        DeviceError: it is not installed, does not load, or finds no device; or this engine takes
            no plug-ins.
    """
    plugin = PLUGINS[provider]
    library = plugin.library()
    if any(not hasattr(ort, name) for name in NEEDED):
        raise DeviceError(
            f"ONNX Runtime {ort.__version__} takes no plug-ins as {plugin.installed}, "
            f"{SINCE} or newer does"
        )
    with _lock:
        if provider not in _registered:
            try:
                ort.register_execution_provider_library(provider, str(library))
            except Exception as reason:  # the engine's errors share no base but Exception
                raise plugin.broken(reason) from None
            _registered.add(provider)
    found = [one for one in ort.get_ep_devices() if one.ep_name == provider]
    if not found:
        raise DeviceError(f"its plug-in {plugin.installed} finds no device that it runs on")
    return min(found, key=lambda one: one.device.type.name != "NPU")


def located(provider: str, options: Mapping[str, str]) -> dict[str, str]:
    """`options` of `provider`, with each library that lies beside the plug-in's by its path.

    Raises:
        DeviceError: the plug-in is not installed, or broken.
    """
    plugin = PLUGINS[provider]
    folder = plugin.library().parent
    return {
        key: str(folder / value)
        if key in plugin.libraries and "/" not in value and (folder / value).is_file()
        else value
        for key, value in options.items()
    }
