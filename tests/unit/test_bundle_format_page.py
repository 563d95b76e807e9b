"""docs/bundle-format.md says what the code does: its reader reads, its numbers are the code's."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle import chunks, container, files, manifest
from edge_runtime.bundle.archive import pack
from edge_runtime.bundle.chunks import cut
from edge_runtime.bundle.files import sha256_hex
from edge_runtime.fields import MAX_DEPTH
from tests.fakes.bundles import FILES, folder_reader, manifest_json

PAGE = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text()


def test_the_reader_of_the_page_reads_our_bundle(tmp_path: Path) -> None:
    found = re.search(r"<!-- reader -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found
    names: dict[str, Any] = {}
    exec(compile(found[1], "docs/bundle-format.md", "exec"), names)
    pack(folder_reader(tmp_path / "b"), tmp_path / "b.edge")
    digest = sha256_hex((tmp_path / "b" / "manifest.json").read_bytes())
    value, contents = names["read_edge"](tmp_path / "b.edge", digest)
    assert contents == FILES
    assert value == json.loads(json.dumps(manifest_json()))
    with pytest.raises(AssertionError):
        names["read_edge"](tmp_path / "b.edge", "ab" * 32)


def test_the_example_manifest_of_the_page_is_valid() -> None:
    found = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert found
    value = json.loads(found[1].replace("…64 hex digits…", "ab" * 32))
    named = [value["golden"]["file"], *(variant["file"] for variant in value["variants"])]
    value["files"] += [
        {"path": path, "size_bytes": 0, "sha256": "ab" * 32, "chunks": []} for path in named
    ]
    value["golden"]["raw"] = ["text"] * value["golden"]["cases"]
    parsed = manifest.Manifest.from_bytes(json.dumps(value).encode())
    again = json.loads(parsed.to_bytes())
    assert set(again) == set(value)
    assert set(again["variants"][0]) == set(value["variants"][0])


@pytest.mark.parametrize(
    "kind",
    [
        manifest.Manifest, manifest.TensorSpec, manifest.Quantization, manifest.Step,
        manifest.Variant, manifest.Needs, manifest.Signature, manifest.Figure,
        manifest.Placement, manifest.Tolerance, manifest.Golden, manifest.Quality,
        manifest.Provenance, files.FileEntry,
    ],
)  # fmt: skip
def test_every_field_is_described(kind: Any) -> None:
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    names = [field.name for field in dataclasses.fields(kind)]
    assert [name for name in names if not re.search(rf"`(\w+\.)?{name}`", prose)] == []


@pytest.mark.parametrize("name", [*manifest.DTYPES, *manifest.EVIDENCE])
def test_every_word_of_the_vocabulary_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize(
    "number",
    [
        manifest.MAX_MANIFEST_BYTES, manifest.MAX_FILES, manifest.MAX_VARIANTS, MAX_DEPTH,
        files.MAX_CHUNK_BYTES, files.MAX_PATH_DEPTH, container.MAX_PATH_BYTES,
        container.MAX_MEMBERS, chunks.MIN_BYTES, chunks.NORMAL_BYTES,
    ],
)  # fmt: skip
def test_every_limit_is_on_the_page(number: int) -> None:
    assert re.search(rf"\b{number:,}\b", PAGE)


@pytest.mark.parametrize("pattern", [manifest.NAME, manifest.IDENTIFIER])
def test_every_pattern_is_on_the_page(pattern: str) -> None:
    assert f"`{pattern}`" in PAGE


def test_the_example_of_cutting_is_right() -> None:
    sizes = cut(hashlib.shake_256(b"edge").digest(500_000))
    listed = ", ".join(f"{size:,}" for size in sizes[:-1]) + f" and {sizes[-1]:,}"
    assert listed in " ".join(PAGE.split())
    for value in range(3):
        number = int.from_bytes(hashlib.sha256(bytes([value])).digest()[:4], "little")
        assert f"`gear[{value}]`" in PAGE
        assert f"0x{number:08X}" in PAGE
