"""What accelerators here depend on, in one fingerprint: kernel, drivers, devices, engine packages.

Cheap enough to be taken once a minute: a few folders are listed and files looked at, none is opened
but versions of kernel modules, and no engine is imported. A change says only that what was proved
before may not hold any more.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from edge_runtime.agent.hardware import HARDWARE
from edge_runtime.fields import Json
from edge_runtime.profile import DeviceProfile

PACKAGES = ("onnxruntime*", "ai_edge_litert*", "tflite_runtime*", "rknn_toolkit_lite2*")
NODES = sorted(
    {pattern for one in HARDWARE.values() for pattern in one.nodes}
    | {
        "accel/*", "adsprpc*", "dma_heap/*", "dri/*", "fastrpc*", "hailo*", "kfd", "nvhost*",
        "nvidia*", "nvmap", "rknpu*", "vsi_*", "xclmgmt*",
    }
)  # fmt: skip
"""Under /dev: what the doctor looks for, further nodes of the same drivers, and of their kin."""
MODULES = sorted(
    {module for one in HARDWARE.values() for module in one.drivers} | {"amdxdna", "xocl"}
)
TOLD = sorted({path for one in HARDWARE.values() for path in one.versions})
"""Files that tell a driver's version where its module does not."""
VERSIONS = ("version", "srcversion")
LIBRARIES = ("lib", "usr/lib", "usr/lib/*-linux-gnu*", "usr/local/lib", "opt/*/lib")
"""Where a library stands that a profile names without its folder."""


class Drivers:
    """Says when something has changed since it was last asked.

    Args:
        profile: whose engines name libraries.
        every_s: how often to look at the most.
        root: where the system's folders stand; another in tests.
        path: where packages are looked for.
    """

    def __init__(
        self,
        profile: DeviceProfile,
        every_s: float,
        now_s: float,
        root: Path = Path("/"),
        path: Iterable[str] = (),
    ) -> None:
        self._every_s = every_s
        self._libraries = sorted({name for e in profile.engines for name in _names(e.options)})
        self._root = root
        self._path = [Path(folder) for folder in path or sys.path if folder]
        self._seen = self.fingerprint()
        self.due_s = now_s + self._every_s

    @property
    def seen(self) -> str:
        """The fingerprint of the last look."""
        return self._seen

    def changed(self, now_s: float) -> bool:
        """Whether something changed; looks only when that is due."""
        if now_s < self.due_s:
            return False
        self.due_s = now_s + self._every_s
        seen, self._seen = self._seen, self.fingerprint()
        return seen != self._seen

    def fingerprint(self) -> str:
        """Of everything that an accelerator here depends on."""
        found = hashlib.sha256()
        for line in self._lines():
            found.update(line.encode("utf-8", "surrogateescape") + b"\n")
        return found.hexdigest()

    def _files(self, name: str) -> Iterator[Path]:
        if "/" in name:
            yield Path(name)
            return
        for pattern in LIBRARIES:
            yield from sorted(folder / name for folder in self._root.glob(pattern))

    def _lines(self) -> Iterator[str]:
        yield os.uname().release
        for name in self._libraries:
            for file in self._files(name):
                yield f"{file} {_identity(file)}"
        for folder in self._path:
            for pattern in PACKAGES:
                for info in sorted(folder.glob(f"{pattern}.dist-info")):
                    yield f"{info.name} {_identity(info)}"
        dev = self._root / "dev"
        for pattern in NODES:
            # A node is the same for as long as it is there; its times change with use.
            yield from sorted(str(node) for node in dev.glob(pattern))
        for path in TOLD:
            yield f"{path} {_text(self._root / path)}"
        for module in MODULES:
            folder = self._root / "sys" / "module" / module
            if folder.is_dir():
                yield f"{module} {' '.join(_text(folder / name) for name in VERSIONS)}"


def _names(value: Json) -> Iterator[str]:
    """What may be a file in an engine's options: absolute paths, and names of shared libraries."""
    if isinstance(value, str):
        if value.startswith("/") or (".so" in value and "/" not in value):
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _names(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _names(inner)


def _identity(path: Path) -> str:
    """Which file it is, wherever links lead; its content is not read."""
    try:
        found = path.stat()
    except OSError:
        return "none"
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}"


def _text(path: Path) -> str:
    try:
        return path.read_bytes()[:256].decode("utf-8", "replace").strip()
    except OSError:
        return ""
