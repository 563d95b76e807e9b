"""The manifest: what it keeps, what it lets pass. What it refuses is under tests/hostile."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.files import Chunk, FileEntry
from edge_runtime.bundle.manifest import MAX_MANIFEST_BYTES, UNKNOWN, Manifest, Quantization
from edge_runtime.errors import InputError, UntrustedError
from tests.fakes.bundles import BOARDS, FILES, manifest, manifest_json
from tests.fakes.fleet import for_boards


def parse(value: object) -> Manifest:
    return Manifest.from_bytes(json.dumps(value).encode())


def test_a_manifest_reads_what_it_writes() -> None:
    assert Manifest.from_bytes(manifest().to_bytes()) == manifest()


def test_equal_manifests_have_equal_bytes_whatever_they_were_read_from() -> None:
    shuffled = dict(reversed(manifest_json().items()))
    spaced = json.dumps(shuffled, indent=4).encode()
    assert Manifest.from_bytes(spaced).to_bytes() == manifest().to_bytes()


def test_unknown_fields_pass_at_every_level() -> None:
    value = manifest_json(later={"a": [1]})
    value["variants"][0]["later"] = True
    value["files"][0]["mode"] = 0o644
    assert parse(value) == manifest()


def test_a_quality_that_was_not_measured_may_be_absent_or_null() -> None:
    absent = manifest_json()
    del absent["quality"]
    assert parse(absent) == parse(manifest_json(quality=None))
    assert parse(absent).quality is None


def test_the_optional_parts_of_a_variant_have_defaults() -> None:
    value = manifest_json()
    for key in ("providers", "options", "signatures", "needs"):
        del value["variants"][0][key]
    variant = parse(value).variants[0]
    assert (variant.providers, variant.options, variant.signatures) == ((), {}, ())
    assert variant.needs.ram_bytes == 0
    assert variant.memory_bytes == UNKNOWN


def test_quantization_is_per_tensor_or_per_index_of_an_axis() -> None:
    value = manifest_json()
    value["outputs"][0]["quantization"] = {"scale": [0.5, 1], "zero_point": [0, -3], "axis": 1}
    assert parse(value).outputs[0].quantization == Quantization((0.5, 1.0), (0, -3), 1)
    value["outputs"][0]["quantization"]["axis"] = None
    with pytest.raises(UntrustedError, match="2 scales need an axis"):
        parse(value)


@pytest.mark.parametrize(
    "version", ["0.0.0", "1.2.3", "1.2.3-rc.1", "1.2.3+build.7", "1.2.3-a+b", "999999999.0.0"]
)
def test_versions_are_semantic(version: str) -> None:
    assert parse(manifest_json(version=version)).version == version


def test_a_file_is_found_by_its_path() -> None:
    assert manifest().file("model.onnx") == file_entry("model.onnx", FILES["model.onnx"])
    with pytest.raises(UntrustedError, match=r"bundle demo 1\.0\.0: no file 'other'"):
        manifest().file("other")


def test_its_size_is_that_of_its_files() -> None:
    assert manifest().size_bytes == sum(map(len, FILES.values()))


def test_two_files_may_share_their_content() -> None:
    assert len(manifest({**FILES, "copy.onnx": FILES["model.onnx"]}).files) == len(FILES) + 1


def test_where_the_manifest_came_from_is_part_of_every_fault() -> None:
    with pytest.raises(UntrustedError, match=r"^bundle x: manifest.json.variants\[1\]: backend "):
        Manifest.from_bytes(
            json.dumps(manifest_json()).replace("onnxruntime", "?").encode(),
            where="bundle x: manifest.json",
        )


def test_a_manifest_that_no_reader_would_take_is_not_written() -> None:
    chunks = tuple(Chunk(f"{n:064x}", 1) for n in range(MAX_MANIFEST_BYTES // 60))
    huge = dataclasses.replace(
        manifest(), files=(FileEntry("huge", len(chunks), "ab" * 32, chunks),)
    )
    with pytest.raises(InputError, match="at most 1048576 are accepted"):
        huge.to_bytes()


def test_a_gigabyte_of_ordinary_chunks_nearly_fits() -> None:
    size = 64 << 10
    chunks = tuple(Chunk(f"{n:064x}", size) for n in range(850 << 20 >> 16))
    files = (*manifest().files, FileEntry("weights", len(chunks) * size, "ab" * 32, chunks))
    large = dataclasses.replace(manifest(), files=files)
    assert Manifest.from_bytes(large.to_bytes()) == large


# Several boards.


def test_a_board_needs_its_variants_files_and_those_that_are_no_variant_s() -> None:
    m = for_boards("1.0.0", {file: file.encode() for _, _, file in BOARDS.values()}).manifest
    assert m.profiles == ("generic-x86_64", "raspberry-pi-5")
    assert [v.id for v in m.variants_for("generic-x86_64")] == ["pc-litert", "pc-ort"]
    assert [v.id for v in m.variants_for("raspberry-pi-5")] == ["pi-ort"]
    assert m.variants_for("jetson") == ()
    shared = {"tokenizer.json", "golden.safetensors", "empty.txt", "head.txt"}
    needed = {entry.path for entry in m.files_of(m.variants_for("raspberry-pi-5"))}
    assert needed == shared | {"pi/model.onnx"}
    assert {entry.path for entry in m.files_of(())} == shared
    assert m.files_of(m.variants) == m.files


@pytest.mark.parametrize(
    "changed",
    [
        {"golden": {"file": "model.onnx", "cases": 1}},
        {"golden": {"file": "golden.safetensors", "cases": 1, "raw": ["model.onnx"]}},
        {"postprocess": [{"step": "softmax", "options": {"file": "model.onnx"}}]},
    ],
)
def test_what_golden_vectors_and_steps_name_is_needed_by_every_board(
    changed: dict[str, Any],
) -> None:
    """Also where a careless bundle gives it to a variant of other boards as well."""
    m = manifest(**changed)
    assert m.file("model.onnx") in m.files_of(m.variants[:1])
    assert m.file("model.onnx") not in manifest().files_of(m.variants[:1])
