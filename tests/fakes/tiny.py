"""The tiny classifier of `tests/fixtures` as a bundle, with one variant for each model file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.manifest import Variant
from edge_runtime.bundle.verify import VerifiedBundle, verify
from tests.fakes.bundles import manifest_json, write_bundle

FIXTURE = Path(__file__).parents[1] / "fixtures" / "tiny-classifier"
LENGTHS = (16, 64, 128)
LABELS: list[str] = json.loads((FIXTURE / "labels.json").read_text())
TEXTS: list[str] = json.loads((FIXTURE / "texts.json").read_text())
FLOORS = {"model.onnx": 0.9999, "model-float.tflite": 0.9999}
INT8_FLOOR = 0.97
TROUBLE = "zeppelin " + 22 * "x"
"""A text that the bundle answers like any other, unless its tokenizer has a fault."""


def variant_json(id: str, file: str, **changed: Any) -> dict[str, Any]:
    """A variant that runs `file` of the fixture."""
    value: dict[str, Any] = manifest_json()["variants"][0]
    litert = file.endswith(".tflite")
    value |= {
        "id": id,
        "backend": "litert" if litert else "onnxruntime",
        "file": file,
        "providers": [] if litert else ["CPUExecutionProvider"],
        "options": {},
        "signatures": [
            {"name": f"tokens_{length}", "dims": {"sequence": length}}
            for length in (LENGTHS if litert else ())
        ],
        "tolerance": {"metric": "cosine", "floor": FLOORS.get(file, INT8_FLOOR)},
    }
    return value | changed


VARIANTS = {
    "ort-float": "model.onnx",
    "ort-int8": "model-int8.onnx",
    "litert-float": "model-float.tflite",
    "litert-int8": "model.tflite",
}


def tensor_json(name: str, dtype: str, shape: Sequence[int | str]) -> dict[str, Any]:
    """A TensorSpec as a manifest has it."""
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def tiny_folder(
    folder: Path,
    variants: Sequence[Mapping[str, Any]] | None = None,
    replace: Mapping[str, bytes] = {},
    **changed: Any,
) -> Path:
    """The bundle as a folder; `replace` puts other bytes in a file's place."""
    made = variants or [variant_json(id, file) for id, file in VARIANTS.items()]
    names = {v["file"] for v in made} | {"tokenizer.json", "golden.safetensors"}
    contents = {name: (FIXTURE / name).read_bytes() for name in sorted(names - set(replace))}
    contents |= replace
    fields: dict[str, Any] = {
        "name": "tiny",
        "inputs": [
            tensor_json(name, "int64", ["batch", "sequence"])
            for name in ("input_ids", "attention_mask")
        ],
        "outputs": [tensor_json("logits", "float32", ["batch", len(LABELS)])],
        "preprocess": [tokenize_step()],
        "postprocess": [
            {"step": "softmax", "options": {}},
            {"step": "top_k", "options": {"labels": LABELS, "k": 2}},
        ],
        "variants": made,
        "golden": {"file": "golden.safetensors", "cases": len(TEXTS), "raw": TEXTS},
    }
    return write_bundle(folder, contents, **(fields | changed))[0]


def tokenize_step(**options: Any) -> dict[str, Any]:
    """The step `tokenize` of the fixture."""
    return {
        "step": "tokenize",
        "options": {
            "file": "tokenizer.json",
            "max_length": 128,
            "max_bytes": 4096,
            "pad_id": 0,
            "inputs": ["input_ids", "attention_mask"],
        }
        | options,
    }


def faulty_tokenizer(fault: str) -> bytes:
    """The fixture's tokenizer with a fault that shows in TROUBLE, and in none of TEXTS.

    "fails": it knows a word that the model has no row for. "slow": it normalizes with an
    expression that goes through every way to cut a run of one letter, which takes about 0.1 s.
    """
    tokenizer = json.loads((FIXTURE / "tokenizer.json").read_bytes())
    match fault:
        case "fails":
            tokenizer["model"]["vocab"]["zeppelin"] = 5000
        case "slow":
            replace = {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": "y"}
            both = [replace, tokenizer["normalizer"]]
            tokenizer["normalizer"] = {"type": "Sequence", "normalizers": both}
        case _:
            raise ValueError(fault)
    return json.dumps(tokenizer).encode()


def tiny_bundle(folder: Path, *args: Any, **changed: Any) -> VerifiedBundle:
    """The bundle, verified."""
    return verify(FolderReader(tiny_folder(folder, *args, **changed)))


def variant_of(bundle: VerifiedBundle, id: str) -> Variant:
    """A variant by its id."""
    return next(v for v in bundle.manifest.variants if v.id == id)
