"""Two INT8 bundles of one model: 1.0.0 runs in LiteRT, 2.0.0 in ONNX Runtime.

`minilm` is the pretrained encoder all-MiniLM-L6-v2, converted on this host by the example's own
recipe for a Raspberry Pi 5, some minutes the first time; `tiny` is the classifier of the tests,
which needs no conversion. Both carry golden vectors that float models made on x86-64. An update
from one engine to the other fetches a whole model, and both engines prove themselves on ARM64.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle.archive import open_bundle
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from edge_runtime.bundle.verify import VerifiedBundle, verify
from edge_runtime.errors import DeviceError
from tests.board.image import ROOT
from tests.fakes.tiny import LABELS, tiny_folder, variant_json

PROFILE = "emulated-board"
LIKE = "raspberry-pi-5"
RECIPE = ROOT / "examples" / "debian-sections" / "recipe-embedding.toml"
ENGINES = {"1.0.0": "litert", "2.0.0": "onnxruntime"}
PREFIX = {"litert": "litert", "onnxruntime": "ort"}
MODELS = {
    "minilm": "all-MiniLM-L6-v2, 22.7 M parameters, INT8",
    "tiny": "the tests' tiny classifier, INT8",
}
SAID = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Made:
    """A bundle as a folder, with one variant."""

    folder: Path
    bundle: VerifiedBundle

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest


def make(model: str, cache: Path, folder: Path, say: SAID) -> dict[str, Made]:
    """The bundles by version, in `folder`.

    Raises:
        DeviceError: the conversion failed.
    """
    made = {}
    for version, engine in ENGINES.items():
        to = folder / version
        if model == "tiny":
            _tiny(to, version, engine)
        else:
            _one_engine(_converted(cache, say), to, version, engine)
        made[version] = Made(to, verify(open_bundle(to)))
    return made


def _tiny(to: Path, version: str, engine: str) -> None:
    file = {"litert": "model.tflite", "onnxruntime": "model-int8.onnx"}[engine]
    needs = {"ram_bytes": 1000, "cpu_features": ["asimd"], "driver": ""}
    labels = [f"{label} {version}" for label in LABELS]
    postprocess = [
        {"step": "softmax", "options": {}},
        {"step": "top_k", "options": {"labels": labels, "k": 2}},
    ]
    variants = [variant_json(f"{PREFIX[engine]}-int8", file, needs=needs)]
    tiny_folder(to, variants, {}, version=version, profile=PROFILE, postprocess=postprocess)


def _converted(cache: Path, say: SAID) -> Path:
    """The recipe's bundle, from the cache or made now."""
    folder = cache / "minilm"
    found = list(folder.glob("*.edge"))
    if not found:
        say("converting all-MiniLM-L6-v2: some minutes, once")
        command = [sys.executable, "-m", "converters.cli", "run", str(RECIPE)]
        command += ["--quick", "--profile", LIKE, "--out", str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        found = list(folder.glob("*.edge"))
        if done.returncode or not found:
            raise DeviceError(f"edge-convert: {' '.join(done.stderr.split())[-600:]}")
    return found[0]


def _one_engine(whole: Path, to: Path, version: str, engine: str) -> None:
    """The variant of `engine` alone, for this board's own profile."""
    reader = open_bundle(whole)
    value = json.loads(reader.read(MANIFEST_NAME, MAX_MANIFEST_BYTES))
    files = {one["file"] for one in value["variants"]}
    value["variants"] = [one for one in value["variants"] if one["backend"] == engine]
    value |= {"version": version, "profile": PROFILE}
    for variant in value["variants"]:
        variant.pop("profiles", None)
    unneeded = files - {one["file"] for one in value["variants"]}
    value["files"] = [one for one in value["files"] if one["path"] not in unneeded]
    manifest = Manifest.from_bytes(json.dumps(value).encode())
    for entry in manifest.files:
        path = to / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(reader.read(entry.path, entry.size_bytes))
    (to / MANIFEST_NAME).write_bytes(manifest.to_bytes())
