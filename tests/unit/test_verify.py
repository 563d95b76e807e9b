"""From a reader to a VerifiedBundle, and no other way."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.bundle.archive import open_bundle, pack
from edge_runtime.bundle.files import sha256_hex
from edge_runtime.bundle.manifest import MANIFEST_NAME
from edge_runtime.bundle.verify import VerifiedBundle, verify
from edge_runtime.errors import IncompatibleError, UntrustedError
from tests.fakes.bundles import FILES, folder_reader, manifest_json, write_bundle


def test_a_bundle_of_our_own_is_verified(tmp_path: Path) -> None:
    folder, manifest = write_bundle(tmp_path / "b")
    bundle = verify(open_bundle(folder), manifest_sha256=sha256_hex(manifest.to_bytes()))
    assert bundle.manifest == manifest
    assert bundle.manifest_sha256 == sha256_hex(manifest.to_bytes())
    assert {path: bundle.read(path) for path in FILES} == FILES


def test_a_packed_bundle_is_verified_too(tmp_path: Path) -> None:
    pack(folder_reader(tmp_path / "b"), tmp_path / "b.edge")
    assert verify(open_bundle(tmp_path / "b.edge")).read("empty.txt") == b""


def test_another_manifest_than_expected_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    reader = folder_reader(tmp_path / "b")
    (tmp_path / "b" / MANIFEST_NAME).write_bytes(b"not even JSON")
    with pytest.raises(UntrustedError, match=r"manifest.json has digest .* expected abab"):
        verify(reader, manifest_sha256="ab" * 32)


@pytest.mark.parametrize("path", [path for path, data in FILES.items() if data])
def test_any_file_that_differs_is_refused(tmp_path: Path, path: str) -> None:
    reader = folder_reader(tmp_path / "b")
    data = bytearray((tmp_path / "b" / path).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "b" / path).write_bytes(data)
    with pytest.raises(UntrustedError, match=f"'{path}' has digest"):
        verify(reader)


@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data[:-1]])
def test_a_file_of_another_size_is_refused(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    reader = folder_reader(tmp_path / "b")
    path = tmp_path / "b" / "golden.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UntrustedError, match=r"'golden.safetensors' has (501|499) bytes"):
        verify(reader)


def test_a_chunk_list_of_other_bytes_is_refused(tmp_path: Path) -> None:
    files = manifest_json()["files"]
    files[0]["chunks"][0][0] = "ab" * 32
    with pytest.raises(UntrustedError, match=r"'model.onnx': chunk abab.* has digest"):
        verify(folder_reader(tmp_path / "b", files=files))


def test_an_unknown_format_is_incompatible_and_not_untrusted(tmp_path: Path) -> None:
    reader = folder_reader(tmp_path / "b")
    (tmp_path / "b" / MANIFEST_NAME).write_bytes(b'{"format": 2, "what": "ever"}')
    with pytest.raises(IncompatibleError, match="format 2, this software reads 1"):
        verify(reader)


def test_each_read_checks_again(tmp_path: Path) -> None:
    bundle = verify(folder_reader(tmp_path / "b"))
    (tmp_path / "b" / "tokenizer.json").write_bytes(b"[]")
    with pytest.raises(UntrustedError, match=r"'tokenizer.json' has digest"):
        bundle.read("tokenizer.json")


def test_without_files_the_check_is_left_to_each_read(tmp_path: Path) -> None:
    reader = folder_reader(tmp_path / "b")
    (tmp_path / "b" / "model.onnx").write_bytes(b"")
    bundle = verify(reader, files=False)
    assert bundle.read("tokenizer.json") == b"{}"
    with pytest.raises(UntrustedError, match=r"'model.onnx' has 0 bytes"):
        bundle.read("model.onnx")


def test_a_path_outside_the_manifest_is_never_asked_of_the_reader(tmp_path: Path) -> None:
    bundle = verify(folder_reader(tmp_path / "b"))
    (tmp_path / "b" / "more").write_text("more")
    for path in ("more", MANIFEST_NAME, "../b/model.onnx"):
        with pytest.raises(UntrustedError, match=r"no file .* in its manifest"):
            bundle.read(path)


def test_nobody_else_makes_a_verified_bundle(tmp_path: Path) -> None:
    folder, manifest = write_bundle(tmp_path / "b")
    with pytest.raises(RuntimeError, match="only verify"):
        VerifiedBundle(manifest, "ab" * 32, "here", open_bundle(folder), object())
