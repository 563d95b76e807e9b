"""What a folder may hold that is not for us to read: links, pipes, devices."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from edge_runtime.errors import TransferError
from edge_runtime.link.folder import FolderPlace


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "stick"
    (root / "metadata").mkdir(parents=True)
    (root / "chunks" / "ab").mkdir(parents=True)
    (root / "metadata" / "here.json").write_bytes(b"here")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


def refused(root: Path, path: str) -> str:
    with pytest.raises(TransferError) as error:
        FolderPlace(root).get(path, 100)
    assert str(error.value).startswith(f"{root}: ")
    return str(error.value)


@pytest.mark.parametrize("target", ["../../secret", "/etc/hostname", "here.json", "nowhere"])
def test_a_link_is_not_followed_wherever_it_leads(root: Path, target: str) -> None:
    (root / "metadata" / "link.json").symlink_to(target)
    assert "'metadata/link.json' is a link" in refused(root, "metadata/link.json")


def test_a_file_that_becomes_a_link_while_it_is_looked_at_is_not_followed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = os.stat(root / "metadata" / "here.json")
    (root / "metadata" / "link.json").symlink_to("../../secret")
    monkeypatch.setattr(os, "stat", lambda *_, **__: plain)
    assert "'metadata/link.json' is a link" in refused(root, "metadata/link.json")


def test_a_folder_that_is_a_link_is_not_entered(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cd").mkdir()
    (tmp_path / "cd" / "x").write_bytes(b"secret")
    (root / "chunks" / "cd").symlink_to(tmp_path / "cd")
    assert "'chunks/cd' is a link" in refused(root, "chunks/cd/x")
    (root / "metadata").rename(tmp_path / "moved")
    (root / "metadata").symlink_to(tmp_path / "moved")
    assert "'metadata' is a link" in refused(root, "metadata/here.json")


def test_the_folder_itself_may_be_reached_by_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "usb").symlink_to(root)
    assert FolderPlace(tmp_path / "usb").get("metadata/here.json", 10) == b"here"


def test_a_pipe_holds_nobody(root: Path) -> None:
    os.mkfifo(root / "metadata" / "pipe.json")
    reasons: list[str] = []
    ask = threading.Thread(
        target=lambda: reasons.append(refused(root, "metadata/pipe.json")), daemon=True
    )
    ask.start()
    ask.join(10.0)
    assert "no plain file" in reasons[0]


def test_what_is_no_file_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "metadata" / "folder.json").mkdir()
    assert "no plain file" in refused(root, "metadata/folder.json")
    monkeypatch.chdir(root / "metadata")  # A socket's name may have 108 bytes.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.json")
    assert "no plain file" in refused(root, "metadata/socket.json")
    (root / "chunks" / "ef").write_bytes(b"a file where a folder should be")
    assert "its folder is none" in refused(root, "chunks/ef/x")


def test_a_device_is_not_even_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening one may do something, as with a watchdog."""
    opened: list[object] = []
    really = os.open

    def noting(name: str, flags: int, *, dir_fd: int | None = None) -> int:
        opened.append(name)
        return really(name, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", noting)
    with pytest.raises(TransferError, match="'dev/zero' is a link or no plain file"):
        FolderPlace(Path("/")).get("dev/zero", 100)
    assert opened == ["/", "dev"]


def test_a_stick_that_is_not_mounted_holds_no_news(root: Path, tmp_path: Path) -> None:
    """An empty mount point must not read as a repository that lacks a file."""
    assert "cannot be opened" in refused(tmp_path / "nowhere", "metadata/1.root.json")
    (tmp_path / "empty").mkdir()
    assert "has no folder 'metadata'" in refused(tmp_path / "empty", "metadata/1.root.json")
    assert "has no folder 'chunks'" in refused(tmp_path / "empty", "chunks/ab/x")
    assert FolderPlace(root).get("metadata/1.root.json", 10) is None
    assert FolderPlace(root).get("chunks/00/x", 10) is None


def test_a_name_that_the_file_system_cannot_hold_is_told(root: Path) -> None:
    assert "File name too long" in refused(root, f"metadata/{'x' * 320}")


def test_no_descriptor_stays_open(root: Path) -> None:
    before = os.listdir("/proc/self/fd")
    place = FolderPlace(root)
    for path in ("metadata/here.json", "metadata/none.json", "chunks/00/x", "chunks/ab/x"):
        place.get(path, 100)
    with pytest.raises(TransferError):
        FolderPlace(root / "nowhere").get("metadata/here.json", 100)
    assert os.listdir("/proc/self/fd") == before
