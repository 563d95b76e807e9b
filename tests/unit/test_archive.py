"""Reading a bundle from a folder or a file, and packing it."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from edge_runtime.bundle import archive
from edge_runtime.bundle.archive import ArchiveReader, FolderReader, open_bundle, pack
from edge_runtime.bundle.manifest import MANIFEST_NAME
from edge_runtime.errors import DeviceError, InputError, UntrustedError
from tests.fakes.bundles import FILES, folder_reader, write_bundle

BIG = 1 << 20


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """An `.edge` file."""
    pack(folder_reader(tmp_path / "bundle"), tmp_path / "demo.edge")
    return tmp_path / "demo.edge"


def test_folder_and_archive_hand_out_the_same_bytes(tmp_path: Path, packed: Path) -> None:
    folder, file = open_bundle(tmp_path / "bundle"), open_bundle(packed)
    assert isinstance(folder, FolderReader)
    assert isinstance(file, ArchiveReader)
    assert sorted(folder.names()) == sorted(file.names()) == sorted([MANIFEST_NAME, *FILES])
    for path, data in FILES.items():
        assert folder.read(path, BIG) == file.read(path, BIG) == data


def test_the_manifest_comes_first_and_the_rest_is_sorted(packed: Path) -> None:
    assert open_bundle(packed).names() == (MANIFEST_NAME, *sorted(FILES))


def test_the_same_bundle_gives_the_same_bytes(tmp_path: Path, packed: Path) -> None:
    for path in (tmp_path / "bundle").rglob("*"):
        os.utime(path, (1, 1))
    pack(open_bundle(tmp_path / "bundle"), tmp_path / "again.edge")
    pack(open_bundle(packed), tmp_path / "from-archive.edge")
    assert (tmp_path / "again.edge").read_bytes() == packed.read_bytes()
    assert (tmp_path / "from-archive.edge").read_bytes() == packed.read_bytes()


def test_pack_says_how_large_the_file_is(tmp_path: Path) -> None:
    size = pack(folder_reader(tmp_path / "b"), tmp_path / "b.edge")
    assert size == (tmp_path / "b.edge").stat().st_size


def test_other_zip_readers_read_it(tmp_path: Path, packed: Path) -> None:
    with zipfile.ZipFile(packed) as file:
        assert file.testzip() is None
        assert {name: file.read(name) for name in FILES} == FILES
        assert all(info.date_time == (1980, 1, 1, 0, 0, 0) for info in file.infolist())
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-tqq", packed], check=True, timeout=60)


def test_a_plain_uncompressed_zip_in_the_right_order_is_read(tmp_path: Path) -> None:
    folder, _ = write_bundle(tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "b.edge", "w", zipfile.ZIP_STORED) as file:
        for path in (MANIFEST_NAME, *FILES):
            file.write(folder / path, path)
    assert open_bundle(tmp_path / "b.edge").read("model.onnx", BIG) == FILES["model.onnx"]


def test_files_that_the_manifest_does_not_name_stay_out(tmp_path: Path) -> None:
    folder, _ = write_bundle(tmp_path / "b")
    (folder / "secrets.txt").write_text("mine")
    (folder / "link").symlink_to("/etc/passwd")
    pack(FolderReader(folder), tmp_path / "b.edge")
    assert set(open_bundle(tmp_path / "b.edge").names()) == {MANIFEST_NAME, *FILES}


def test_packing_a_file_that_differs_from_the_manifest_leaves_nothing(tmp_path: Path) -> None:
    folder, _ = write_bundle(tmp_path / "b")
    (folder / "tokenizer.json").write_text("[]")
    out = tmp_path / "out" / "b.edge"
    out.parent.mkdir()
    out.write_bytes(b"what stood there")
    with pytest.raises(UntrustedError, match=r"'tokenizer.json' has digest"):
        pack(FolderReader(folder), out)
    assert [(path.name, path.read_bytes()) for path in out.parent.iterdir()] == [
        ("b.edge", b"what stood there")
    ]


def test_packing_to_a_folder_that_is_not_there_is_a_device_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"b\.edge: cannot be written \(No such file"):
        pack(folder_reader(tmp_path / "b"), tmp_path / "nowhere" / "b.edge")


def test_packing_more_than_a_zip_can_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", 9 << 20 - 1)
    monkeypatch.setattr(archive, "MAX_MANIFEST_BYTES", 1 << 20)
    with pytest.raises(InputError, match=r"do not fit an .edge file"):
        pack(folder_reader(tmp_path / "b"), tmp_path / "b.edge")


def test_nothing_at_the_path_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder or .edge file"):
        open_bundle(tmp_path / "nowhere.edge")


@pytest.mark.parametrize("kind", [open_bundle, lambda path: open_bundle(path.parent / "bundle")])
def test_more_than_was_asked_for_is_not_read(kind, packed: Path) -> None:  # type: ignore[no-untyped-def]
    size = len(FILES["model.onnx"])
    reader = kind(packed)
    assert len(reader.read("model.onnx", size)) == size
    with pytest.raises(UntrustedError, match=f"has {size} bytes, at most {size - 1}"):
        reader.read("model.onnx", size - 1)


@pytest.mark.parametrize("kind", [open_bundle, lambda path: open_bundle(path.parent / "bundle")])
def test_a_missing_file_is_named(kind, packed: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UntrustedError, match=r"'other.bin' is missing"):
        kind(packed).read("other.bin", BIG)


def test_an_archive_that_vanishes_is_a_device_error(packed: Path) -> None:
    reader = open_bundle(packed)
    packed.unlink()
    with pytest.raises(DeviceError, match="cannot be read"):
        reader.read("model.onnx", BIG)


def test_a_damaged_member_is_noticed_before_any_digest(packed: Path) -> None:
    reader = open_bundle(packed)
    data = bytearray(packed.read_bytes())
    at = data.index(FILES["model.onnx"][:50])
    data[at] ^= 1
    packed.write_bytes(data)
    with pytest.raises(UntrustedError, match=r"'model.onnx' is damaged"):
        reader.read("model.onnx", BIG)


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/passwd", "litert/../model.onnx", "litert", "litert/model.tflite/x"]
)
def test_a_folder_is_never_left(tmp_path: Path, path: str) -> None:
    (tmp_path / "outside").write_text("secret")
    with pytest.raises(UntrustedError):
        folder_reader(tmp_path / "b").read(path, BIG)


def test_links_are_listed_and_refused_at_every_level(tmp_path: Path) -> None:
    reader = folder_reader(tmp_path / "b")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("secret")
    (tmp_path / "b" / "linked").symlink_to(tmp_path / "outside")
    (tmp_path / "b" / "file").symlink_to(tmp_path / "outside" / "file")
    assert {"linked", "file"} < set(reader.names())
    assert "linked/file" not in reader.names()
    for path in ("linked/file", "file", "linked"):
        with pytest.raises(UntrustedError, match="is a link or no plain file"):
            reader.read(path, BIG)


def test_a_bundle_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b")
    (tmp_path / "current").symlink_to(tmp_path / "b")
    assert open_bundle(tmp_path / "current").read("tokenizer.json", 2) == b"{}"


def test_a_pipe_does_not_block_the_reader(tmp_path: Path) -> None:
    reader = folder_reader(tmp_path / "b")
    os.mkfifo(tmp_path / "b" / "pipe")
    with pytest.raises(UntrustedError, match="is not a plain file"):
        reader.read("pipe", BIG)


def test_a_folder_full_of_files_is_not_listed_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    with pytest.raises(UntrustedError, match="more than 3 files"):
        folder_reader(tmp_path / "b").names()
