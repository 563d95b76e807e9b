"""Bundles that look, listen and read rows, with models that need no training.

`colours` says which of red, green and blue is most of a picture; `tones` which of two tones sounds;
`meters` and `pumps` rebuild what is in range and nothing else, so that the rest is an anomaly.
"""

from __future__ import annotations

import io
import struct
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from tests.fakes.bundles import write_bundle
from tests.fakes.onnx_files import onnx_file
from tests.fakes.tiny import tensor_json, variant_json

Floats = NDArray[np.float32]
Spec = tuple[str, list[int | str]]
COLOURS = ["red", "green", "blue"]
RATE, WINDOW = 8000, 800
TONES = {"low": 500, "high": 1500}
STREAM = {"hop_ms": 20, "smooth_ms": 60, "threshold": 0.6, "suppress_ms": 200}
CLIP = 80
"""Samples of a pump's window."""


def step(name: str, **options: Any) -> dict[str, Any]:
    return {"step": name, "options": options}


def _bundle(
    folder: Path,
    task: str,
    model: bytes,
    takes: Spec,
    gives: Spec,
    golden: tuple[Floats, Floats],
    steps: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    **changed: Any,
) -> Path:
    contents: Mapping[str, bytes] = {
        "model.onnx": model,
        "golden.safetensors": save({f"0.{takes[0]}": golden[0], f"0.{gives[0]}": golden[1]}),
    }
    fields: dict[str, Any] = {
        "name": folder.name,
        "task": task,
        "inputs": [tensor_json(takes[0], "float32", takes[1])],
        "outputs": [tensor_json(gives[0], "float32", gives[1])],
        "preprocess": steps[0],
        "postprocess": steps[1],
        "variants": [variant_json("ort", "model.onnx")],
        "golden": {"file": "golden.safetensors", "cases": 1, "raw": []},
    }
    return write_bundle(folder, contents, **(fields | changed))[0]


def colours(folder: Path, **changed: Any) -> Path:
    """Takes JPEG and PNG."""
    takes: Spec = ("pixels", ["batch", 3, 4, 4])
    gives: Spec = ("logits", ["batch", 3])
    nodes = [
        ("GlobalAveragePool", ["pixels"], "means"),
        ("Flatten", ["means"], "flat"),
        ("MatMul", ["flat", "w"], "logits"),
    ]
    model = onnx_file(takes, gives, nodes, {"w": 10 * np.eye(3, dtype=np.float32)})
    pixels = np.zeros((1, 3, 4, 4), np.float32)
    pixels[:, 0] = 1
    before = [
        step("decode_image"),
        step("resize", width=4, height=4),
        step("normalize", scale=1 / 255, mean=[0], std=[1], input="pixels"),
    ]
    after = [step("softmax"), step("top_k", labels=COLOURS, k=3)]
    golden = pixels, np.array([[10, 0, 0]], np.float32)
    return _bundle(folder, "image-classification", model, takes, gives, golden, (before, after),
                   **changed)  # fmt: skip


def tones(folder: Path, stream: Mapping[str, Any] | None = STREAM, **changed: Any) -> Path:
    """Takes WAV of 8 kHz, a window of 0.1 s; its labels are `_silence_`, low and high."""
    takes: Spec = ("sound", ["batch", WINDOW])
    gives: Spec = ("logits", ["batch", 3])
    angle = 2 * np.pi * np.arange(WINDOW)[:, None] * np.array(list(TONES.values())) / RATE
    basis = 2 / WINDOW * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    weights = {
        "basis": basis.astype(np.float32),
        "w": np.array([[0, 80, 0], [0, 0, 80]] * 2, np.float32),
        "b": np.array([0, -4, -4], np.float32),
    }
    nodes = [
        ("MatMul", ["sound", "basis"], "parts"),
        ("Mul", ["parts", "parts"], "energies"),
        ("MatMul", ["energies", "w"], "scaled"),
        ("Add", ["scaled", "b"], "logits"),
    ]
    before = [
        step("decode_audio", sample_rate=RATE, samples=WINDOW),
        step("audio_tensor", input="sound"),
    ]
    after = [step("softmax"), step("top_k", labels=["_silence_", *TONES], k=2)]
    if stream is not None:
        after.append(step("stream", **stream))
    golden = np.zeros((1, WINDOW), np.float32), np.array([[0, -4, -4]], np.float32)
    model = onnx_file(takes, gives, nodes, weights)
    return _bundle(folder, "audio-classification", model, takes, gives, golden, (before, after),
                   **changed)  # fmt: skip


def _rebuilds(takes: Spec, top: float) -> bytes:
    bounds = {"low": np.array(-top, np.float32), "top": np.array(top, np.float32)}
    nodes = [("Clip", [takes[0], "low", "top"], "rebuilt")]
    return onnx_file(takes, ("rebuilt", takes[1]), nodes, bounds)


def meters(folder: Path, window: int = 4, hop: int = 0, **changed: Any) -> Path:
    """Takes rows of heat (30 is the mean, 10 the standard deviation) and state, `window` at once.

    What is within one standard deviation of heat is as it should be.
    """
    columns = [
        {"name": "heat", "mean": 30, "std": 10},
        {"name": "state", "categories": ["off", "on"]},
    ]
    shape = (window, 3) if window else (3,)
    takes: Spec = ("rows", ["batch", *shape])
    zeros = np.zeros((1, *shape), np.float32)
    before = [step("columns", columns=columns, window=window, input="rows")]
    after = [step("anomaly", threshold=0.1, hop=hop)]
    return _bundle(folder, "anomaly-detection", _rebuilds(takes, 1.0), takes,
                   ("rebuilt", takes[1]), (zeros, zeros), (before, after), **changed)  # fmt: skip


def pumps(folder: Path, hop: int = 0, samples: int = CLIP, **changed: Any) -> Path:
    """Takes WAV of 8 kHz, 80 samples at once; what is louder than 0.5 is an anomaly."""
    takes: Spec = ("sound", ["batch", CLIP])
    zeros = np.zeros((1, CLIP), np.float32)
    before = [
        step("decode_audio", sample_rate=RATE, samples=samples, max_seconds=5),
        step("audio_tensor", input="sound"),
    ]
    after = [step("anomaly", threshold=0.01, hop=hop)]
    return _bundle(folder, "anomaly-detection", _rebuilds(takes, 0.5), takes, ("rebuilt", takes[1]),
                   (zeros, zeros), (before, after), **changed)  # fmt: skip


def tone(name: str, seconds: float, loud: float = 0.5) -> Floats:
    """One of TONES, or silence."""
    t = np.arange(round(seconds * RATE))
    wave = np.sin(2 * np.pi * TONES.get(name, 0) * t / RATE)
    return (loud * wave).astype(np.float32)


def sound(*parts: tuple[str, float]) -> Floats:
    """Tones and silences one after the other."""
    return np.concatenate([tone(*part) for part in parts])


def pcm(samples: Floats) -> bytes:
    """16-bit little-endian, as a microphone has it."""
    return np.rint(samples * 32767).astype("<i2").tobytes()


def wav(samples: Floats, rate: int = RATE) -> bytes:
    """A WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm(samples))
    return out.getvalue()


def png(colour: tuple[int, int, int], size: int = 8) -> bytes:
    """A picture of one colour, without Pillow."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = (b"\0" + bytes(colour) * size) * size
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
