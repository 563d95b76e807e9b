"""The side of the protocol that runs in a tool's own environment.

    python -m benchmarks.compression.peer build MODULE VARIANT INPUTS.json OUT
    python -m benchmarks.compression.peer serve MODULE VARIANT FOLDER

`build` makes the tool's model file in OUT and prints one line of JSON. `serve` loads it, prints
one line, and then answers each line of JSON on stdin with one on stdout:

    {"op": "answer", "rows": "rows.npz", "out": "answers.npy"}   → {"rows": 3144}
    {"op": "time", "length": 128, "runs": 6}                     → {"ms": [4.5, …]}

A line with "error" tells what failed. MODULE is one of `benchmarks.compression.peers`. Everything
that a toolchain prints goes to stderr, so that stdout holds the protocol alone. Nothing here
imports anything but numpy: environments have little in common.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from benchmarks.compression.rows import FloatArray, Ids, Rows, load_rows

PEERS = "benchmarks.compression.peers"
ORDINARY_ID = 7
"""Any token: latency does not depend on which words they are."""
MAX_TOLD = 300


@dataclass(frozen=True, slots=True)
class Inputs:
    """What every tool may build from. `onnx` is the float model, its batch and sequence free.

    `encoder` is the Hugging Face folder and `head` the linear head on it, None for embeddings;
    `lengths` are the token counts of tools whose shapes are fixed, the longest is the limit.
    """

    onnx: Path
    encoder: Path
    head: Path | None
    calibration: Path
    architecture: str
    heads: int
    hidden: int
    pad_id: int
    lengths: tuple[int, ...]

    def to_json(self) -> str:
        """The text that `from_json` reads."""
        return json.dumps(
            {
                name: str(value) if isinstance(value, Path) else value
                for name in self.__slots__
                for value in (getattr(self, name),)
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Inputs:
        """What `to_json` wrote."""
        found = json.loads(text)
        for name in ("onnx", "encoder", "head", "calibration"):
            found[name] = None if found[name] is None else Path(found[name])
        return cls(**found | {"lengths": tuple(found["lengths"])})

    def rows(self) -> Rows:
        """The calibration rows."""
        return load_rows(self.calibration)


class Runner(Protocol):
    """A loaded model: one text's ids, int64, shape (tokens,) → its output, shape (width,)."""

    def __call__(self, ids: Ids, /) -> FloatArray: ...


class Module(Protocol):
    """What a module of `peers` offers.

    `BUILDS` maps a variant to the function that writes its files into a folder. `load` opens the
    folder; `files` lists what a device needs of it. A module whose models have a tokenizer of
    their own also has `tokens(folder)`, a function from a text to ids.
    """

    BUILDS: Mapping[str, Callable[[Inputs, Path], None]]

    def load(self, folder: Path, variant: str) -> Runner: ...

    def files(self, folder: Path, variant: str) -> list[Path]: ...


def build(module: Module, variant: str, inputs: Path, out: Path) -> dict[str, Any]:
    """Build and tell the size in bytes and the largest memory of this process."""
    module.BUILDS[variant](Inputs.from_json(inputs.read_text()), out)
    made = module.files(out, variant)
    return {
        "files": [path.name for path in made],
        "size_bytes": sum(path.stat().st_size for path in made),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def serve(module: Module, variant: str, folder: Path, requests: TextIO, replies: TextIO) -> None:
    """Answer requests until stdin ends."""
    runner = module.load(folder, variant)
    tokens = getattr(module, "tokens", lambda _: None)(runner)
    _tell(replies, {"loaded": variant})
    for line in requests:
        request = json.loads(line)
        try:
            reply = OPS[request.pop("op")](runner, tokens, **request)
        except Exception as reason:  # of any toolchain: no common base
            reply = {"error": told(reason)}
        _tell(replies, reply)


def _answer(
    runner: Runner, tokens: Callable[[str], Ids] | None, rows: str, out: str
) -> dict[str, Any]:
    asked = load_rows(Path(rows))
    ids = asked.ids if tokens is None else tuple(tokens(text) for text in asked.texts)
    np.save(out, np.stack([runner(row) for row in ids]).astype(np.float32))
    return {"rows": len(ids)}


def _time(runner: Runner, _: object, length: int, runs: int) -> dict[str, Any]:
    ids = np.full(length, ORDINARY_ID, dtype=np.int64)
    taken_ms = []
    for _turn in range(runs):
        started = time.perf_counter()
        runner(ids)
        taken_ms.append(1000 * (time.perf_counter() - started))
    return {"ms": taken_ms}


OPS: Mapping[str, Callable[..., dict[str, Any]]] = {"answer": _answer, "time": _time}


def told(reason: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(reason).split())
    return f"{type(reason).__name__}: {text}"[:MAX_TOLD]


def peak_rss_bytes() -> int:
    """The largest resident memory of this process so far; 0 where the kernel does not tell.

    `getrusage` would not do: it still counts the memory of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def _tell(replies: TextIO, reply: Mapping[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _own_stdout() -> TextIO:
    """The protocol's stdout; whatever else writes to descriptor 1 lands in stderr."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def main(argv: list[str]) -> int:
    """Command line."""
    replies = _own_stdout()
    verb, name, variant, *paths = argv
    try:
        module: Any = importlib.import_module(f"{PEERS}.{name}")
        if verb == "build":
            _tell(replies, build(module, variant, Path(paths[0]), Path(paths[1])))
        else:
            serve(module, variant, Path(paths[0]), sys.stdin, replies)
    except Exception as reason:  # of any toolchain: no common base
        _tell(replies, {"error": told(reason)})
        raise
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
