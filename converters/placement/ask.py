"""Which files of a model are asked about for which of a profile's engines: the verb `place`.

A model file is asked about for every engine with an accelerator whose tool takes its format. Of a
bundle it is the variant that belongs to the engine, else those of the same backend for the CPU.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.package import is_bundle, open_verified
from converters.placement.coverage import check_coverage
from converters.placement.given import check_regular, is_compiled
from converters.placement.place import Tools
from converters.placement.result import Placed, first_names, percent, unknown
from converters.placement.targets import target
from converters.progress import Progress
from edge_runtime.bundle.manifest import Variant
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.errors import InputError
from edge_runtime.profile import CPU, DeviceProfile, Engine
from edge_runtime.text import plain


@dataclass(frozen=True, slots=True)
class Asked:
    """One file on one engine of one profile.

    `missed` says what is below the floor, and where the tool is there and `failed`, why; else "".
    """

    profile: str
    engine: Engine
    file: str
    placed: Placed
    missed: str = ""
    failed: bool = False

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "profile": self.profile,
            "engine": self.engine.id,
            "compiler": self.engine.compiler,
            "file": self.file,
            "coverage": self.engine.coverage,
            "meets": not self.missed,
            "missed": self.missed,
            "failed": self.failed,
            **self.placed.as_json(),
        }


@dataclass(frozen=True, slots=True)
class _File:
    """A file that was named, or that a bundle has, and then for which variant and profiles."""

    title: str
    path: Path
    variant: Variant | None = None
    made_for: tuple[str, ...] = ()


def ask(
    named: str, profiles: Sequence[DeviceProfile], progress: Progress, *, folder: Path | None = None
) -> tuple[Asked, ...]:
    """Place a model file, or each variant of a bundle, on the accelerators of `profiles`.

    What tools compiled is left in `folder`, where there is one.

    Raises:
        InputError: no such file, no accelerator among the profiles or none that takes the file.
    """
    found = []
    with _files(named) as files, Tools() as tools:
        for profile in profiles:
            for engine in accelerated(profile):
                for file in _of(files, engine, profile):
                    with progress.busy(f"{file.title} on {engine.accelerator}"):
                        found.append(_one(file, engine, profile.name, tools, folder))
    if not found:
        takes = {
            f"{engine.accelerator} takes {' or '.join(target(engine.compiler).formats)}"
            for profile in profiles
            for engine in accelerated(profile)
            if engine.compiler
        }
        names = ", ".join(profile.name for profile in profiles)
        raise InputError(
            plain(f"{named}: nothing to place for {names}: "
                  + ("; ".join(sorted(takes)) or "no engine has an accelerator"))
        )  # fmt: skip
    if folder is not None and not any(one.placed.compiled for one in found):
        progress.say(f"{folder}: nothing is kept there, no tool compiled anything")
    return tuple(found)


def accelerated(profile: DeviceProfile) -> tuple[Engine, ...]:
    """The engines of `profile` that have an accelerator."""
    return tuple(engine for engine in profile.engines if engine.accelerator != CPU)


def _compiled(file: _File, engine: Engine, profile: str) -> Placed | None:
    """Of a variant that its vendor's compiler has made already: what its manifest says."""
    if file.variant is None or not engine.compiler:
        return None
    if not is_compiled(file.path, target(engine.compiler)):
        return None
    if profile not in file.made_for:
        why = f"compiled already, for {', '.join(file.made_for)}: nothing is known of {profile}"
        return unknown(engine.accelerator, why)
    said = file.variant.placement
    share = "an unknown share" if said.share.value is None else percent(said.share.value)
    off = first_names([f"{name} ({reason})" for name, reason in said.off])
    return unknown(
        engine.accelerator,
        f"compiled already; its manifest says {share} on {said.accelerator}, "
        f"{said.share.evidence}" + (f"; on the CPU: {off}" if off else ""),
    )


def _one(file: _File, engine: Engine, profile: str, tools: Tools, folder: Path | None) -> Asked:
    """What is known of one file; that its tool fails stops no other."""
    try:
        placed = _compiled(file, engine, profile) or tools.place(file.path, engine, folder=folder)
    except InputError as reason:
        nothing = unknown(engine.accelerator, str(reason))
        return Asked(profile, engine, file.title, nothing, str(reason), failed=True)
    try:
        check_coverage(placed, engine, f"{file.title}, profile {profile}")
    except InputError as reason:
        return Asked(profile, engine, file.title, placed, str(reason))
    return Asked(profile, engine, file.title, placed)


def _of(files: Sequence[_File], engine: Engine, profile: DeviceProfile) -> list[_File]:
    """The files that are asked about for `engine`."""
    tool = target(engine.compiler) if engine.compiler else None
    formats = (*tool.formats, tool.made) if tool else ()
    taken = [one for one in files if not formats or one.path.suffix in formats]
    own = [one for one in taken if one.variant and profile.engine_of(one.variant) == engine]
    return own or [
        one
        for one in taken
        if one.variant is None
        or (one.variant.backend == engine.backend and one.variant.placement.accelerator == CPU)
    ]


@contextlib.contextmanager
def _files(named: str) -> Iterator[tuple[_File, ...]]:
    """What is named: a model file, or the variants of a bundle, unpacked."""
    path = Path(named)
    if not is_bundle(named):
        check_regular(path)
        yield (_File(path.name, path),)
        return
    bundle = open_verified(path)
    with tempfile.TemporaryDirectory(prefix="edge-place-") as folder:
        yield tuple(
            _unpacked(bundle, variant, Path(folder)) for variant in bundle.manifest.variants
        )


def _unpacked(bundle: VerifiedBundle, variant: Variant, folder: Path) -> _File:
    for entry in bundle.manifest.files_of((variant,)):
        path = folder / entry.path
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bundle.read(entry.path))
    made_for = variant.profiles or (bundle.manifest.profile,)
    return _File(variant.id, folder / variant.file, variant, made_for)
