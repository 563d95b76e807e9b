"""The jobs of TensorFlow's process: `hello`, then `open` once, then `run`, `tflite` and `onnx`.

An error of a toolchain is reduced to the line that says something.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from converters.tensorflow import emit
from converters.tensorflow.opened import Opened, open_model
from converters.tensorflow.ways import Way
from converters.toolchain import answer_all
from edge_runtime.errors import EdgeError
from edge_runtime.text import plain

MAX_REASON = 280
LACKING = re.compile(r"(?:TF Select|Custom) ops: *([A-Za-z0-9_, ]+)")
PLACE = re.compile(r"^.*?error: (?:loc\(.*?\)+: )?")
LOOP = "TFLite wants a fixed batch in a loop; save with a batch of 1, or open the .keras file"
NOISE = re.compile(r"^(<unknown>:0|loc\(|\s|Traceback)")


class Worker:
    """The jobs, and the model that is open."""

    def __init__(self) -> None:
        self._model: Opened | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one job. Raises whatever a toolchain raises."""
        jobs: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "hello": self._hello,
            "open": self._open,
            "run": self._run,
            "tflite": self._tflite,
            "onnx": self._onnx,
        }
        return jobs[request["job"]](request)

    def _hello(self, _request: dict[str, Any]) -> dict[str, Any]:
        import keras
        import tensorflow as tf

        return {"tensorflow": tf.__version__, "keras": keras.__version__}

    def _open(self, request: dict[str, Any]) -> dict[str, Any]:
        shapes = {name: tuple(shape) for name, shape in request["shapes"].items()}
        self._model = open_model(Path(request["path"]), shapes, request["signature"])
        return self._model.told()

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        outputs = self._opened.run(_arrays(request["feeds"]))
        np.savez(request["answers"], **{str(i): one for i, one in enumerate(outputs)})
        return {}

    def _tflite(self, request: dict[str, Any]) -> dict[str, Any]:
        samples = _arrays(request["samples"]) if request["samples"] else []
        data = emit.tflite(self._opened, Way(**request["way"]), samples)
        Path(request["file"]).write_bytes(data)
        return {}

    def _onnx(self, request: dict[str, Any]) -> dict[str, Any]:
        Path(request["file"]).write_bytes(emit.onnx(self._opened, request["opset"]))
        return {}

    @property
    def _opened(self) -> Opened:
        if self._model is None:
            raise RuntimeError("no model is open")
        return self._model


def _arrays(path: str) -> list[Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return [arrays[str(i)] for i in range(len(arrays.files))]


def reduced(reason: BaseException) -> str:
    """The part of a toolchain's error that a person can use, on one line."""
    text = str(reason)
    if isinstance(reason, EdgeError):
        return text
    if lacking := LACKING.findall(text):
        names = sorted({name.strip() for part in lacking for name in part.split(",")} - {""})
        return f"TFLite has no operator for {', '.join(names)}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error: " in line]
    telling = errors or [line for line in lines if not NOISE.match(line)] or lines
    first = PLACE.sub("", telling[0]) if telling else type(reason).__name__
    if "TensorList" in first:
        return f"{plain(first, MAX_REASON)}: {LOOP}"
    first = re.split(r"(?<=[a-z)`'\"])[.:] (?:Make sure|This carries|Full object)", first)[0]
    return plain(first.rstrip("."), MAX_REASON)


def main() -> int:
    """Answer until the input ends. Returns the exit code."""
    return answer_all(Worker().answer, reduced)


if __name__ == "__main__":
    sys.exit(main())
