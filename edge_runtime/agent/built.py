"""What an engine builds of a model file at its first load, kept for the next.

TensorRT takes minutes. A build holds for one file, one device, one driver and one way to run it, so
it lies in a folder named by a digest of all these, `engines/<digest>` in the state folder. A
file on a disk may rot: a build whose proof fails is thrown away, and made anew at the next try. The
latest KEPT stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from edge_runtime.agent.drivers import Drivers
from edge_runtime.bundle.manifest import Manifest, Variant
from edge_runtime.fields import Json
from edge_runtime.profile import DeviceProfile, Engine

FOLDER = "engines"
KEPT = 8
MACHINE = Path("/etc/machine-id")
KEEPS: Mapping[str, Callable[[str], Mapping[str, Json]]] = {
    "TensorrtExecutionProvider": lambda folder: {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    },
    "OpenVINOExecutionProvider": lambda folder: {"cache_dir": folder},
}
"""Execution provider → the options with which it keeps what it built in a folder.

Source: ONNX Runtime's pages of the TensorRT and OpenVINO execution providers.
"""


class Builds:
    """Of one device: where its engines keep what they build."""

    def __init__(self, state: Path, profile: DeviceProfile, machine: Path = MACHINE) -> None:
        self._root = state / FOLDER
        self._profile = profile
        self._machine = machine

    @cached_property
    def _drivers(self) -> str:
        """Looked at once, and only where something is built."""
        return Drivers(self._profile, 0.0, 0.0).seen

    def engine(self, manifest: Manifest, variant: Variant) -> Engine | None:
        """The profile's engine for `variant`, told where to keep what it builds of the file.

        As the profile has it where it builds nothing, or the disk takes no folder.
        """
        engine = self._profile.engine_of(variant)
        kept = self._folder(manifest, variant, engine)
        if engine is None or kept is None:
            return engine
        provider, folder = kept
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)  # the one used last goes last
        except OSError:
            return engine
        given = engine.options.get(provider, {})
        own = given if isinstance(given, Mapping) else {}
        return replace(
            engine, options={**engine.options, provider: {**KEEPS[provider](str(folder)), **own}}
        )

    def limit_s(self, variant: Variant, usual_s: float, most_s: float) -> float:
        """How long a proof of `variant` may take, building included."""
        engine = self._profile.engine_of(variant)
        return min(max(usual_s, engine.build_s if engine else 0.0), most_s)

    def forget(self, manifest: Manifest, variant: Variant) -> None:
        """Throw away what was built of the variant's file."""
        kept = self._folder(manifest, variant, self._profile.engine_of(variant))
        if kept is not None:
            shutil.rmtree(kept[1], ignore_errors=True)

    def prune(self) -> None:
        """Throw away all but the latest."""
        with contextlib.suppress(OSError):
            folders = sorted(self._root.iterdir(), key=lambda one: -one.stat().st_mtime_ns)
            for folder in folders[KEPT:]:
                shutil.rmtree(folder, ignore_errors=True)

    def _folder(
        self, manifest: Manifest, variant: Variant, engine: Engine | None
    ) -> tuple[str, Path] | None:
        """The provider that builds, and its folder; None where none does."""
        provider = engine.providers[0] if engine and engine.providers else ""
        if engine is None or provider not in KEEPS:
            return None
        parts = [
            manifest.file(variant.file).sha256,
            engine.id,
            json.dumps(engine.options, sort_keys=True),
            self._drivers,
            _text(self._machine),
        ]
        digest = hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
        return provider, self._root / digest[:32]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
