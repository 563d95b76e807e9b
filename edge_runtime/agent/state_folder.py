"""The state folder belongs to one agent: whether it may be written, and who holds it.

The lock is `flock` on `<state_dir>/lock`, which the kernel takes back when the process ends,
however it ends. Workers do not inherit it. The file holds the process id, for people; it stays
behind, and means nothing then. Where the file cannot be made, the folder itself is locked: a disk
that has become read-only must not keep a device from serving what it has.

Whoever may read a file may lock it, and so keep the agent from starting: the lock is its owner's
alone, and so is a folder that is made here. A folder that was made otherwise stays as it is.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import stat
import time
from pathlib import Path

from edge_runtime.errors import DeviceError

LOCK = "lock"
REPORTED = "reported.json"
"""What the agent reported when its accelerator changed last; `edge-agent doctor` tells it."""
PATIENCE_S = 0.5
"""How long a lock may be held by somebody who only looks, like `edge-agent doctor`."""
_PAUSE_S = 0.05


class Hold:
    """The state folder, made where it is missing, ours until `close`.

    Raises:
        DeviceError: it cannot be made or opened, or another agent has it.
    """

    _descriptor = -1

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as reason:
            why = not_writable(folder) or f"{folder}: cannot be made ({reason.strerror})"
            raise DeviceError(why) from None
        self._descriptor = _open(folder, os.O_RDWR | os.O_CREAT)
        try:
            if not _locked(self._descriptor, fcntl.LOCK_EX, PATIENCE_S):
                raise DeviceError(_in_use(folder, self._descriptor))
            _tighten(self._descriptor)
            _write_pid(self._descriptor)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give it back. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def holder(folder: Path) -> str:
    """In a sentence, which other agent has `folder`; empty where none has. Changes nothing."""
    try:
        descriptor = _open(folder, os.O_RDONLY)
    except DeviceError:
        return ""
    try:
        return "" if _locked(descriptor, fcntl.LOCK_SH, 0.0) else _in_use(folder, descriptor)
    finally:
        os.close(descriptor)


def holder_pid(folder: Path) -> int | None:
    """The process id of the agent that has `folder`, None where none has. Changes nothing.

    Raises:
        DeviceError: one has it, and does not say which process it is.
    """
    try:
        descriptor = _open(folder, os.O_RDONLY)
    except DeviceError:
        return None
    try:
        if _locked(descriptor, fcntl.LOCK_SH, 0.0):
            return None
        found = _read_pid(descriptor)
        if found is None:
            raise DeviceError(_in_use(folder, descriptor))
        return found
    finally:
        os.close(descriptor)


def owner(folder: Path) -> str | None:
    """Whose `folder` is, by name or number; None: ours, or it is not there."""
    try:
        found = folder.stat().st_uid
    except OSError:
        return None
    if found == os.geteuid():
        return None
    try:
        return pwd.getpwuid(found).pw_name
    except KeyError:
        return f"#{found}"  # As sudo -u takes it.


def not_writable(folder: Path) -> str:
    """In a sentence, why nothing can be kept in `folder`; empty where it can."""
    existing = next((f for f in (folder, *folder.parents) if os.path.exists(f)), Path("/"))
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return ""
    return f"{folder}: {existing} is not a folder that may be written"


def _open(folder: Path, flags: int) -> int:
    """The file to lock, or else the folder."""
    # The file is written to: a link in its place must not lead that elsewhere.
    file = folder / LOCK
    for path, how in (
        (file, flags | os.O_NOFOLLOW | os.O_NONBLOCK),
        (file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK),
        (folder, os.O_RDONLY),
    ):
        try:
            return os.open(path, how | os.O_CLOEXEC, 0o600)
        except OSError as reason:
            why = reason.strerror
            # It is there, and another user's: to lock the folder instead would be no lock at all.
            if isinstance(reason, PermissionError) and how & os.O_ACCMODE == os.O_RDONLY:
                break
    raise DeviceError(f"state folder {folder}: cannot be opened ({why})")


def _locked(descriptor: int, how: int, patience_s: float) -> bool:
    end_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end_s:
                return False
            time.sleep(_PAUSE_S)
        except OSError as reason:
            raise DeviceError(f"state folder: cannot be locked ({reason.strerror})") from None
        else:
            return True


def _tighten(descriptor: int) -> None:
    """Nobody else may open it any more, where it is a file and ours."""
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) & 0o077:
            os.fchmod(descriptor, 0o600)
    except OSError:  # A read-only disk, or another user's.
        return


def _write_pid(descriptor: int) -> None:
    """For people only, so a disk that is full or read-only is no obstacle."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        return


def _read_pid(descriptor: int) -> int | None:
    try:
        found = os.pread(descriptor, 20, 0).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(found) if found.isdecimal() else None


def _in_use(folder: Path, descriptor: int) -> str:
    found = _read_pid(descriptor)
    who = f" (process {found})" if found is not None else ""
    return f"state folder {folder} is in use by another agent{who}"
