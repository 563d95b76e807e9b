"""Small models as somebody may bring them, with data that they are right about."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.converters.small import PROFILE

BOARD = PROFILE.replace("smooth_dynamic", "dynamic").replace("[16, 48]", "[16]")
PASSES = """
[[pass]]
kind = "export"

[[pass]]
kind = "quantize"

[[pass]]
kind = "verify"
max_drop = 0.05
latency_runs = 3
golden_cases = 3

[[pass]]
kind = "package"
"""


def save_onnx(
    path: Path,
    weights: Mapping[str, Any],
    nodes: Sequence[Any],
    given: tuple[str, Sequence[int | str]],
    made: tuple[str, Sequence[int | str]],
    *,
    opset: int = 17,
) -> Path:
    """An ONNX file of float32 with one input and one output."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(given[0], TensorProto.FLOAT, given[1])],
        [helper.make_tensor_value_info(made[0], TensorProto.FLOAT, made[1])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, path)
    return path


def linear(path: Path, matrix: Any, *, batch: int | str = "N", bias: Any = None) -> Path:
    """An affine map, x @ matrix + bias, through 64 columns so that there is something to round."""
    wide = np.eye(len(matrix), 64, dtype=np.float32)
    back = np.zeros((64, np.shape(matrix)[1]), dtype=np.float32)
    back[: len(matrix)] = matrix
    width = np.shape(matrix)[1]
    weights = {
        "wide": wide,
        "back": back,
        "bias": np.zeros(width, np.float32) if bias is None else bias,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "wide"], ["h"], "up"),
        helper.make_node("MatMul", ["h", "back"], ["z"], "down"),
        helper.make_node("Add", ["z", "bias"], ["y"], "add"),
    ]
    shape = [batch, len(matrix)]
    return save_onnx(path, weights, nodes, ("x", shape), ("y", [batch, np.shape(matrix)[1]]))


def brightness(path: Path, *, batch: int | str = "N") -> Path:
    """Pictures of 8 × 8, three channels: which channel is brightest, by a convolution."""
    kernel = np.zeros((3, 3, 3, 3), dtype=np.float32)
    for channel in range(3):
        kernel[channel, channel, 1, 1] = 1
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["y"], "flat"),
    ]
    return save_onnx(path, {"kernel": kernel}, nodes, ("x", [batch, 3, 8, 8]), ("y", [batch, 3]))


def write_pictures(folder: Path, each: int, seed: int) -> Path:
    """A folder for each colour, with PNG files of 10 × 12 in that colour and noise."""
    rng = np.random.default_rng(seed)
    for place, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 100, (10, 12, 3), dtype=np.uint8)
            pixels[..., place] += 120
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def write_rows(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def wav(samples: Any, rate: int = 8000) -> bytes:
    """A mono WAV file of 16 bits; samples are -1..1."""
    data = (np.asarray(samples) * 32767).astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data))
    return b"RIFF" + struct.pack("<I", len(body) + len(data)) + body + data


def recipe(folder: Path, task: str, model: str, *, head: str = "", data: str = "") -> Path:
    """A recipe in `folder` and a board beside it; `head`: keys at its top, `data`: of the data."""
    (folder / "board.toml").write_text(BOARD)
    path = folder / "recipe.toml"
    path.write_text(
        f'name = "brought"\nversion = "1.0.0"\ntask = "{task}"\n'
        'created = "2026-01-02T03:04:05Z"\nseed = 1\n'
        f'{head}\n[source]\nmodel = "{model}"\n\n'
        f"[data]\n{data or DATA}\n{PASSES}"
    )
    return path


DATA = 'calibration = "calibration"\ntest = "test"'
JSONL = 'calibration = "calibration.jsonl"\ntest = "test.jsonl"'
