"""The repository as a folder: files change whole, chunks are durable, nothing needed is removed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.files import sha256_hex
from edge_runtime.bundle.verify import VerifiedBundle, verify
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fleet.deltas import blobs_of
from edge_runtime.fleet.publish import releases_in
from edge_runtime.fleet.repository import is_role_file
from edge_runtime.fleet.tree import MetadataFolder, Tree, role_file
from edge_runtime.messages.fleet import Release
from tests.fakes.bundles import FILES, noise, write_bundle
from tests.fakes.trusted import bundle, content
from tests.unit.test_delta import stepped


def add(tree: Tree, folder: Path) -> tuple[Release, int]:
    found: VerifiedBundle = verify(FolderReader(folder))
    (release,), manifest = releases_in(found, FolderReader(folder))
    return release, tree.add(found, release, manifest)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "repository")


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return bundle(tmp_path)


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    folder = MetadataFolder(tmp_path / "none")
    assert folder.names() == []
    assert folder.versions("root") == []
    assert folder.read("1.root.json") is None
    assert folder.remove(["1.root.json"]) == []


def test_versions_are_numbers_and_half_written_files_are_none(tmp_path: Path) -> None:
    folder = MetadataFolder(tmp_path / "metadata")
    for name in ("9.root.json", "10.root.json", "01.root.json", "x.root.json", "2.targets.json"):
        folder.write(name, b"{}")
    (folder.folder / ".11.root.json.tmp").write_bytes(b"{")
    assert folder.versions("root") == [9, 10]
    assert ".11.root.json.tmp" not in folder.names()
    assert role_file("root", 9) == "9.root.json"
    assert role_file("timestamp", 9) == "timestamp.json"


def test_no_metadata_is_as_large_as_that(tmp_path: Path) -> None:
    folder = MetadataFolder(tmp_path)
    (tmp_path / "1.root.json").write_bytes(b"x" * (1 << 21))
    with pytest.raises(InputError, match="no metadata is so large"):
        folder.read("1.root.json")


def test_three_versions_of_targets_and_snapshot_stay_and_every_root(tmp_path: Path) -> None:
    folder = MetadataFolder(tmp_path)
    for version in range(1, 13):
        for role in ("root", "targets", "snapshot"):
            folder.write(role_file(role, version), b"{}")
    folder.prune()
    assert folder.versions("root") == list(range(1, 13))
    assert folder.versions("targets") == folder.versions("snapshot") == [10, 11, 12]


@pytest.mark.parametrize(
    ("file", "is_role"),
    [
        ("timestamp.json", True),
        ("1.root.json", True),
        ("12.targets.json", True),
        ("3.some%2Frole.json", True),
        ("demo@1.0.0@pi.json", False),
        ("1.demo@1.0.0@pi.json", False),
        ("root.json", False),
        ("broken.json", False),
        ("0.root.json", False),
    ],
)
def test_a_role_s_file_is_told_from_a_release_s(file: str, is_role: bool) -> None:
    assert is_role_file(file) is is_role


def test_a_release_is_there_with_all_it_consists_of(tree: Tree, first: Path) -> None:
    release, added_bytes = add(tree, first)
    chunks = content(tree.chunks.root)
    assert {path.rpartition("/")[2] for path in chunks} == tree.chunks_of(release)
    assert all(path.rpartition("/")[2] == sha256_hex(data) for path, data in chunks.items())
    assert added_bytes == sum(map(len, chunks.values()))
    assert tree.releases() == {release.file: release}
    assert add(tree, first)[1] == 0


def test_every_chunk_is_on_the_disk_before_the_release_names_it(
    tree: Tree, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without fsync a power cut leaves empty files behind names that promise a digest."""
    synced: set[str] = set()
    placed: list[tuple[str, bool]] = []
    real_sync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_sync(descriptor)

    def replace(source: Any, target: Any) -> None:
        placed.append((str(target), str(source) in synced))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    release, _ = add(tree, first)
    assert all(done for _, done in placed)
    assert placed[-1][0].endswith(release.file)
    folders = {str(Path(path).parent) for path, _ in placed}
    assert folders <= synced, "renames are durable as well"


def test_a_full_disk_is_told_and_what_it_left_goes_with_the_next_try(
    tree: Tree, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DeviceError, match=r"chunks cannot be written \(No space left"):
            add(tree, first)
    assert tree.releases() == {}
    add(tree, first)
    assert not [path for path in tree.chunks.root.iterdir() if path.name.startswith(".new")]


def test_what_another_release_needs_stays(tree: Tree, first: Path, tmp_path: Path) -> None:
    release, _ = add(tree, first)
    other, _ = add(tree, bundle(tmp_path, "2.0.0"))
    gone = set(tree.retire([release.file, "nobody@1.0.0@p.json"]))
    assert tree.releases() == {other.file: other}
    assert len(gone) == 2
    left = {path.rpartition("/")[2] for path in content(tree.chunks.root)}
    assert left == tree.chunks_of(other)
    assert not gone & left


def test_a_retrained_model_lies_there_with_its_delta(tree: Tree, tmp_path: Path) -> None:
    weights = noise(1_000_000, 13)
    old, _ = add(tree, write_bundle(tmp_path / "1", {**FILES, "model.onnx": weights})[0])
    only_old = content(tree.chunks.root)
    retrained = {**FILES, "model.onnx": stepped(weights)}
    folder = write_bundle(tmp_path / "2", retrained, version="1.1.0")[0]
    new, added_bytes = add(tree, folder)
    kept = tree.releases()[new.file]
    (ref,) = kept.deltas
    assert ref.base_sha256 == old.manifest.sha256
    blobs = blobs_of(kept.deltas, lambda chunks: {c.sha256: tree.chunks.get(c) for c in chunks})
    assert blobs < tree.chunks_of(kept)
    after = content(tree.chunks.root)
    assert added_bytes == sum(len(data) for path, data in after.items() if path not in only_old)
    before = content(tree.metadata.folder)
    assert add(tree, folder)[1] == 0
    assert content(tree.metadata.folder) == before, "its delta is not forgotten"
    assert (tree.offer(new).refs, {c.sha256 for c in tree.offer(new).blobs}) == ((ref,), blobs)
    tree.chunks.prune(tree.chunks_of(kept) - {ref.index.chunks[0].sha256})
    assert tree.offer(new).refs == (), "what is not whole is not offered"


def test_a_release_that_goes_takes_its_delta_along(tree: Tree, tmp_path: Path) -> None:
    weights = noise(1_000_000, 13)
    add(tree, write_bundle(tmp_path / "1", {**FILES, "model.onnx": weights})[0])
    only_old = content(tree.chunks.root)
    retrained = {**FILES, "model.onnx": stepped(weights)}
    new, _ = add(tree, write_bundle(tmp_path / "2", retrained, version="1.1.0")[0])
    assert tree.releases()[new.file].deltas
    tree.retire([new.file])
    assert content(tree.chunks.root) == only_old


def test_where_a_manifest_is_lost_no_chunk_is_removed(
    tree: Tree, first: Path, tmp_path: Path
) -> None:
    release, _ = add(tree, first)
    other, _ = add(tree, bundle(tmp_path, "2.0.0"))
    digest = other.manifest.chunks[0].sha256
    (tree.chunks.root / digest[:2] / digest).unlink()
    before = content(tree.chunks.root)
    assert tree.retire([release.file]) == ()
    assert content(tree.chunks.root) == before
    assert release.file not in tree.releases()
