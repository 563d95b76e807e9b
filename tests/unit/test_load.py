from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import edge_runtime
from edge_runtime.bundle.archive import FolderReader, pack
from edge_runtime.errors import IncompatibleError, InputError, UntrustedError
from edge_runtime.inference.backend import BACKENDS
from edge_runtime.inference.tasks.results import Classification
from tests.fakes.engine import BACKEND, FakeBackend, fake_bundle, fake_variant
from tests.fakes.tiny import TEXTS, variant_json


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(BACKENDS, "fake", BACKEND)
    monkeypatch.setattr(FakeBackend, "sessions", [])
    folder = tmp_path / "bundle"
    fake_bundle(
        folder,
        [variant_json("first", "fake.bin", backend="abacus"), fake_variant("a"), fake_variant("b")],
    )
    return folder


def test_a_text_has_a_result_and_a_list_has_a_list(bundle: Path) -> None:
    model = edge_runtime.load(bundle)
    one = model(TEXTS[0])
    assert isinstance(one, Classification)
    assert model([TEXTS[0], TEXTS[1]]) == [one, model(TEXTS[1])]
    assert model.takes == "text"


@pytest.mark.parametrize("given", [None, 3, b"x", {"a"}, {"text": "a"}])
def test_what_is_no_text_is_told_in_a_sentence(bundle: Path, given: Any) -> None:
    with edge_runtime.load(bundle) as model:
        with pytest.raises(InputError, match="text: expected a string, found "):
            model(given)
        with pytest.raises(InputError, match="expected a string, found NoneType"):
            model([None])


def test_a_folder_and_its_archive_give_the_same_model(bundle: Path, tmp_path: Path) -> None:
    archive = tmp_path / "tiny.edge"
    pack(FolderReader(bundle), archive)
    assert edge_runtime.load(str(archive))(TEXTS) == edge_runtime.load(bundle)(TEXTS)


def test_the_first_variant_whose_engine_is_here_runs(bundle: Path) -> None:
    assert edge_runtime.load(bundle).variant.id == "a"


def test_a_variant_can_be_named(bundle: Path) -> None:
    assert edge_runtime.load(bundle, variant="b").variant.id == "b"
    with pytest.raises(InputError, match="no variant 'c', there are first, a, b"):
        edge_runtime.load(bundle, variant="c")


def test_a_profile_must_be_the_bundles(bundle: Path) -> None:
    with pytest.raises(IncompatibleError, match="no variant fits profile generic-x86_64"):
        edge_runtime.load(bundle, profile="generic-x86_64")
    with pytest.raises(IncompatibleError, match="this device is raspberry-pi-5"):
        edge_runtime.load(bundle, profile="raspberry-pi-5")
    with pytest.raises(InputError, match="'toaster' is not known"):
        edge_runtime.load(bundle, profile="toaster")


def test_where_nothing_runs_each_variant_has_its_reason(tmp_path: Path) -> None:
    fake_bundle(tmp_path, [fake_variant("a"), variant_json("b", "fake.bin", backend="abacus")])
    with pytest.raises(IncompatibleError, match=r"a: backend .fake. is .*; b: backend .abacus."):
        edge_runtime.load(tmp_path)


def test_a_file_that_is_not_what_the_manifest_says_is_not_loaded(bundle: Path) -> None:
    (bundle / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(UntrustedError, match=r"tokenizer\.json"):
        edge_runtime.load(bundle)


def test_what_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        edge_runtime.load(tmp_path / "nowhere")


def test_leaving_the_block_closes_the_model(bundle: Path) -> None:
    with edge_runtime.load(bundle) as model:
        assert repr(model) == "<Model tiny 1.0.0, variant a>"
        assert model.manifest.task == "text-classification"
        assert model.accelerator.degraded == ""
    assert FakeBackend.sessions[-1].closed == 1


def test_importing_the_package_loads_no_numpy_and_no_engine() -> None:
    code = "import edge_runtime, sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"numpy", "onnxruntime", "ai_edge_litert", "tflite_runtime", "tokenizers"}
