"""A repository in a folder, `chunks/<aa>/<sha256>`, and bundles for a sweep to update between."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import get_ident

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from edge_runtime.messages.fleet import Desired, Release
from tests.fakes.bundles import noise, write_bundle
from tests.fakes.signed import SignedRepository

COMMON = noise(90_000, 1)


@dataclass(frozen=True)
class Bundle:
    """A bundle in a folder, as it is published."""

    folder: Path

    @cached_property
    def manifest_bytes(self) -> bytes:
        """As the folder has it."""
        return FolderReader(self.folder).read(MANIFEST_NAME, MAX_MANIFEST_BYTES)

    @cached_property
    def manifest(self) -> Manifest:
        """As a device reads it."""
        return Manifest.from_bytes(self.manifest_bytes)

    @cached_property
    def release(self) -> Release:
        """As a desired state names it."""
        m, entry = self.manifest, file_entry(MANIFEST_NAME, self.manifest_bytes)
        return Release(m.name, m.version, m.profile, m.size_bytes, entry)

    @property
    def digest(self) -> str:
        """Of its manifest."""
        return self.release.manifest.sha256

    @property
    def version(self) -> str:
        """Of the bundle."""
        return self.manifest.version

    def chunks(self) -> dict[str, bytes]:
        """Every chunk by digest, the manifest's included."""
        reader = FolderReader(self.folder)
        found: dict[str, bytes] = {}
        for entry in (self.release.manifest, *self.manifest.files):
            data = reader.read(entry.path, MAX_MANIFEST_BYTES + entry.size_bytes)
            found |= {chunk.sha256: bytes(piece) for chunk, piece in entry.cut(data)}
        return found


class Repository:
    """A folder, made if need be, with signed metadata. `first_root` is what a device is given."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.first_root = root / "first-root.json"
        self._signed = SignedRepository(now_s=time.time())
        self._signed.write(root)
        self.first_root.write_bytes(self._signed.files["1.root.json"])

    def sign(self, *, rotate: bool = False) -> None:
        """Sign what was made since; with other keys from now on where they `rotate`."""
        if rotate:
            for role in ("root", "timestamp"):
                self._signed.rotate(role, f"{role}-{self._signed.root.version}")
            self._signed.publish("root")
        self._signed.publish()
        self._signed.write(self.root)

    def bundle(self, version: str, *, size: int = 70_000, seed: int = 0) -> Bundle:
        """A small new bundle, to be signed. All share `COMMON`, none shares its `head.bin`."""
        contents = {
            "model.onnx": COMMON,
            "litert/model.tflite": noise(size, seed or sum(version.encode())),
            "tokenizer.json": b"{}",
            "golden.safetensors": noise(500, 3),
            "head.bin": version.encode() * 50,
            "empty.txt": b"",
        }
        folder = self.root / "bundles" / version
        write_bundle(folder, contents, version=version)
        made = Bundle(folder)
        for digest, data in made.chunks().items():
            path = self.root / "chunks" / digest[:2] / digest
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self._signed.add(made.release.file, made.manifest_bytes)
        return made

    def desire(self, made: Bundle, *, attempt: int = 0) -> Path:
        """A file with the desired state that names `made`."""
        path = self.root / "desired" / f"{made.version}-{attempt}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            # Several devices run at a time: none may read half of it.
            whole = path.with_suffix(f".{get_ident()}")
            whole.write_bytes(Desired(1, made.release, attempt).to_bytes())
            whole.replace(path)
        return path
