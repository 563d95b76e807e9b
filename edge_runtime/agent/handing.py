"""A bundle from root's hands to an agent that is a service.

The service's user exists only while it runs, and sees neither /home nor /tmp nor root's files; its
state stands where nobody else may go. So root puts a copy of the bundle into the state folder, and
from there on is the folder's owner: what is written there, the agent can read and replace, and an
agent that was taken over gains nothing from what root does in its folder.

Order: 1. enter the state folder as root; 2. copy, reading as root, writing as its owner; 3. become
its owner for good; 4. ask the agent, as anybody would who owns it; 5. remove the copy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from edge_runtime.agent import install as asking
from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.install import Installed
from edge_runtime.agent.state_folder import holder_pid, owner
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.text import plain

INCOMING = "incoming"
COPY_BYTES = 1 << 20


def install(
    config: AgentConfig,
    path: Path,
    release: str | None,
    version: str,
    timeout_s: float,
    on_state: Callable[[str], None] = lambda _state: None,
) -> Installed:
    """As `install.install`; for root, also where the state folder is a service's.

    The process belongs to the folder's owner afterwards.

    Raises:
        InputError, DeviceError: also: `path` or the state folder cannot be read or written.
    """
    state = config.state_dir
    if os.geteuid() != 0 or owner(state) is None or holder_pid(state) is None:
        return asking.install(config, path, release, version, timeout_s, on_state)
    path = Path(os.path.realpath(path))
    if not path.exists():
        raise InputError(f"{plain(str(path))}: there is nothing at this path")
    try:
        found = state.stat()
        os.chdir(state)  # 1.
        on_state("copying")
        with _as(found.st_uid, found.st_gid):  # 2.
            folder = Path(INCOMING) / os.urandom(8).hex()
            folder.mkdir(parents=True, mode=0o700)
        copy = folder / path.name
        try:
            _copy(path, copy, found.st_uid, found.st_gid)
        except BaseException:
            with _as(found.st_uid, found.st_gid):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        os.setgroups([])  # 3.
        os.setresgid(found.st_gid, found.st_gid, found.st_gid)
        os.setresuid(found.st_uid, found.st_uid, found.st_uid)
    except OSError as reason:
        where = plain(str(reason.filename or state))
        raise DeviceError(f"{where}: cannot be handed to the agent ({reason.strerror})") from None
    try:
        here = replace(config, state_dir=Path("."))
        return asking.install(here, copy, release, version, timeout_s, on_state)  # 4.
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # 5.


@contextlib.contextmanager
def _as(uid: int, gid: int) -> Iterator[None]:
    """The owner's rights on files, and no more; then root's again."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _copy(source: Path, target: Path, uid: int, gid: int) -> None:
    """A file, or a folder with all that it holds. Raises OSError."""
    if not source.is_dir():
        with source.open("rb") as read, _as(uid, gid), target.open("xb") as write:
            shutil.copyfileobj(read, write, COPY_BYTES)
        return
    with _as(uid, gid):
        target.mkdir(mode=0o700)
    for item in sorted(source.iterdir()):
        _copy(item, target / item.name, uid, gid)
