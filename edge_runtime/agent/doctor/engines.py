"""Engines: what is installed, whether it imports, what it can run on, and why a variant could not.

Nothing of an engine is loaded into this process: a broken wheel may crash or hang. Whether a model
then computes what it should is the self-test's matter; here is only what is missing for it to
start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from edge_runtime.agent.doctor.bounded import Late, Overdue, Running, ask
from edge_runtime.inference.ort_plugins import PLUGINS
from edge_runtime.profile import DeviceProfile, Engine
from edge_runtime.profile.engine import CPU
from edge_runtime.text import plain

Answer: TypeAlias = "Mapping[str, object] | str"
Ask: TypeAlias = Callable[[Sequence[str], float], Answer]

LIMIT_S = 20.0
"""Of all questions together. An engine on a cold memory card takes some seconds."""
END_S = 0.3
"""For the process that looks to be started, and ended where it hangs."""
CPU_PROVIDER = "CPUExecutionProvider"
DELEGATE = "delegate"
"""The key of an engine's options that names a delegate's library."""
CREATE = "tflite_plugin_create_delegate"
"""What the library of an external delegate must export.

Source: tensorflow/lite/delegates/external/external_delegate.cc.
"""
MAX_PATH_BYTES = 4096
"""Linux, include/uapi/linux/limits.h: PATH_MAX, with its last byte."""
MAX_NAME = 120


@dataclass(frozen=True, slots=True)
class Source:
    """A module that is an engine, and the packages that carry it: at most one may be installed."""

    module: str
    packages: tuple[str, ...]


SOURCES: Mapping[str, tuple[Source, ...]] = {
    "onnxruntime": (
        Source(
            "onnxruntime",
            (
                "onnxruntime",
                "onnxruntime-gpu",
                "onnxruntime-openvino",
                "onnxruntime-training",
                "onnxruntime-vitisai",
            ),
        ),
    ),
    "litert": (
        Source("ai_edge_litert.interpreter", ("ai-edge-litert",)),
        Source("tflite_runtime.interpreter", ("tflite-runtime",)),
    ),
    "rknn": (Source("rknnlite.api", ("rknn-toolkit-lite2",)),),
}
"""By backend, the preferred first. A test holds it to the table of backends."""


@dataclass(frozen=True, slots=True)
class Package:
    """A source as it was found. `fault` is empty where it imports, and where it is absent."""

    source: Source
    versions: Mapping[str, str]
    absent: bool = False
    fault: str = ""
    providers: tuple[str, ...] = ()
    late: bool = False
    """It was not told in time: `fault` says no more."""

    @property
    def name(self) -> str:
        """The packages with their versions."""
        found = [f"{package} {version}" for package, version in self.versions.items()]
        return " and ".join(found) or " or ".join(self.source.packages[:1])

    @property
    def works(self) -> bool:
        """Whether it is there and imports."""
        return not self.absent and not self.fault


@dataclass(frozen=True, slots=True)
class Fault:
    """Why something could not run here, in a sentence; `kind` is a key of `equipment.REMEDIES`.

    `provider` is the execution provider that it is about, for advice.
    """

    kind: str
    text: str
    provider: str = field(default="", compare=False)


class Engines:
    """All engines of this machine, looked at side by side from now on.

    Args:
        asking: puts a question to another process, as `bounded.ask` does.
        limit_s: when all of it is over, from now; what was not told by then is not known.
    """

    def __init__(
        self, profile: DeviceProfile | None, asking: Ask = ask, limit_s: float = LIMIT_S
    ) -> None:
        self._ask = asking
        self._limit_s = limit_s
        self._end_s = time.monotonic() + limit_s
        self._packages = {
            backend: [Running(partial(self._import, source), limit_s + END_S) for source in sources]
            for backend, sources in SOURCES.items()
        }
        self._libraries: dict[tuple[str, ...], Running[Answer]] = {}
        for engine in profile.engines if profile is not None else ():
            if question := _question(engine, engine.providers):
                self._begin(question)

    def packages(self, backend: str) -> list[Package]:
        """What was found of `backend`, the preferred first."""
        looks = zip(self._packages[backend], SOURCES[backend], strict=True)
        return [_told(look, source) for look, source in looks]

    def package(self, backend: str) -> Package | None:
        """The one that a worker takes; None where none works."""
        return next((p for p in self.packages(backend) if p.works), None)

    def fault(self, engine: Engine, providers: tuple[str, ...] = ()) -> Fault | None:
        """Why a variant of `engine` could not start; None where nothing is known against it.

        Args:
            providers: the variant's own, which go before the profile's.
        """
        if engine.backend not in SOURCES:
            known = ", ".join(SOURCES)
            return Fault(
                "backend", f"backend {engine.backend} is not known to this software, only {known}"
            )
        if wrong := _misnamed(engine):
            return Fault("options", wrong)
        question = _question(engine, providers or engine.providers)
        provider = question[1] if question is not None and question[0] == "provider" else ""
        package = self.package(engine.backend)
        if package is None:
            kind = "late" if self.late(engine.backend) else "engine"
            return Fault(kind, self._missing(engine.backend), provider)
        if question is None:
            return _without(engine)
        kind, what, *_ = question
        if kind == "provider" and what not in package.providers:
            if what not in PLUGINS:
                have = ", ".join(package.providers) or "none"
                said = f"{plain(what, MAX_NAME)} is not among the providers of {package.name}"
                return Fault("build", f"{said}: {have}", provider)
            kind = "plugin"
        answer = self._told(question)
        if not isinstance(answer, str):
            return None
        text = f"{'delegate ' * (kind == DELEGATE)}{plain(what, MAX_NAME)}: {answer}"
        return Fault("late" if isinstance(answer, Late) else kind, text, provider)

    def late(self, backend: str) -> bool:
        """Whether a package of `backend` was not told in time."""
        return any(package.late for package in self.packages(backend))

    def plugin(self, engine: Engine) -> str:
        """The plug-in that `engine` starts with, as `onnxruntime-qnn 2.7.0`; empty without one."""
        question = _question(engine, engine.providers)
        answer = self._told(question) if question is not None else ""
        return "" if isinstance(answer, str) else str(answer.get("plugin", ""))

    def _missing(self, backend: str) -> str:
        broken = [f"{p.name}: {p.fault}" for p in self.packages(backend) if p.fault]
        names = " nor ".join(source.packages[0] for source in SOURCES[backend])
        either = "neither " if " nor " in names else ""
        return "; ".join(broken) or f"{either}{names} is {'' if either else 'not '}installed"

    def _begin(self, question: tuple[str, ...]) -> Running[Answer]:
        """Asked once, however many variants need it."""
        if question not in self._libraries:
            left_s = max(self._end_s - time.monotonic(), 0.0)
            self._libraries[question] = Running(
                partial(self._ask, question, left_s), left_s + END_S
            )
        return self._libraries[question]

    def _told(self, question: tuple[str, ...]) -> Answer:
        """What was found, or in words what is wrong."""
        try:
            return self._begin(question).result()
        except Overdue as reason:
            return Late(reason)

    def _import(self, source: Source) -> Package:
        answer = self._ask(("import", source.module, *source.packages), self._limit_s)
        if isinstance(answer, str):
            late = isinstance(answer, Late)
            return Package(source, {}, fault=f"import {source.module}: {answer}", late=late)
        listed = answer.get("versions")
        versions = {str(k): str(v) for k, v in listed.items()} if isinstance(listed, dict) else {}
        providers = answer.get("providers")
        absent, broken = answer.get("absent"), answer.get("broken")
        if not versions and "version" in answer:  # Built from source: no package brought it.
            versions = {source.module: str(answer["version"])}
        # A package that pip knows and whose files are gone is broken, not absent.
        fault = broken or (absent if versions else "")
        return Package(
            source,
            versions,
            absent=absent is not None and not versions,
            fault=plain(str(fault)) if fault else "",
            providers=tuple(map(str, providers)) if isinstance(providers, list) else (),
        )


def _told(look: Running[Package], source: Source) -> Package:
    try:
        return look.result()
    except Overdue as reason:
        return Package(source, {}, fault=f"import {source.module}: {reason}", late=True)


def _question(engine: Engine, providers: tuple[str, ...]) -> tuple[str, ...] | None:
    """What there is to ask of the library behind an engine; None where it needs none."""
    meant = (providers or (CPU_PROVIDER,))[0]
    if engine.backend == "onnxruntime" and meant != CPU_PROVIDER:
        return "provider", meant
    delegate = engine.options.get(DELEGATE)
    if engine.backend == "litert" and isinstance(delegate, str) and delegate:
        return DELEGATE, delegate, CREATE
    return None


def _misnamed(engine: Engine) -> str:
    """In a sentence, why an engine's delegate cannot be the name of a library; empty otherwise."""
    if engine.backend != "litert" or DELEGATE not in engine.options:
        return ""
    found = engine.options[DELEGATE]
    if not isinstance(found, str) or not found:
        told = plain(repr(found), MAX_NAME)
        return f"option delegate of {engine.id} is {told}, expected the path of a library"
    shown = plain(found, MAX_NAME)
    if "\0" in found:
        return f"option delegate of {engine.id} has a null byte, which no path has: {shown}"
    size_bytes = len(found.encode("utf-8", "replace"))
    if size_bytes >= MAX_PATH_BYTES:
        return (
            f"option delegate of {engine.id} has {size_bytes} bytes, a path has fewer than "
            f"{MAX_PATH_BYTES}: {shown}"
        )
    return ""


def _without(engine: Engine) -> Fault | None:
    """LiteRT reaches an accelerator through a delegate only."""
    if engine.backend != "litert" or engine.accelerator == CPU:
        return None
    return Fault(DELEGATE, f"the profile names no delegate for {engine.accelerator}")
