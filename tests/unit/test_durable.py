"""Replacing files: the old bytes or the new ones."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.bundle.durable import insist, read, replace, replacing, torn
from edge_runtime.errors import DeviceError
from tests.fakes.disk import recorded_calls


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    for data in (b"one", b"two"):
        replace(tmp_path / "file", data)
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", data)]


def test_the_order_is_write_fsync_rename_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorded_calls(monkeypatch, "fsync", "replace")
    replace(tmp_path / "file", b"data")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replace(tmp_path / "file", b"old")
    monkeypatch.setattr(os, failing, full)
    with pytest.raises(DeviceError, match=r"file: cannot be written \(No space left"):
        replace(tmp_path / "file", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"old")]


def test_an_error_of_the_writer_keeps_the_old_bytes_and_passes(tmp_path: Path) -> None:
    replace(tmp_path / "file", b"old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as file:
        file.write(bytes([1 // (file.write(b"half") - 4)]))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"old")]


def test_what_a_power_cut_left_behind_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_bytes(b"torn and longer than the new bytes")
    replace(tmp_path / "file", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"new")]


def test_what_cuts_left_behind_is_told_from_what_stands(tmp_path: Path) -> None:
    for name in ("file", ".file.tmp", "file.tmp", ".hidden"):
        (tmp_path / name).touch()
    assert torn(tmp_path) == [tmp_path / ".file.tmp"]


@pytest.mark.parametrize(("failures", "code"), [(1, errno.EIO), (2, errno.EIO), (1, errno.ENOENT)])
def test_a_disk_that_fails_is_asked_once_more_and_no_oftener(failures: int, code: int) -> None:
    asked = 0

    def look() -> str:
        nonlocal asked
        asked += 1
        if asked <= failures:
            raise OSError(code, os.strerror(code))
        return "seen"

    if (failures, code) == (1, errno.EIO):
        assert insist(look) == "seen"
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            insist(look)
    assert asked == (2 if code == errno.EIO else 1)


def test_no_more_is_read_than_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert (read(tmp_path / "file", 4), read(tmp_path / "file", 9)) == (b"1234", b"12345")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_not_read_and_never_waited_for(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "journal.json")
    with pytest.raises(OSError, match="is no regular file"):
        read(tmp_path / "journal.json", 10)
