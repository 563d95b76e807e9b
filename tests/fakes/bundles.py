"""Small bundles for tests: a manifest that is valid in every field, and its files."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest

DIGEST = "ab" * 32


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size)


FILES: Mapping[str, bytes] = {
    "model.onnx": noise(200_000, 1),
    "litert/model.tflite": noise(3_000, 2),
    "tokenizer.json": b"{}",
    "golden.safetensors": noise(500, 3),
    "empty.txt": b"",
}


def manifest_json(contents: Mapping[str, bytes] = FILES, **changed: Any) -> dict[str, Any]:
    """What a manifest decodes to; `changed` replaces top-level fields."""
    unknown = {"value": None, "evidence": "unknown", "where": ""}

    def variant(name: str, backend: str, file: str) -> dict[str, Any]:
        return {
            "id": name,
            "backend": backend,
            "file": file,
            "precision": "w8a8",
            "providers": ["CPUExecutionProvider"],
            "options": {"session.intra_op.allow_spinning": "0"},
            "signatures": [{"name": "tokens_16", "dims": {"sequence": 16}}],
            "needs": {"ram_bytes": 1000, "cpu_features": ["avx2"], "driver": ""},
            "latency_ms": {"value": 2.5, "evidence": "measured", "where": "this machine"},
            "memory_bytes": unknown,
            "placement": {
                "accelerator": "cpu",
                "share": {"value": 1.0, "evidence": "measured", "where": ""},
                "off": [["node_7", "no kernel"]],
            },
            "tolerance": {"metric": "cosine", "floor": 0.99},
        }

    value: dict[str, Any] = {
        "format": 1,
        "name": "demo",
        "version": "1.0.0",
        "created": "2026-11-24T00:00:00Z",
        "task": "text-classification",
        "profile": "generic-x86_64",
        "profile_sha256": DIGEST,
        "inputs": [
            {
                "name": "input_ids",
                "dtype": "int64",
                "shape": ["batch", "sequence"],
                "layout": None,
                "quantization": None,
            }
        ],
        "outputs": [
            {
                "name": "logits",
                "dtype": "int8",
                "shape": ["batch", 15],
                "layout": "NC",
                "quantization": {"scale": [0.5], "zero_point": [3], "axis": None},
            }
        ],
        "preprocess": [
            {"step": "tokenize", "options": {"file": "tokenizer.json", "max_length": 128}}
        ],
        "postprocess": [{"step": "softmax", "options": {}}],
        "variants": [
            variant("litert-cpu", "litert", "litert/model.tflite"),
            variant("ort-cpu", "onnxruntime", "model.onnx"),
        ],
        "golden": {"file": "golden.safetensors", "cases": 2, "raw": ["one", "two"]},
        "quality": {
            "metric": "accuracy",
            "reference": 0.75,
            "bundle": 0.745,
            "n": 3144,
            "interval": [0.73, 0.76],
            "data_sha256": DIGEST,
        },
        "files": [file_entry(path, data).as_json() for path, data in contents.items()],
        "provenance": {
            "source": "all-MiniLM-L6-v2",
            "source_sha256": DIGEST,
            "licence": "Apache-2.0",
            "recipe_sha256": DIGEST,
            "tools": {"torch": "2.13.0"},
        },
    }
    return value | changed


BOARDS: Mapping[str, tuple[str, str, str]] = {
    "pc-litert": ("generic-x86_64", "litert", "pc/model.tflite"),
    "pc-ort": ("generic-x86_64", "onnxruntime", "pc/model.onnx"),
    "pi-ort": ("raspberry-pi-5", "onnxruntime", "pi/model.onnx"),
}
"""Variants of a bundle for two boards: by id, for which one, the engine, the file."""


def variants_for_boards() -> list[Any]:
    """`BOARDS` as a manifest has them, for `changed["variants"]`."""
    like = manifest_json()["variants"][0]
    return [
        {**like, "id": name, "backend": backend, "file": file, "profiles": [profile],
         "needs": {}}
        for name, (profile, backend, file) in BOARDS.items()
    ]  # fmt: skip


def manifest(contents: Mapping[str, bytes] = FILES, **changed: Any) -> Manifest:
    """The same, parsed."""
    return Manifest.from_bytes(json.dumps(manifest_json(contents, **changed)).encode())


def write_bundle(
    folder: Path, contents: Mapping[str, bytes] = FILES, **changed: Any
) -> tuple[Path, Manifest]:
    """A bundle in `folder`, and its manifest."""
    made = manifest(contents, **changed)
    for path, data in {**contents, MANIFEST_NAME: made.to_bytes()}.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder, made


def write_for_boards(folder: Path, version: str = "1.0.0") -> tuple[Path, Manifest]:
    """A bundle with the variants of `BOARDS` in `folder`, and its manifest."""
    models = {file: noise(30_000, i) for i, (_, _, file) in enumerate(BOARDS.values())}
    shared = {name: FILES[name] for name in ("tokenizer.json", "golden.safetensors", "empty.txt")}
    variants = variants_for_boards()
    return write_bundle(folder, {**shared, **models}, version=version, variants=variants)


def folder_reader(folder: Path, **changed: Any) -> FolderReader:
    """A reader of a bundle that is written to `folder`."""
    return FolderReader(write_bundle(folder, **changed)[0])
