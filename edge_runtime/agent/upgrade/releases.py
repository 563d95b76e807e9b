"""Trees of the agent's software beside the package's own, and the link that says which is current.

    <folder>/<version>-<digest12>/    a tree, complete once its mark is there
    <folder>/current                  a link to one of these names; none: the package's tree
    <folder>/.new                     a tree that is being made; whatever is there is removed

Root's alone. A tree appears whole or not at all: it is unpacked beside, all of it is synced, its
mark is written and synced, and only then is it given its name. The link changes by a rename. Every
call may be repeated after a power cut.

Two versions share most of their bytes, those of vendored engines. A file that is the same, byte for
byte, in a tree that is here already is linked to that one: it costs a memory card neither room nor
a write. Nobody writes into a file of a tree; what removes or replaces one leaves the others be.
"""

from __future__ import annotations

import compileall
import contextlib
import ctypes
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from edge_runtime.agent.upgrade.choice import CURRENT, MARK, NAME, read_mark
from edge_runtime.bundle import durable
from edge_runtime.bundle.deb import MAX_UNPACKED_BYTES, Entry
from edge_runtime.errors import DeviceError, UntrustedError
from edge_runtime.fields import Json, encode_json

_NEW = ".new"
_LINK = ".current.new"
_SLICE = 256 << 10
MARGIN_BYTES = 32 << 20
"""Left free on the disk whatever is unpacked."""
COMPILED = 1.4
"""What a tree takes on the disk for each byte of the package: bytecode, and blocks that are
not full."""


class Releases:
    """The folder. Raises DeviceError from every call: the disk is full, read-only or failing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folder, and remove what a cut left of a tree."""
        with self._sentences("prepared"):
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            shutil.rmtree(self.folder / _NEW, ignore_errors=True)

    def is_whole(self, name: str) -> bool:
        """Whether a tree of that name is there and complete."""
        try:
            read_mark(str(self.folder / name))
        except (OSError, ValueError):
            return False
        return re.fullmatch(NAME, name) is not None

    def lacking_bytes(self, tree_bytes: int) -> int:
        """Bytes that the disk lacks for a tree of so many, 0 where there is room."""
        with self._sentences("looked at"):
            free = shutil.disk_usage(self.folder).free
        return max(int(tree_bytes * COMPILED) + MARGIN_BYTES - free, 0)

    def put(
        self,
        name: str,
        entries: Iterable[tuple[Entry, IO[bytes] | None]],
        mark: dict[str, Json],
        *,
        like: Collection[Path] = (),
        compiled: bool = True,
    ) -> None:
        """Make the tree `name` out of `entries`; one that is whole already stays.

        Args:
            like: other trees, whose files are linked to where they are the same.
            compiled: with the bytecode of its modules, for nobody else may write it later.

        Raises:
            UntrustedError: of reading `entries`, or they are more than a tree may have.
        """
        if self.is_whole(name):
            return
        new = self.folder / _NEW
        with self._sentences(f"unpacked as {name}"):
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(mode=0o755)
            _unpack(new, entries, like)
            if compiled:
                # Only parsed, never run: the code is the fleet's, but it is not started by root.
                final = str(self.folder / name)
                compileall.compile_dir(str(new), quiet=2, stripdir=str(new), prependdir=final)
            _sync_all(new)
            durable.replace(new / MARK, encode_json(mark))
            shutil.rmtree(self.folder / name, ignore_errors=True)  # It was not whole.
            os.rename(new, self.folder / name)
            durable.sync_folder(self.folder)

    @property
    def current(self) -> str:
        """Name of the tree that the link names; empty: the package's own."""
        try:
            name = os.readlink(self.folder / CURRENT)
        except OSError:
            return ""
        return name if re.fullmatch(NAME, name) else ""

    @property
    def current_folder(self) -> Path | None:
        """The same as a folder, where it is whole."""
        name = self.current
        return self.folder / name if name and self.is_whole(name) else None

    def flip(self, name: str) -> None:
        """Make `name` the current tree; empty: the package's own."""
        with self._sentences(f"made current: {name or 'the package'}"):
            if name:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.folder / _LINK)
                os.symlink(name, self.folder / _LINK)
                os.replace(self.folder / _LINK, self.folder / CURRENT)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.folder / CURRENT)
            durable.sync_folder(self.folder)

    def prune(self, keep: Collection[str]) -> None:
        """Remove every tree that is neither current nor in `keep`."""
        kept = {self.current, *keep}
        with self._sentences("pruned"):
            for item in list(os.scandir(self.folder)):
                is_tree = re.fullmatch(NAME, item.name) and item.is_dir(follow_symlinks=False)
                if is_tree and item.name not in kept:
                    # First it loses its mark: half a tree must not look like one.
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self.folder / item.name / MARK)
                    shutil.rmtree(item.path)
            shutil.rmtree(self.folder / _NEW, ignore_errors=True)

    @contextlib.contextmanager
    def _sentences(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as reason:
            raise DeviceError(
                f"releases {self.folder}: cannot be {what} ({reason.strerror or reason})"
            ) from None


def _unpack(
    new: Path, entries: Iterable[tuple[Entry, IO[bytes] | None]], like: Collection[Path]
) -> None:
    """Paths were checked by whoever made the entries; a file never takes another one's place."""
    left = MAX_UNPACKED_BYTES
    for entry, data in entries:
        path = new / entry.path
        if entry.is_folder or data is None:
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            continue
        left -= entry.size_bytes
        if left < 0:
            raise UntrustedError(f"tree {new.name}: more than {MAX_UNPACKED_BYTES} bytes")
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        mode = 0o755 if entry.executable else 0o644
        twin = _twin(entry, mode, like)
        if twin is None:
            with _created(path, mode) as file:
                shutil.copyfileobj(data, file, _SLICE)
        else:
            _link_or_write(path, mode, data, twin)


def _twin(entry: Entry, mode: int, like: Collection[Path]) -> Path | None:
    """A file that may be the same: of that path, size, mode, and ours."""
    for tree in like:
        path = tree / entry.path
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            alike = (found.st_mode, found.st_size) == (stat.S_IFREG | mode, entry.size_bytes)
            if alike and found.st_uid == os.geteuid() and path.resolve() == path:
                return path
    return None


def _link_or_write(path: Path, mode: int, data: IO[bytes], twin: Path) -> None:
    """`path` with the bytes of `data`: a link to `twin` if it has the same. Raises OSError."""
    same = 0
    with open(twin, "rb") as other:
        while piece := data.read(_SLICE):
            if other.read(len(piece)) != piece:
                break
            same += len(piece)
        if not piece:
            with contextlib.suppress(OSError):  # Another disk; too many links.
                os.link(twin, path)
                return
        other.seek(0)
        with _created(path, mode) as file:
            while same and (known := other.read(min(_SLICE, same))):
                file.write(known)
                same -= len(known)
            file.write(piece)
            shutil.copyfileobj(data, file, _SLICE)


def _created(path: Path, mode: int) -> BinaryIO:
    """A new file, to be written; what is there already is never written to. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, mode), "wb")


def _sync_all(folder: Path) -> None:
    """Everything written to the disk that `folder` is on, at once: thousands of files take long
    one by one. Raises OSError.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)
