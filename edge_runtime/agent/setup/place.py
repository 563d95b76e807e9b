"""Where a set-up device's files lie, and a folder that changes whole or not at all.

A new identity is written beside the one in place, made durable, and the two change places in one
system call; a power cut leaves one or the other, never a key without its certificate. The one that
worked stays as `.old` until the new one has been seen to work.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle.durable import sync_folder
from edge_runtime.errors import DeviceError

RENAME_EXCHANGE = 2
AT_FDCWD = -100
SERVICE, SOCKET = "edge-agent.service", "edge-agent.socket"


@dataclass(frozen=True, slots=True)
class System:
    """This machine, or a tree that will be one: every path stands below `root`."""

    root: Path = Path("/")

    @property
    def identity(self) -> Path:
        """What the service is handed its files from."""
        return self.root / "etc/edge-agent"

    @property
    def enrolling(self) -> Path:
        """Key and answer of an enrolment under way."""
        return self.root / "etc/edge-agent.enrolling"

    @property
    def units(self) -> Path:
        """Where drop-ins go."""
        return self.root / "etc/systemd/system"

    @property
    def first(self) -> Path:
        """A first bundle, until it serves."""
        return self.root / "var/lib/edge-agent-first"

    @property
    def state(self) -> Path:
        """The service's state folder."""
        return self.root / "var/lib/edge-agent"

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Nobody else sets this machine up inside the block.

        Raises:
            DeviceError: somebody does, or nothing can be written here.
        """
        path = self.root / "run/edge-agent-setup.lock"
        with failing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DeviceError("another edge-agent setup is at work here; wait for it") from None
            yield
        finally:
            os.close(descriptor)


class Folder:
    """A folder of secret files that is replaced whole. Only one process works on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new = path.with_name(f"{path.name}.new")
        self._old = path.with_name(f"{path.name}.old")

    def recover(self) -> None:
        """After a power cut, what worked before is back, where nothing is in place.

        Raises:
            DeviceError: the disk failed.
        """
        with failing(self.path):
            aside = _aside(self.path)
            if not os.path.lexists(self.path):
                for known in (self._old, aside):
                    if known.is_dir():
                        os.rename(known, self.path)
                        break
            elif aside.is_dir() and not self._old.exists():
                os.rename(aside, self._old)
            _remove(aside)
            _remove(self._new)
            if self.path.parent.is_dir():
                sync_folder(self.path.parent)

    @property
    def unproven(self) -> bool:
        """Whether what is in place took the place of another, and nobody saw it work."""
        return self._old.is_dir()

    def holds(self, files: Mapping[str, bytes], ours: tuple[str, ...]) -> bool:
        """Whether just these of the names `ours` are in place, with these bytes."""
        for name in ours:
            try:
                found: bytes | None = (self.path / name).read_bytes()
            except OSError:
                found = None
            if found != files.get(name):
                return False
        return True

    def put(self, files: Mapping[str, bytes], ours: tuple[str, ...]) -> None:
        """Put `files` in place. Files there that are none of `ours` go along.

        What was in place becomes `.old`, unless there is one: that has worked, this may not have.

        Raises:
            DeviceError: the disk is full, read-only or failing; in place is what was.
        """
        with failing(self.path):
            self.recover()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.mkdir(self._new, 0o700)
            for name in sorted(files):
                write(self._new / name, files[name], 0o600)
            if self.path.is_dir():
                self._bring_others({*files, *ours})
            sync_folder(self._new)
            if not os.path.lexists(self.path):
                os.rename(self._new, self.path)
            else:
                exchange(self._new, self.path)
                if self._old.is_dir():
                    _remove(self._new)
                else:
                    os.rename(self._new, self._old)
            sync_folder(self.path.parent)

    def back(self) -> bool:
        """Put back what was in place before; False: nothing was. Raises DeviceError."""
        with failing(self.path):
            if not self._old.is_dir():
                return False
            exchange(self._old, self.path)
            _remove(self._old)
            sync_folder(self.path.parent)
        return True

    def settle(self) -> None:
        """What is in place works: forget what was before. Raises DeviceError."""
        with failing(self.path):
            _remove(self._new)
            _remove(self._old)
            sync_folder(self.path.parent)

    def _bring_others(self, taken: set[str]) -> None:
        for item in os.scandir(self.path):
            if item.name not in taken and item.is_file(follow_symlinks=False):
                shutil.copy2(item.path, self._new / item.name)


def exchange(one: Path, other: Path) -> None:
    """Two names change places, at once where the file system can. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    try:
        failed = libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)
    except AttributeError:  # A C library from before 2018.
        failed = -1
        ctypes.set_errno(errno.ENOSYS)
    if not failed:
        return
    number = ctypes.get_errno()
    if number not in (errno.ENOSYS, errno.EINVAL, errno.EXDEV):
        raise OSError(number, os.strerror(number), str(other))
    # In steps; `Folder.recover` mends what a power cut leaves between them.
    aside = _aside(other)
    _remove(aside)
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)


def _aside(path: Path) -> Path:
    """Where the second of two names waits while they change places in steps."""
    return path.with_name(f"{path.name}.aside")


def write(path: Path, data: bytes, mode: int) -> None:
    """A new file, durable once its folder is. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def remove(path: Path) -> None:
    """A folder or a file, if it is there. Raises DeviceError."""
    with failing(path):
        _remove(path)


@contextlib.contextmanager
def failing(path: Path) -> Iterator[None]:
    """What the disk refuses becomes a sentence. Raises DeviceError."""
    try:
        yield
    except OSError as reason:
        where = reason.filename or path
        raise DeviceError(f"{where}: cannot be changed ({reason.strerror})") from None


def _remove(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()
