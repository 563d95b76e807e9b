"""The chunk store: whole or absent, checked on the way in and on the way out."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.bundle.archive import FolderReader, open_bundle, pack
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.files import Chunk, FileEntry, sha256_hex
from edge_runtime.bundle.manifest import MANIFEST_NAME
from edge_runtime.bundle.store import ChunkStore, StoreReader
from edge_runtime.errors import DeviceError, UntrustedError
from tests.fakes.bundles import FILES, noise, write_bundle
from tests.fakes.disk import recorded_calls

DATA = b"some bytes"
CHUNK = Chunk(sha256_hex(DATA), len(DATA))


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    """An empty store."""
    return ChunkStore(tmp_path / "chunks")


def everything(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_a_chunk_that_was_put_is_there_under_its_digest(store: ChunkStore) -> None:
    assert not store.has(CHUNK.sha256)
    assert store.put(CHUNK, DATA)
    assert store.has(CHUNK.sha256)
    assert store.get(CHUNK) == DATA
    assert everything(store.root) == {f"{CHUNK.sha256[:2]}/{CHUNK.sha256}"}


def test_putting_a_chunk_twice_writes_it_once(store: ChunkStore) -> None:
    store.put(CHUNK, DATA)
    path = store.root / CHUNK.sha256[:2] / CHUNK.sha256
    before = path.stat()
    assert not store.put(CHUNK, memoryview(DATA))
    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize("data", [DATA + b"x", DATA[:-1], b"same size!", b""])
def test_other_bytes_are_never_kept(store: ChunkStore, data: bytes) -> None:
    with pytest.raises(UntrustedError, match=f"chunk {CHUNK.sha256} has"):
        store.put(CHUNK, data)
    assert not store.has(CHUNK.sha256)


def test_a_chunk_is_durable_before_put_returns(
    store: ChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorded_calls(monkeypatch, "fsync", "replace")
    store.put(CHUNK, DATA)
    # The chunk, the root (which got a folder), the rename, the folder.
    assert calls == ["fsync", "fsync", "replace", "fsync"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failing_disk_is_a_device_error_and_leaves_nothing(
    store: ChunkStore, monkeypatch: pytest.MonkeyPatch, failing: str, code: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(DeviceError, match="10 bytes cannot be written"):
            store.put(CHUNK, DATA)
    assert everything(store.root) == set()
    assert store.put(CHUNK, DATA)


def test_a_store_that_cannot_be_made_is_a_device_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = ChunkStore(tmp_path / "file" / "chunks")
    assert not store.has(CHUNK.sha256)
    with pytest.raises(DeviceError, match="cannot be written"):
        store.put(CHUNK, DATA)


def test_a_spoiled_chunk_is_removed_and_missing_again(store: ChunkStore) -> None:
    store.put(CHUNK, DATA)
    (store.root / CHUNK.sha256[:2] / CHUNK.sha256).write_bytes(b"same size!")
    with pytest.raises(DeviceError, match="removed, to be fetched again"):
        store.get(CHUNK)
    assert store.missing([file_entry("file", DATA)]) == [CHUNK]
    with pytest.raises(DeviceError, match="cannot be read"):
        store.get(CHUNK)


def test_a_chunk_cut_short_counts_as_missing_and_can_be_put_again(store: ChunkStore) -> None:
    store.put(CHUNK, DATA)
    (store.root / CHUNK.sha256[:2] / CHUNK.sha256).write_bytes(b"")
    assert store.missing([file_entry("file", DATA)]) == [CHUNK]
    assert store.put(CHUNK, DATA)
    assert store.get(CHUNK) == DATA


def test_missing_names_each_chunk_once_in_the_order_of_the_files(store: ChunkStore) -> None:
    big, small = file_entry("big", noise(200_000)), file_entry("small", DATA)
    assert store.missing([small, big, small]) == [*small.chunks, *big.chunks]
    store.put(CHUNK, DATA)
    assert store.missing([small, big, small]) == list(big.chunks)


@pytest.mark.parametrize("name", ["../../etc/passwd", "AB" * 32, "", "ab" * 31])
def test_what_is_no_digest_never_becomes_a_path(store: ChunkStore, name: str) -> None:
    with pytest.raises(RuntimeError, match="is not a digest"):
        store.has(name)


def test_reading_makes_no_folder_and_removes_no_temporary_file(store: ChunkStore) -> None:
    store.missing([file_entry("file", DATA)])
    assert not store.root.exists()
    store.root.mkdir()
    (store.root / ".new-1").write_bytes(b"another process is writing this")
    store.has(CHUNK.sha256)
    assert everything(store.root) == {".new-1"}


@pytest.mark.parametrize(
    "write", [lambda store: store.put(CHUNK, DATA), lambda store: store.prune({CHUNK.sha256})]
)
def test_the_first_write_clears_what_a_power_cut_tore(
    store: ChunkStore, write: Callable[[ChunkStore], object]
) -> None:
    store.root.mkdir()
    (store.root / ".new-1").write_bytes(b"torn")
    write(store)
    assert everything(store.root) <= {f"{CHUNK.sha256[:2]}/{CHUNK.sha256}"}


def test_pruning_keeps_what_is_asked_for_and_says_what_became_free(
    store: ChunkStore, tmp_path: Path
) -> None:
    folder, manifest = write_bundle(tmp_path / "b")
    store.ingest(FolderReader(folder), manifest.files)
    keep = {chunk.sha256 for chunk in manifest.file("model.onnx").chunks}
    (store.root / "README").write_text("not ours")
    assert store.prune(keep) == manifest.size_bytes - manifest.file("model.onnx").size_bytes
    assert store.missing([manifest.file("model.onnx")]) == []
    assert store.missing([manifest.file("tokenizer.json")]) != []
    assert store.prune(keep) == 0
    assert (store.root / "README").exists()


def test_ingest_keeps_a_whole_bundle_and_counts_what_was_new(
    store: ChunkStore, tmp_path: Path
) -> None:
    folder, manifest = write_bundle(tmp_path / "b")
    assert store.ingest(FolderReader(folder), manifest.files) == manifest.size_bytes
    assert store.missing(manifest.files) == []
    (folder / "model.onnx").unlink()
    assert store.ingest(FolderReader(folder), manifest.files) == 0


def test_ingest_of_a_file_that_differs_from_the_manifest_keeps_only_what_agrees_with_it(
    store: ChunkStore, tmp_path: Path
) -> None:
    folder, manifest = write_bundle(tmp_path / "b")
    data = bytearray(FILES["model.onnx"])
    data[-1] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(UntrustedError, match=r"'model.onnx': chunk \w+ has digest"):
        store.ingest(FolderReader(folder), manifest.files)
    assert manifest.file("model.onnx").chunks[-1] in store.missing(manifest.files)
    kept = {name.split("/")[-1] for name in everything(tmp_path / "chunks")}
    assert kept < {chunk.sha256 for chunk in manifest.file("model.onnx").chunks}


def test_ingest_of_a_chunk_list_that_is_at_odds_with_its_file_is_refused(
    store: ChunkStore, tmp_path: Path
) -> None:
    folder, manifest = write_bundle(tmp_path / "b")
    files = tuple(dataclasses.replace(file, sha256="0" * 64) for file in manifest.files)
    with pytest.raises(UntrustedError, match=r"'[\w.]+' has digest"):
        store.ingest(FolderReader(folder), files)


@pytest.mark.parametrize("packed", [False, True])
def test_ingest_holds_one_chunk_at_a_time(store: ChunkStore, tmp_path: Path, packed: bool) -> None:
    files = {**FILES, "model.onnx": os.urandom(4 << 20)}
    folder, manifest = write_bundle(tmp_path / "b", files)
    if packed:
        pack(FolderReader(folder), tmp_path / "b.edge")
    tracemalloc.start()
    try:
        store.ingest(open_bundle(tmp_path / ("b.edge" if packed else "b")), manifest.files)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.missing(manifest.files) == []
    assert peak_bytes < 1 << 20


@pytest.fixture
def installed(store: ChunkStore, tmp_path: Path) -> StoreReader:
    """A bundle that is read from the store."""
    folder, manifest = write_bundle(tmp_path / "b")
    store.ingest(FolderReader(folder), manifest.files)
    return StoreReader(store, manifest.to_bytes())


def test_a_bundle_of_which_not_every_file_is_stored_names_those_that_are(
    store: ChunkStore, tmp_path: Path
) -> None:
    folder, manifest = write_bundle(tmp_path / "b")
    few = [entry for entry in manifest.files if entry.path != "model.onnx"]
    assert store.ingest(FolderReader(folder), few) == sum(entry.size_bytes for entry in few)
    reader = StoreReader(store, manifest.to_bytes())
    assert reader.names() == (MANIFEST_NAME, *(entry.path for entry in few))
    with pytest.raises(DeviceError, match="cannot be read"):
        reader.read("model.onnx", 1 << 20)


def test_a_stored_bundle_reads_like_any_other(installed: StoreReader) -> None:
    assert installed.names() == (MANIFEST_NAME, *FILES)
    assert {path: installed.read(path, 1 << 20) for path in FILES} == FILES
    assert installed.read(MANIFEST_NAME, 1 << 20).startswith(b'{"created"')


def test_a_stored_bundle_hands_out_no_more_than_was_asked_for(installed: StoreReader) -> None:
    for path in (MANIFEST_NAME, "model.onnx"):
        with pytest.raises(UntrustedError, match="at most 100 expected"):
            installed.read(path, 100)
    with pytest.raises(UntrustedError, match="no file 'other'"):
        installed.read("other", 100)


def test_a_spoiled_chunk_of_a_stored_bundle_is_found_and_removed(
    installed: StoreReader, store: ChunkStore, tmp_path: Path
) -> None:
    _, manifest = write_bundle(tmp_path / "b")
    chunk = manifest.file("model.onnx").chunks[1]
    path = store.root / chunk.sha256[:2] / chunk.sha256
    path.write_bytes(bytes(chunk.size_bytes))
    with pytest.raises(DeviceError, match="to be fetched again"):
        installed.read("model.onnx", 1 << 20)
    assert store.missing(manifest.files) == [chunk]


def test_a_manifest_that_lies_about_its_chunks_removes_none(
    store: ChunkStore, tmp_path: Path
) -> None:
    _, manifest = write_bundle(
        tmp_path / "b", {**FILES, "model.onnx": DATA, "other": b"0123456789"}
    )
    store.ingest(FolderReader(tmp_path / "b"), manifest.files)
    text = manifest.to_bytes()
    swapped = text.replace(sha256_hex(b"0123456789").encode(), CHUNK.sha256.encode(), 1)
    with pytest.raises(UntrustedError, match="'other' has digest"):
        StoreReader(store, swapped).read("other", 100)
    assert store.missing(manifest.files) == []


def test_a_file_is_proved_chunk_by_chunk_and_never_whole(store: ChunkStore) -> None:
    data = noise(8 << 20, 5)
    entry = file_entry("model.onnx", data)
    for chunk, piece in entry.cut(data):
        store.put(chunk, piece)
    tracemalloc.start()
    store.prove(entry, "bundle")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 20


def test_a_spoiled_chunk_of_a_file_is_found_and_removed(store: ChunkStore) -> None:
    data = noise(300_000, 6)
    entry = file_entry("model.onnx", data)
    for chunk, piece in entry.cut(data):
        store.put(chunk, piece)
    spoiled = entry.chunks[1]
    path = store.root / spoiled.sha256[:2] / spoiled.sha256
    path.write_bytes(bytes(spoiled.size_bytes))
    with pytest.raises(DeviceError, match="removed, to be fetched again"):
        store.prove(entry, "bundle")
    assert store.missing((entry,)) == [spoiled]


def test_a_list_of_right_chunks_that_is_not_the_file_is_not_believed(store: ChunkStore) -> None:
    store.put(CHUNK, DATA)
    entry = FileEntry("head.txt", len(DATA), "0" * 64, (CHUNK,))
    with pytest.raises(UntrustedError, match=r"bundle: 'head.txt' has digest"):
        store.prove(entry, "bundle")
    assert store.has(CHUNK.sha256)


def test_a_device_needs_no_numpy_to_store_and_verify() -> None:
    code = (
        "import sys, edge_runtime.bundle.store, edge_runtime.bundle.verify, edge_runtime.profile; "
        "sys.exit('numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.bundle.files import Chunk, FileEntry, sha256_hex
left = int(sys.argv[2])
def dying(real):
    def call(*a, **k):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*a, **k)
    return call
for name in ("fsync", "replace", "mkdir"):
    setattr(os, name, dying(getattr(os, name)))
store = ChunkStore(Path(sys.argv[1]))
for n in range(3):
    data = bytes([n]) * 1000
    store.put(Chunk(sha256_hex(data), 1000), data)
print("done")
"""


def test_a_kill_before_any_step_leaves_whole_chunks_only(tmp_path: Path) -> None:
    for step in range(40):
        root = tmp_path / str(step)
        command = [sys.executable, "-c", KILLED_AT, str(root), str(step)]
        run = subprocess.run(command, capture_output=True, timeout=60, check=False)
        held = {name for name in everything(root) if not name.startswith(".new")}
        for name in held:
            assert sha256_hex((root / name).read_bytes()) == name[3:]
        ChunkStore(root).prune({name[3:] for name in held})
        assert everything(root) == held
        if run.stdout:
            assert len(held) == 3
            break
    else:
        pytest.fail("the writer never came to its end")
