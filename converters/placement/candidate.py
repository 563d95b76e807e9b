"""A candidate of a conversion on its accelerator: where its operators run, and the floor.

A tool is asked once for a file, a chip and a release of the tool; what it compiled is kept with the
answer. Where the tool is not set up the placement is unknown, which is told and fails nothing: a
floor can only be missed by what is known. But what has to be compiled on the host cannot be shipped
without its compiler.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from converters.placement.coverage import NotProved, check_coverage
from converters.placement.environments import tool_of
from converters.placement.place import place
from converters.placement.result import Placed, from_json
from converters.placement.targets import target
from edge_runtime.profile import Engine
from edge_runtime.text import MAX_ERROR, plain

if TYPE_CHECKING:
    from converters.model import Artifact, Candidate, Job


def place_candidate(candidate: Candidate, engine: Engine, job: Job) -> Candidate:
    """`candidate` with its placement, and with what the vendor's compiler made of it.

    Raises:
        InputError: less of it than the floor runs on the accelerator, and that was not allowed;
            or nothing is known, and proof was asked for.
    """
    if not engine.compiler:
        return candidate
    placed, compiled = _asked(candidate, engine, job)
    where = f"profile {job.profile.name}: {candidate.id}"
    if not placed.known and job.require_proof:
        raise NotProved(
            plain(f"{where}: where it runs is unknown, and proof is required: {placed.why}",
                  MAX_ERROR)
        )  # fmt: skip
    if not placed.known:
        job.progress.say(f"  unknown   where {candidate.id} runs: {placed.why}")
    elif not job.allow_fallback:
        check_coverage(placed, engine, where)
    return replace(candidate, placed=placed, compiled=compiled)


def not_shippable(candidate: Candidate, engine: Engine) -> str:
    """Why the board could not run the file as it is; empty where it can.

    A delegate that takes compiled operators only leaves all others to the CPU, in silence.
    """
    if not engine.compiler or not target(engine.compiler).ships or candidate.compiled is not None:
        return ""
    return (
        f"{engine.accelerator} runs only what its vendor's compiler made of the file, and "
        f"{engine.compiler} has made nothing here{_to_do(engine.compiler)}"
    )


def _to_do(name: str) -> str:
    """What a person does about a compiler that is missing; nothing where it is there."""
    if target(name).own_process:
        missing = tool_of(name) is None
        return f"; type `edge-convert setup-target {name}`" if missing else ""
    from converters.placement.tools.edgetpu import COMPILER

    missing = name == "edgetpu" and shutil.which(COMPILER) is None
    return f"; put {COMPILER} on PATH" if missing else ""


def _asked(candidate: Candidate, engine: Engine, job: Job) -> tuple[Placed, Artifact | None]:
    from converters.model import Artifact

    tool = target(engine.compiler)
    parts: dict[str, object] = {
        "file": candidate.artifact.sha256,
        "accelerator": engine.accelerator,
        "compiler": engine.compiler,
        "target": dict(engine.target),
        "demands": asdict(engine.demands),
        "tool": tool_of(engine.compiler) if tool.own_process else "",
    }
    samples = candidate.built.samples if candidate.built else None
    if samples is not None:
        parts["calibration"] = samples.sha256

    def make(out: Path) -> None:
        with job.progress.busy(f"place {candidate.id}"):
            placed = place(
                candidate.artifact.path,
                engine,
                folder=out,
                calibration=samples.path if samples else None,
            )
        (out / "placed.json").write_text(json.dumps(placed.as_json()))
        if placed.compiled is not None:
            shutil.copyfile(placed.compiled, out / "compiled")

    folder = job.cache.folder("placed", parts, make)
    placed = from_json(json.loads((folder / "placed.json").read_text()))
    made = folder / "compiled"
    ships = tool.ships and made.is_file()
    return replace(placed, compiled=None), Artifact.of(made) if ships else None
