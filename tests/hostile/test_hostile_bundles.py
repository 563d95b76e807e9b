"""Every malformation of manifest, archive and folder is refused with the error that it deserves."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from edge_runtime.bundle.archive import open_bundle, pack
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.store import ChunkStore, StoreReader
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import EdgeError, IncompatibleError
from edge_runtime.inference.backend import BACKENDS
from edge_runtime.inference.pipeline import Pipeline
from edge_runtime.inference.selftest import self_test
from edge_runtime.profile import load_profile
from tests.fakes.bundles import folder_reader, manifest_json
from tests.fakes.engine import BACKEND, fake_golden, fake_variant
from tests.fakes.tiny import tiny_bundle
from tests.hostile.attack import Attack
from tests.hostile.bundles import ALL, BundleAttack
from tests.hostile.manifests import MANIFEST_ATTACKS


@pytest.mark.parametrize("attack", MANIFEST_ATTACKS, ids=lambda attack: attack.name)
def test_a_hostile_manifest_is_refused(attack: Attack, tmp_path: Path) -> None:
    data = attack.build()
    assert attack.error is not None
    with pytest.raises(attack.error, match=re.escape(attack.says)) as caught:
        Manifest.from_bytes(data)
    assert type(caught.value) is attack.error
    assert len(str(caught.value)) < 1000
    with pytest.raises(attack.error):
        StoreReader(ChunkStore(tmp_path), data)


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_a_hostile_bundle_is_refused(attack: BundleAttack, tmp_path: Path) -> None:
    path = attack.build(tmp_path)
    with pytest.raises(attack.error, match=re.escape(attack.says)) as caught:
        verify(open_bundle(path))
    assert type(caught.value) is attack.error


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_a_hostile_bundle_is_never_packed(attack: BundleAttack, tmp_path: Path) -> None:
    path = attack.build(tmp_path)
    with pytest.raises(attack.error):
        pack(open_bundle(path), tmp_path / "out.edge")
    assert not (tmp_path / "out.edge").exists()


def test_no_flipped_bit_of_an_archive_goes_unnoticed_but_in_times_and_versions(
    tmp_path: Path,
) -> None:
    pack(folder_reader(tmp_path / "b"), tmp_path / "b.edge")
    sound = (tmp_path / "b.edge").read_bytes()
    manifest_sha256 = verify(open_bundle(tmp_path / "b.edge")).manifest_sha256
    rng = random.Random(7)
    places = [rng.randrange(len(sound)) for _ in range(200)]
    places += range(len(sound) - 500, len(sound))
    unnoticed = 0
    for place in places:
        data = bytearray(sound)
        data[place] ^= 1 << rng.randrange(8)
        (tmp_path / "bad.edge").write_bytes(data)
        try:
            verify(open_bundle(tmp_path / "bad.edge"), manifest_sha256=manifest_sha256)
            unnoticed += 1
        except EdgeError:
            pass
    # Six entries with two versions, a time, a date, and attributes that are no file type.
    assert unnoticed <= 6 * (2 + 2 + 4 + 8)


@pytest.mark.parametrize(
    ("path", "left"), [("model.onnx", ["litert/model.tflite"]), ("tokenizer.json", [])]
)
def test_a_chunk_repeated_until_its_file_fills_the_memory_is_refused_before_it_is_fetched(
    path: str, left: list[str]
) -> None:
    times = 10_000
    files = manifest_json()["files"]
    for file in files:
        if file["path"] == path:
            file |= {"size_bytes": times << 17, "chunks": [["ab" * 32, 1 << 17]] * times}
    bomb = Manifest.from_bytes(json.dumps(manifest_json(files=files)).encode())
    board = dataclasses.replace(
        load_profile("generic-x86_64"), ram_bytes=1 << 30, cpu_features=("avx2",)
    )
    if left:
        assert [variant.file for variant in board.fits(bomb)] == left
        return
    with pytest.raises(IncompatibleError, match="has a file of 1310720000 bytes, the board has"):
        board.fits(bomb)


def test_a_golden_case_longer_than_the_model_reads_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "fake", BACKEND)
    tensors = fake_golden()
    for name in ("input_ids", "attention_mask"):
        tensors[f"3.{name}"] = np.ones((1, 100_000), dtype=np.int64)
    replace = {"fake.bin": b"fake", "golden.safetensors": save(tensors)}
    bundle = tiny_bundle(tmp_path, [fake_variant()], replace)
    pipeline = Pipeline.open(bundle, bundle.manifest.variants[0])
    report = self_test(bundle, pipeline)
    assert (report.passed, report.cases) == (False, 0)
    assert report.reason == "golden case 3: input_ids has 100000 tokens, at most 128 are read"
