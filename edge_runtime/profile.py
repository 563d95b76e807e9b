"""A device profile: what a board is, which engines it runs, and what it may spend.

One TOML file per board in `device_profiles/`; this module reads it and answers one question,
`fits`: which of a bundle's variants may run here, in which order. It probes no hardware.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle.manifest import NAME, Manifest, Variant
from edge_runtime.errors import IncompatibleError, InputError
from edge_runtime.fields import MAX_DEPTH, MAX_SENTENCE, Fields, Json
from edge_runtime.text import plain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_PROFILE_BYTES = 256 << 10
ARCHITECTURES = ("x86_64", "aarch64", "armv7l")
_KEY_PART = r"""(?:[\w-]+|"[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\n]*')[ \t]*\.[ \t]*"""
_DEEP_KEY = re.compile(rf"(?<![\w\\-])(?:{_KEY_PART}){{{MAX_DEPTH}}}")
"""A dotted key of so many parts, which costs tomllib the square of their number in memory."""
SOURCELESS = ("name", "title", "sources")
"""Fields that need no entry in `sources`."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One way this board runs models. Engines stand in order of preference.

    `backend` is a key of the backend table, `quantization` the recipe that is legal and best
    here, `convolutions` the same for models that have some, "" where there is no difference;
    `options` go to the engine as they are (session options, delegate options).
    """

    backend: str
    quantization: str
    providers: tuple[str, ...]
    threads: int
    options: Mapping[str, Json]
    convolutions: str = ""
    runtime: str = ""
    """Which of several packages runs the engine on the board; "" for any."""

    def scheme(self, *, convolutional: bool) -> str:
        """The quantization for a model that has convolutions, or has none."""
        return (convolutional and self.convolutions) or self.quantization


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of the self-test on the board; 0 means unbounded."""

    latency_ms: float
    ram_bytes: int


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A board. `sha256` is of the file; `sources` maps a field to where its value stands.

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
    tasks: tuple[str, ...] = ()

    def engine(self, backend: str) -> Engine | None:
        """The engine that runs `backend`, or None."""
        return next((engine for engine in self.engines if engine.backend == backend), None)

    def fits(self, manifest: Manifest) -> tuple[Variant, ...]:
        """The variants that this board may run, the bundle's preference kept.

        Raises:
            IncompatibleError: made for another profile or task, or no variant fits; says why for
                each.
        """
        bundle = f"bundle {manifest.name} {manifest.version}"
        if manifest.profile != self.name:
            raise IncompatibleError(
                f"{bundle}: made for profile {manifest.profile}, this device is {self.name}"
            )
        if self.tasks and manifest.task not in self.tasks:
            raise IncompatibleError(
                f"{bundle}: task {manifest.task}, this device takes {', '.join(self.tasks)}"
            )
        reasons = {v.id: self._misfit(manifest, v) for v in manifest.variants}
        fitting = tuple(v for v in manifest.variants if reasons[v.id] is None)
        if not fitting:
            why = "; ".join(f"{variant}: {reason}" for variant, reason in reasons.items())
            raise IncompatibleError(f"{bundle}: no variant fits profile {self.name} ({why})")
        return fitting

    def _misfit(self, manifest: Manifest, v: Variant) -> str | None:
        """Why `v` cannot run here, or None."""
        if self.engine(v.backend) is None:
            known = ", ".join(engine.backend for engine in self.engines)
            return f"needs backend {v.backend}, the profile has {known}"
        if v.needs.ram_bytes > self.ram_bytes:
            return f"needs {v.needs.ram_bytes} bytes of RAM, the board has {self.ram_bytes}"
        # A manifest may repeat one small chunk until the file that it makes fills the memory.
        others = {other.file for other in manifest.variants} - {v.file}
        sizes = [entry.size_bytes for entry in manifest.files if entry.path not in others]
        if max(sizes) > self.ram_bytes:
            return f"has a file of {max(sizes)} bytes, the board has {self.ram_bytes} of RAM"
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
        sources = f.object("sources")
        profile = cls(
            name=f.text("name", pattern=NAME),
            title=f.text("title"),
            arch=f.choice("arch", ARCHITECTURES),
            ram_bytes=f.integer("ram_bytes", low=1),
            storage_bytes=f.integer("storage_bytes", low=1),
            cpu_features=f.texts("cpu_features", (), max_items=128),
            python=f.texts("python", max_items=16),
            engines=tuple(_engine(e) for e in f.objects("engine", max_items=16, min_items=1)),
            sequence_lengths=tuple(_lengths(f)),
            budget=Budget(
                latency_ms=budget.number("latency_ms", 0.0, low=0),
                ram_bytes=budget.integer("ram_bytes", 0),
            ),
            sources={key: sources.text(key, max_len=1024) for key in sources.rest()},
            sha256=hashlib.sha256(data).hexdigest(),
        )
        unknown = f.unknown()
        _refuse_unknown(f)
        _refuse_unknown(budget)
        if "sources" in f:
            for key in written:
                if key not in (*SOURCELESS, *unknown, *profile.sources):
                    f.fault(f"{sources.where}: {key} is missing; say where its value stands")
        f.done()
        return profile


def _refuse_unknown(f: Fields) -> None:
    for key in f.unknown():
        f.fault(f"{f.where}: {key} is not a field of a profile")


def _engine(f: Fields) -> Engine:
    engine = Engine(
        backend=f.text("backend", pattern=NAME),
        quantization=f.text("quantization"),
        providers=f.texts("providers", (), max_items=16),
        threads=f.integer("threads", 1, low=1, high=256),
        options=f.mapping("options", {}),
        convolutions=f.text("convolutions", ""),
        runtime=f.text("runtime", ""),
    )
    _refuse_unknown(f)
    return engine


def _lengths(f: Fields) -> list[int]:
    """Token counts for which an engine with fixed shapes gets an entry point, ascending."""
    lengths = list(f.items("sequence_lengths", (16, 64, 128), 16, 1))
    if not all(type(n) is int and 0 < n <= 8192 for n in lengths) or lengths != sorted(
        set(lengths)
    ):
        f.fault(f"{f.where}: sequence_lengths must be ascending integers, 1..8192")
        return [128]
    return lengths


def load_toml(data: bytes, max_bytes: int, where: str) -> dict[str, object]:
    """`data` as TOML, its size checked first.

    Raises:
        InputError: too large, not UTF-8, not TOML.
    """
    if len(data) > max_bytes:
        raise InputError(f"{where}: {len(data)} bytes, at most {max_bytes} are accepted")
    try:
        text = data.decode("utf-8")
        if _DEEP_KEY.search(text):
            raise ValueError(f"a key of more than {MAX_DEPTH} parts")
        value = tomllib.loads(text)
        _check_depth(value)
    except (ValueError, RecursionError) as reason:  # TOMLDecodeError is a ValueError
        said = plain(f"{where}: not valid TOML ({reason}", MAX_SENTENCE)
        raise InputError(f"{said})") from None
    return value


def _check_depth(value: dict[str, object]) -> None:
    """As for JSON: whoever works with the value later may recurse."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for item in level for inner in _inside(item)]
    if level:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _inside(value: object) -> Collection[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def profile_names() -> list[str]:
    """Names of the profiles that are shipped."""
    folder = importlib.resources.files("device_profiles")
    return sorted(
        item.name[: -len(".toml")] for item in folder.iterdir() if item.name.endswith(".toml")
    )


def load_profile(name_or_path: str) -> DeviceProfile:
    """A shipped profile by name, or a file of the user's own by path (it ends in .toml).

    Raises:
        InputError: no such profile (the known ones are listed), or a faulty file.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        try:
            with open(path, "rb") as stream:
                data = stream.read(MAX_PROFILE_BYTES + 1)
        except OSError as reason:
            raise InputError(f"profile {path}: cannot be read ({reason.strerror})") from None
        return DeviceProfile.from_toml(data, where=str(path))
    known = profile_names()
    if name_or_path not in known:
        raise InputError(
            f"profile {name_or_path!r} is not known; known are {', '.join(known)}, "
            "or give the path of a .toml file"
        )
    file = importlib.resources.files("device_profiles") / f"{name_or_path}.toml"
    return DeviceProfile.from_toml(file.read_bytes(), where=f"profile {name_or_path}")
