"""Ask an accelerator's tool where the operators of a model file will run, and what they answer.

A tool that is not set up is no error: then nothing is known, and the result says so and what to
type. A tool that is there and cannot take the file is one: its sentence is the InputError.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from converters.placement import worker
from converters.placement.environments import interpreter, process
from converters.placement.given import check_given
from converters.placement.result import EVIDENCE, Node, Placed, unknown
from converters.placement.targets import TARGETS, Target, target
from converters.quiet import quiet
from converters.toolchain import Toolchain
from edge_runtime.errors import EdgeError, InputError
from edge_runtime.inference.backend import Tensor
from edge_runtime.profile import Engine

MAX_COUNT = 1_000_000
Ask = Callable[[dict[str, Any]], dict[str, Any]]


def place(
    model: Path, engine: Engine, *, folder: Path | None = None, calibration: Path | None = None
) -> Placed:
    """Where the operators of the file at `model` run on the engine's accelerator.

    One tool is started and ended; `Tools` keeps them for many questions. See `Tools.place`.
    """
    with Tools() as tools:
        return tools.place(model, engine, folder=folder, calibration=calibration)


class Tools:
    """Vendors' tools, each started when it is first asked and kept until the block ends."""

    def __init__(self) -> None:
        self._open: dict[str, Toolchain] = {}
        self._own: dict[str, tuple[Ask, str]] = {}

    def __enter__(self) -> Tools:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        while self._open:
            self._open.popitem()[1].close()

    def place(
        self,
        model: Path,
        engine: Engine,
        *,
        folder: Path | None = None,
        calibration: Path | None = None,
    ) -> Placed:
        """Where the operators of the file at `model` run on the engine's accelerator.

        Args:
            folder: where the file that the tool compiled is left, as `Placed.compiled`.
            calibration: samples, .npz with an array (samples, …) for each input, for a tool that
                quantizes a file of floats itself.

        Raises:
            InputError: the file is not one for the tool (see `check_given`), or the tool is there
                and cannot place it.
        """
        if not engine.compiler:
            why = f"no tool is known that tells where operators run on {engine.accelerator}"
            return unknown(engine.accelerator, why)
        wanted = _taking(model, engine)
        try:
            self._ready(engine.compiler, wanted)
        except InputError as reason:
            return unknown(engine.accelerator, str(reason))
        with tempfile.TemporaryDirectory(prefix="edge-place-") as scratch:
            answer, tool = self._ask(engine, "place", model, scratch, **_given(calibration))
            placed = _placed(answer, engine, wanted, tool)
            kept = None
            if folder is not None and placed.compiled is not None:
                folder.mkdir(parents=True, exist_ok=True)
                kept = Path(shutil.copyfile(placed.compiled, folder / placed.compiled.name))
        return dataclasses.replace(placed, compiled=kept)

    def run(
        self,
        model: Path,
        engine: Engine,
        feeds: Mapping[str, Tensor],
        *,
        calibration: Path | None = None,
    ) -> dict[str, Tensor]:
        """What the file answers on the tool's emulator or device: outputs by name.

        `calibration` as for `place`.

        Raises:
            InputError: the tool is not set up, cannot execute, or fails.
        """
        wanted = _taking(model, engine)
        self._ready(engine.compiler, wanted)
        with tempfile.TemporaryDirectory(prefix="edge-place-") as scratch:
            paths = {name: Path(scratch) / f"{name}.npz" for name in ("feeds", "answers")}
            save_arrays(paths["feeds"], feeds)
            named = {name: str(one) for name, one in paths.items()}
            self._ask(engine, "run", model, scratch, **named, **_given(calibration))
            try:
                with np.load(paths["answers"], allow_pickle=False) as arrays:
                    return {name: arrays[name] for name in arrays.files}
            except (OSError, ValueError) as reason:
                raise InputError(f"{engine.compiler} left no answers ({reason})") from None

    def _ready(self, name: str, wanted: Target) -> None:
        """Whether the tool is set up. Raises InputError with what to type where not."""
        if wanted.own_process and name not in self._open:
            interpreter(name)

    def _ask(
        self, engine: Engine, job: str, model: Path, folder: str, **more: str
    ) -> tuple[dict[str, Any], str]:
        """The tool's answer, and what it says that it is."""
        name = engine.compiler
        request = {
            "model": str(model.absolute()),
            "target": dict(engine.target),
            "demands": dataclasses.asdict(engine.demands),
            "folder": folder,
            **more,
        }
        if not TARGETS[name].own_process:
            with quiet():
                return self._here(name, {"job": job, **request})
        if name not in self._open:
            self._open[name] = process(name)
        tools_process = self._open[name]
        tools_process.subject = f"{model.name}, {engine.accelerator}"
        greeting = tools_process.start()
        return tools_process.call(job, **request), str(greeting.get("tool", name))

    def _here(self, name: str, request: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The same from a tool of this process."""
        try:
            if name not in self._own:
                ask = worker.load(name)
                self._own[name] = ask, str(ask({"job": "hello"})["tool"])
            ask, tool = self._own[name]
            return ask(request), tool
        except (EdgeError, ModuleNotFoundError):
            raise
        except Exception as reason:  # what a checker does with a strange model: no common base
            raise InputError(
                f"{name} fails on {Path(request['model']).name}: {worker.reduced(reason)}"
            ) from None


def _given(calibration: Path | None) -> dict[str, str]:
    return {} if calibration is None else {"calibration": str(calibration.absolute())}


def _taking(model: Path, engine: Engine) -> Target:
    """The engine's tool, which takes files such as `model`."""
    wanted = target(engine.compiler)
    check_given(model, wanted, engine.compiler)
    return wanted


def _placed(answer: Mapping[str, Any], engine: Engine, wanted: Target, tool: str) -> Placed:
    """The answer, checked: a tool is our code, but what it read is a vendor's."""
    try:
        nodes = tuple(
            Node(str(one["name"]), str(one["operator"]), one["on"] is True, str(one["reason"]))
            for one in answer["nodes"][:MAX_COUNT]
        )
        partitions, estimated = answer.get("partitions"), answer.get("estimated_ms")
        evidence = answer.get("evidence", wanted.evidence)
        compiled = answer.get("compiled")
        if evidence not in EVIDENCE or not isinstance(partitions, int | None):
            raise ValueError("evidence or partitions")
        if estimated is not None and not (math.isfinite(estimated) and estimated > 0):
            raise ValueError("estimated_ms")
    except (KeyError, TypeError, ValueError, AttributeError) as reason:
        raise InputError(f"{engine.compiler} answered no placement ({reason})") from None
    return Placed(
        engine.accelerator,
        nodes,
        evidence,
        str(answer.get("tool", tool)),
        partitions,
        None if estimated is None else float(estimated),
        str(answer.get("estimate", "")),
        dict(answer.get("notes", {})),
        why=str(answer.get("why", "")),
        compiled=None if compiled is None else Path(compiled),
    )


def save_arrays(path: Path, arrays: Mapping[str, Tensor]) -> None:
    """An .npz file whose names may be any, "file" too, which `np.savez` takes for its own."""
    with zipfile.ZipFile(path, "w") as archive, contextlib.ExitStack() as stack:
        for name, array in arrays.items():
            file = stack.enter_context(archive.open(f"{name}.npy", "w", force_zip64=True))
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
            file.close()
