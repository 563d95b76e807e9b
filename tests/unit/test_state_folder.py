from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from edge_runtime.agent import state_folder
from edge_runtime.agent.config import AgentConfig, ApiConfig
from edge_runtime.agent.state_folder import LOCK, Hold, holder, not_writable
from edge_runtime.agent.supervisor import Supervisor
from edge_runtime.errors import DeviceError


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_folder, "PATIENCE_S", 0.0)


@pytest.mark.usefixtures("impatient")
def test_a_folder_is_held_by_one_and_the_second_is_told_by_whom(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    first = Hold(folder)
    says = f"state folder {folder} is in use by another agent (process {os.getpid()})"
    with pytest.raises(DeviceError) as caught:
        Hold(folder)
    assert str(caught.value) == holder(folder) == says
    first.close()
    first.close()
    assert holder(folder) == ""
    Hold(folder).close()


def test_a_child_does_not_hold_it_when_its_parent_is_gone(tmp_path: Path) -> None:
    hold = Hold(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1, close_fds=False) as child:
        hold.close()
        Hold(tmp_path).close()
        child.communicate(b"\n")


def test_who_only_looks_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LOCK).touch()
    looks = os.open(tmp_path / LOCK, os.O_RDONLY)
    fcntl.flock(looks, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda _s: os.close(looks))
    Hold(tmp_path).close()


def test_looking_changes_nothing(tmp_path: Path) -> None:
    assert holder(tmp_path / "none") == holder(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("impatient")
def test_where_the_file_cannot_be_made_the_folder_itself_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Callable[..., int] = os.open

    def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    first = Hold(tmp_path)
    with pytest.raises(DeviceError, match=r"in use by another agent$"):
        Hold(tmp_path)
    assert holder(tmp_path)
    first.close()


def test_without_a_bundle_a_folder_that_cannot_be_written_ends_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a broker, too: nothing that it may bring could be kept."""
    config = AgentConfig("d", "generic-x86_64", tmp_path, "none", api=ApiConfig(port=0))
    started: list[object] = []

    class Link:
        address = "fake"
        start = started.append

    supervisor = Supervisor(config, "1", cast(Any, lambda *_args, **_kwargs: Link()))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not_writable(tmp_path)
    with pytest.raises(DeviceError) as caught:
        supervisor.run()
    assert str(caught.value) == f"{tmp_path}: {tmp_path} is not a folder that may be written"
    assert started == []
