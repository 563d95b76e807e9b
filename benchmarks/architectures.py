"""Which transformers architectures become files for the engines, and how near they stay.

    python -m benchmarks.architectures [--only NAME] [--json] [--write docs/architectures.md]

Each architecture is made tiny from a configuration in code, its weights drawn at random from a
seed, saved as a folder in Hugging Face's layout and opened as a person's folder would be. Then, for
each engine in a process of its own, so that a crash or a hang is one row: exported, run on the
engine and held against torch, quantized to INT8 and held against float. A last column says whether
Optimum's ONNX exporter has a configuration for the architecture.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.architecture_page import (
    TITLES,
    Outcome,
    Row,
    cells,
    failures,
    heads,
    page,
    summary,
)
from benchmarks.architecture_table import ARCHITECTURES, Architecture
from converters.ort import open_session
from converters.progress import Terminal
from converters.quiet import quiet
from converters.sources.interface import FloatModel
from edge_runtime.errors import EdgeError, InputError
from edge_runtime.inference.backend import Tensor

ENGINES = ("onnxruntime", "litert")
OPSET = 17
TOKENS = 16
"""Of a text; LiteRT gets its entry point for so many."""
ROWS = 6
"""Inputs that the engines are held against torch with, one at a time."""
CALIBRATION = 8
VARIES = 0.01
"""Deviation of an answer between inputs, of its scale: less would prove nothing."""
LIMIT_S = 300.0
PRELOADED = [
    "torch", "transformers", "onnx", "onnxruntime", "litert_torch", "ai_edge_quantizer.quantizer",
    "optimum.exporters.onnx.model_configs", "converters.sources.huggingface",
]  # fmt: skip
"""Imported once, by the process that the others are forked from: seconds each."""
MAX_WORDS = 300


@dataclass(frozen=True, slots=True)
class Sample:
    """One input by name, batch 1, as quantizers take it."""

    feeds: Mapping[str, Tensor]

    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors by the names of the model's inputs."""
        return self.feeds

    def __len__(self) -> int:
        """The size of the second dimension: the tokens of a text."""
        return int(next(iter(self.feeds.values())).shape[1])


def examine(name: str, engine: str) -> dict[str, Any]:
    """Everything that is asked of one architecture on one engine, in this process."""
    import torch

    torch.set_num_threads(1)
    one = next(one for one in ARCHITECTURES if one.name == name)
    outcome = Outcome()
    facts: dict[str, Any] = {}
    try:
        with tempfile.TemporaryDirectory() as place:
            model = opened(one, Path(place))
            facts = _facts(one, model)
            _measure(one, engine, model, outcome)
    except Exception as reason:  # whatever a toolchain raises is what the row tells
        if outcome.error is None:
            outcome.failed = told(reason)
        else:
            outcome.not_quantized = told(reason)
    return {**facts, "outcome": asdict(outcome)}


def opened(one: Architecture, folder: Path) -> FloatModel:
    """The tiny model, saved and opened again as a folder that somebody brought."""
    from converters.sources.huggingface import open_huggingface

    one.save(folder)
    return open_huggingface(
        folder, task=one.task, name=one.name, licence="", seconds=one.seconds, tower=one.tower
    )


def _facts(one: Architecture, model: FloatModel) -> dict[str, Any]:
    kind = one.model_type()
    return {
        "model_type": kind,
        "parameters": model.describe().parameters,
        "optimum": optimum_knows(kind),
    }


def optimum_knows(model_type: str) -> bool | None:
    """Whether Optimum has an ONNX configuration for it; None where Optimum is not installed."""
    try:
        import optimum.exporters.onnx.model_configs  # noqa: F401 - it fills the table
        from optimum.exporters.tasks import TasksManager
    except ImportError:
        return None
    try:
        known = TasksManager.get_supported_tasks_for_model_type(
            model_type.replace("_", "-"), exporter="onnx", library_name="transformers"
        )
    except (KeyError, ValueError):
        return False
    return bool(known)


def _measure(one: Architecture, engine: str, model: FloatModel, outcome: Outcome) -> None:
    rows = list(samples(model, ROWS, seed=1))
    started = time.monotonic()
    data = model.export(engine, opset=OPSET, lengths=(TOKENS,)).data
    outcome.seconds = round(time.monotonic() - started, 2)
    outcome.notes = [note for note in model.describe().notes if note.startswith("exported")]
    wanted = [model.run(row.feeds) for row in rows]
    _refuse_deaf(wanted)
    found = answers(engine, data, rows)
    outcome.error = max(
        error(a[name], b[name]) for a, b in zip(wanted, found, strict=True) for name in a
    )
    if not outcome.exported:
        outcome.failed = f"the engine's answers are off by {outcome.error:.1e} of their scale"
        return
    outcome.scheme = one.scheme
    quantized = _quantized(engine, one.scheme, data, list(samples(model, CALIBRATION, seed=2)))
    outcome.share = round(len(quantized) / len(data), 3)
    if quantized == data:
        raise InputError("the quantizer found no layer to quantize")
    coarse = answers(engine, quantized, rows)
    outcome.cosine = min(
        cosine([row[name] for row in found], [row[name] for row in coarse]) for name in found[0]
    )


def _refuse_deaf(wanted: Sequence[Mapping[str, Tensor]]) -> None:
    """A network that answers the same to everything would agree with any file.

    Raises:
        InputError: an output hardly depends on the input.
    """
    for name in wanted[0]:
        values = np.stack([row[name] for row in wanted])
        scale = float(np.abs(values).max())
        if not float((values - values.mean(axis=0)).std()) > VARIES * max(scale, 1e-3):
            raise InputError(f"the random network's {name} does not depend on its input")


def _quantized(engine: str, scheme: str, data: bytes, rows: Sequence[Sample]) -> bytes:
    from converters.quantize import quantizer

    calibration: Any = tuple(rows)
    return quantizer(engine, scheme)(data, calibration).model


def samples(model: FloatModel, count: int, *, seed: int) -> Iterator[Sample]:
    """Random inputs of batch 1: tokens that any vocabulary has, and noise."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        feeds: dict[str, Tensor] = {}
        for spec in model.interface.inputs:
            shape = [{"batch": 1, "sequence": TOKENS}[dim] if isinstance(dim, str) else dim
                     for dim in spec.shape]  # fmt: skip
            if spec.name == "input_ids":
                feeds[spec.name] = rng.integers(3, 90, shape)
            elif spec.dtype == "int64":
                feeds[spec.name] = np.full(shape, int(spec.name == "attention_mask"))
            else:
                feeds[spec.name] = rng.standard_normal(shape).astype(np.float32)
        yield Sample(feeds)


def answers(engine: str, data: bytes, rows: Sequence[Sample]) -> list[dict[str, Tensor]]:
    """The outputs by name, from the engine itself."""
    if engine == "onnxruntime":
        session = open_session(data)
        names = [one.name for one in session.get_outputs()]
        takes = {one.name for one in session.get_inputs()}
        return [
            dict(
                zip(
                    names,
                    session.run(None, {k: v for k, v in row.feeds.items() if k in takes}),
                    strict=True,
                )
            )
            for row in rows
        ]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    runner = interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
    dtypes = {name: one["dtype"] for name, one in runner.get_input_details().items()}
    return [
        runner(**{k: v.astype(dtypes[k]) for k, v in row.feeds.items() if k in dtypes})
        for row in rows
    ]


def error(wanted: Tensor, found: Tensor) -> float:
    """Largest difference over the largest number wanted; infinite where shapes differ."""
    if wanted.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(wanted - found).max() / max(float(np.abs(wanted).max()), 1e-12))


def cosine(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The smallest over the inputs."""
    pairs = [(a.ravel().astype(np.float64), b.ravel().astype(np.float64))
             for a, b in zip(wanted, found, strict=True)]  # fmt: skip
    return min(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-30)) for a, b in pairs)


def told(reason: BaseException) -> str:
    """An error in a short sentence: of ours the words, of others' the first that say something."""
    from converters.sources.torch_model import sentence

    words = str(reason) if isinstance(reason, EdgeError) else sentence(reason)
    words = " ".join(re.sub(r"^model .{1,40}?: cannot be exported to \w+:? ?", "", words).split())
    if words.startswith("(") and words.endswith(")"):
        words = words[1:-1]
    return words if len(words) <= MAX_WORDS else f"{words[: MAX_WORDS - 1]}…"


def _child(pipe: Connection, name: str, engine: str) -> None:
    with quiet():
        found = examine(name, engine)
    pipe.send(found)
    pipe.close()


def isolated(name: str, engine: str) -> dict[str, Any]:
    """`examine` in a process of its own, which may crash or hang."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, name, engine), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(LIMIT_S):
            return _lost(f"no answer within {LIMIT_S:.0f} s")
        found: dict[str, Any] = ours.recv()
        return found
    except EOFError:
        process.join(10)
        return _lost(f"the process ended with code {process.exitcode}")
    finally:
        process.kill()
        process.join()
        ours.close()


def _lost(why: str) -> dict[str, Any]:
    return {"outcome": asdict(Outcome(failed=why))}


def survey(chosen: Sequence[Architecture], engines: Sequence[str], jobs: int) -> list[Row]:
    """Every architecture on every engine, `jobs` processes at a time."""
    rows = {one.name: Row(one.name, one.kind, one.architecture) for one in chosen}
    progress = Terminal()
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    with quiet():  # what the libraries say while they are imported
        forkserver.ensure_running()
    with (
        progress.count("architectures × engines", len(chosen) * len(engines)) as advance,
        ThreadPoolExecutor(jobs) as pool,
    ):
        asked = {
            pool.submit(isolated, one.name, engine): (one.name, engine)
            for one in chosen
            for engine in engines
        }
        for done in as_completed(asked):
            name, engine = asked[done]
            found, row = done.result(), rows[name]
            row.engines[engine] = Outcome(**found["outcome"])
            if "model_type" in found:
                row.model_type, row.parameters = found["model_type"], found["parameters"]
                row.optimum = found["optimum"]
            advance(1, f"{name} for {TITLES[engine]}")
    return list(rows.values())


def _show(rows: Sequence[Row], engines: Sequence[str]) -> None:
    table = Table(title="architectures", title_justify="left")
    for at, head in enumerate(heads(engines)):
        table.add_column(head, justify="right" if 1 < at < 2 + 2 * len(engines) else "left")
    for row in rows:
        table.add_row(*(cell.replace("**", "") for cell in cells(row, engines)))
    console = Console(highlight=False)
    console.print(table)
    for line in (*failures(rows, engines), *summary(rows, engines)):
        console.print(line, markup=False)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], metavar="NAME",
                        help="this architecture; may be given again")  # fmt: skip
    parser.add_argument("--engine", choices=ENGINES, help="this engine instead of both")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the page here")
    options = parser.parse_args()
    chosen = [one for one in ARCHITECTURES if not options.only or one.name in options.only]
    if not chosen:
        known = ", ".join(one.name for one in ARCHITECTURES)
        print(f"no architecture {', '.join(options.only)}; known are {known}", file=sys.stderr)
        return 2
    engines = (options.engine,) if options.engine else ENGINES
    rows = survey(chosen, engines, options.jobs)
    if options.write:
        command = f"python -m benchmarks.architectures --write {options.write}"
        options.write.write_text(page(rows, engines, command), encoding="utf-8")
    if options.json:
        json.dump({"summary": summary(rows, engines), "rows": [asdict(row) for row in rows]},
                  sys.stdout, indent=1)  # fmt: skip
        print()
    else:
        _show(rows, engines)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
