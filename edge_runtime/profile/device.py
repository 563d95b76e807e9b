"""A device profile: what a board is, which engines it runs, and what it may spend.

One TOML file per board in `device_profiles/`; this module reads it and answers one question,
`fits`: which of a bundle's variants may run here, in which order. It probes no hardware.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.bundle.manifest import NAME, Manifest, Variant
from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.fields import MAX_SENTENCE, Fields
from edge_runtime.profile.engine import CPU, Engine, named, parse_engine, refuse_unknown
from edge_runtime.profile.toml import load_toml
from edge_runtime.text import plain

MAX_PROFILE_BYTES = 256 << 10
ARCHITECTURES = ("x86_64", "aarch64", "armv7l")
IMAGES = ("none", "raspberry-pi-os", "jetson")
"""Kinds of system image that `edge-fleet flash` knows how to write to."""
PYTHON = r"3\.[0-9]{1,2}"
PROBED = r"/sys/(?!.*\.\.).+"
"""Files that probes may read: what else a profile named would go out with telemetry."""
MIN_SOURCE = 8
"""Characters of a source; less says nothing."""
SOURCELESS = ("name", "title", "sources")
"""Fields that need no entry in `sources`."""
SOURCED = (
    "arch", "ram_bytes", "storage_bytes", "cpu_features", "python", "sequence_lengths", "engine",
    "budget", "probes", "image",
)  # fmt: skip
"""Fields that need one, where they are set."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of the self-test on the board; 0 means unbounded."""

    latency_ms: float
    ram_bytes: int


@dataclass(frozen=True, slots=True)
class Probes:
    """Where telemetry looks on this board, besides what every board has.

    `thermal` are types of thermal zones as `/sys/class/thermal/*/type` says them, the one that
    throttles first; `power` and `throttling` are files under `/sys`, with `*` for what is numbered
    at boot. The name of a file of `power` says its unit: `power<n>_input` is microwatts,
    `in_power<n>_input` milliwatts, `curr<n>_input` milliamperes, to be multiplied by the millivolts
    of `in<n>_input` beside it. Files of `throttling` are flags or counters, 0 where all is well.
    """

    thermal: tuple[str, ...] = ()
    power: tuple[str, ...] = ()
    throttling: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A board. `sha256` is of the file; `sources` maps a field to where its value stands.

    A source called `engine.hexagon` is of the engines on that accelerator, over and above `engine`.
    `tasks` is no field of the file: those that one device's configuration allows; none means any.
    """

    name: str
    title: str
    arch: str
    ram_bytes: int
    storage_bytes: int
    cpu_features: tuple[str, ...]
    python: tuple[str, ...]
    engines: tuple[Engine, ...]
    sequence_lengths: tuple[int, ...]
    budget: Budget
    sources: Mapping[str, str]
    sha256: str
    probes: Probes = Probes()
    image: str = "none"
    tasks: tuple[str, ...] = ()

    def engine(self, backend: str, accelerator: str = CPU) -> Engine | None:
        """The engine that runs `backend` on `accelerator`, or None."""
        for engine in self.engines:
            if (engine.backend, engine.accelerator) == (backend, accelerator):
                return engine
        return None

    def engine_of(self, variant: Variant) -> Engine | None:
        """The engine that `variant` is meant for, or None."""
        return self.engine(variant.backend, variant.placement.accelerator)

    def fits(self, manifest: Manifest) -> tuple[Variant, ...]:
        """The variants that this board may run, the bundle's preference kept.

        Raises:
            IncompatibleError: made for another profile or task, or no variant fits; says why for
                each.
        """
        bundle = f"bundle {manifest.name} {manifest.version}"
        if self.name not in manifest.profiles:
            raise IncompatibleError(
                f"{bundle}: made for profile {', '.join(manifest.profiles)}, this device is "
                f"{self.name}"
            )
        if self.tasks and manifest.task not in self.tasks:
            raise IncompatibleError(
                f"{bundle}: task {manifest.task}, this device takes {', '.join(self.tasks)}"
            )
        reasons = self.misfits(manifest)
        fitting = tuple(v for v in manifest.variants if reasons[v.id] is None)
        if not fitting:
            why = "; ".join(f"{variant}: {reason}" for variant, reason in reasons.items())
            raise IncompatibleError(f"{bundle}: no variant fits profile {self.name} ({why})")
        return fitting

    def misfits(self, manifest: Manifest) -> dict[str, str | None]:
        """Why each variant cannot run here, by its id; None where it can."""
        return {v.id: self._misfit(manifest, v) for v in manifest.variants}

    def _misfit(self, manifest: Manifest, v: Variant) -> str | None:
        made_for = v.profiles or (manifest.profile,)
        if self.name not in made_for:
            return f"is made for profile {', '.join(made_for)}"
        if self.engine_of(v) is None:
            needed = named(v.backend, v.placement.accelerator)
            known = ", ".join(engine.id for engine in self.engines)
            return plain(f"needs {needed}, the profile has {known}", MAX_SENTENCE)
        if v.needs.ram_bytes > self.ram_bytes:
            return f"needs {v.needs.ram_bytes} bytes of RAM, the board has {self.ram_bytes}"
        # A manifest may repeat one small chunk until the file that it makes fills the memory.
        largest = max(entry.size_bytes for entry in manifest.files_of((v,)))
        if largest > self.ram_bytes:
            return f"has a file of {largest} bytes, the board has {self.ram_bytes} of RAM"
        missing = [name for name in v.needs.cpu_features if name not in self.cpu_features]
        if missing:
            return plain(f"needs CPU features {', '.join(missing)}", MAX_SENTENCE)
        return None

    @classmethod
    def from_toml(cls, data: bytes, *, where: str) -> DeviceProfile:
        """Parse and check; every fault is reported in one go.

        Raises:
            InputError: too large, not TOML, a field missing, wrong, unknown or without a source.
        """
        written = load_toml(data, MAX_PROFILE_BYTES, where)
        f = Fields(written, where, InputError, [])
        budget = f.object("budget", {})
        probes = f.object("probes", {})
        sources = f.object("sources")
        profile = cls(
            name=f.text("name", pattern=NAME),
            title=f.text("title"),
            arch=f.choice("arch", ARCHITECTURES),
            ram_bytes=f.integer("ram_bytes", low=1),
            storage_bytes=f.integer("storage_bytes", low=1),
            cpu_features=f.texts("cpu_features", (), max_items=128),
            python=f.texts("python", max_items=16),
            engines=tuple(parse_engine(e) for e in f.objects("engine", max_items=16, min_items=1)),
            sequence_lengths=tuple(_lengths(f)),
            budget=Budget(
                latency_ms=budget.number("latency_ms", 0.0, low=0),
                ram_bytes=budget.integer("ram_bytes", 0),
            ),
            sources={key: sources.text(key, max_len=1024) for key in sources.rest()},
            sha256=hashlib.sha256(data).hexdigest(),
            probes=Probes(
                thermal=probes.texts("thermal", (), max_items=16),
                power=probes.texts("power", (), max_items=16),
                throttling=probes.texts("throttling", (), max_items=16),
            ),
            image=f.choice("image", IMAGES, "none"),
        )
        unknown = f.unknown()
        for table in (f, budget, probes):
            refuse_unknown(table)
        _check_engines(f, profile.engines)
        _check_forms(f, probes, profile)
        if "sources" in f:
            _check_sources(
                f, sources.where, profile, [key for key in written if key not in unknown]
            )
        f.done()
        return profile


def _check_sources(f: Fields, where: str, profile: DeviceProfile, written: Sequence[str]) -> None:
    """Every field that is set has a source, and every source a field."""
    for key in written:
        if key not in (*SOURCELESS, *profile.sources):
            f.fault(f"{where}: {key} is missing; say where its value stands")
    engines = tuple(f"engine.{engine.accelerator}" for engine in profile.engines)
    for key, source in profile.sources.items():
        if len(source.strip()) < MIN_SOURCE:
            f.fault(
                f"{where}: {key} is {source!r}; say where its value stands, in {MIN_SOURCE} "
                "characters or more"
            )
        if key not in (*SOURCED, *engines):
            f.fault(
                f"{where}: {key} names no field; known are "
                f"{', '.join((*SOURCED, *dict.fromkeys(engines)))}"
            )


def _check_engines(f: Fields, engines: tuple[Engine, ...]) -> None:
    """Variants name an engine and an accelerator: two alike could not be told apart.

    An accelerator may be missing on the board or fail its self-test; the CPU never is.
    """
    if engines and engines[-1].accelerator != CPU:
        f.fault(
            f"{f.where}: the last engines must run on the CPU, for where the accelerator fails; "
            f"the last one is {engines[-1].id}"
        )
    seen: set[tuple[str, str]] = set()
    for engine in engines:
        if (engine.backend, engine.accelerator) in seen:
            f.fault(f"{f.where}: two engines are {engine.id}; give one another accelerator")
        seen.add((engine.backend, engine.accelerator))


def _check_forms(f: Fields, probes: Fields, profile: DeviceProfile) -> None:
    """Strings of lists that have a form of their own."""
    for version in profile.python:
        if not re.fullmatch(PYTHON, version):
            f.fault(f"{f.where}: python has {version!r}, expected versions such as '3.11'")
    for path in (*profile.probes.power, *profile.probes.throttling):
        if not re.fullmatch(PROBED, path):
            f.fault(f"{probes.where}: {path!r} is no file under /sys")


def _lengths(f: Fields) -> list[int]:
    """Token counts for which an engine with fixed shapes gets an entry point, ascending."""
    lengths = list(f.items("sequence_lengths", (16, 64, 128), 16, 1))
    if not all(type(n) is int and 0 < n <= 8192 for n in lengths) or lengths != sorted(
        set(lengths)
    ):
        f.fault(f"{f.where}: sequence_lengths must be ascending integers, 1..8192")
        return [128]
    return lengths
