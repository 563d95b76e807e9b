"""Replacing files: the old bytes or the new ones."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edge_runtime.bundle.durable import replace, replacing
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
