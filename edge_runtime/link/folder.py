"""A repository in a folder: a USB stick, a network drive.

Whoever had the stick may have put anything there. So nothing below the folder itself is followed
anywhere: each name on the way is opened without following links, and only a plain file is read,
opened in a way that a pipe or a device cannot hold us.

A file system has no timeouts: a network drive whose server is gone may hold whoever reads it. It
is read only by threads and processes that nobody has to wait for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from edge_runtime.errors import MetadataError, TransferError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class FolderPlace:
    """The files under `root`. See `edge_runtime.link.repository.Place` for what it promises."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._closed = False

    @property
    def address(self) -> str:
        """The folder, for messages."""
        return str(self._root)

    def get(self, path: str, max_bytes: int) -> bytes | None:
        """The file, or None where its own name, or its folder's below the first, is not there.

        That the place itself is there is demanded: a stick that is not mounted holds no news.
        """
        if self._closed:
            raise TransferError(f"{self.address}: is not asked any more")
        *folders, name = path.split("/")
        with contextlib.ExitStack() as opened:
            folder = self._open(str(self._root), _FOLDER, None, opened)
            for depth, part in enumerate(folders):
                try:
                    folder = self._open(part, _FOLDER | os.O_NOFOLLOW, folder, opened)
                except FileNotFoundError:
                    if depth == 0:
                        raise TransferError(f"{self.address}: has no folder {part!r}") from None
                    return None
                except OSError as reason:
                    raise self._error("/".join(folders[: depth + 1]), reason) from None
            try:
                # Looked at first: opening a device may do something. Again: it may be another now.
                self._demand_plain(os.stat(name, dir_fd=folder, follow_symlinks=False), path)
                file = self._open(name, _FILE, folder, opened)
                self._demand_plain(os.fstat(file), path)
                return self._read(file, path, max_bytes)
            except FileNotFoundError:
                return None
            except OSError as reason:
                raise self._error(path, reason) from None

    def _open(self, name: str, flags: int, folder: int | None, opened: contextlib.ExitStack) -> int:
        try:
            descriptor = os.open(name, flags, dir_fd=folder)
        except OSError as reason:
            if folder is None:
                raise TransferError(
                    f"{self.address}: cannot be opened ({reason.strerror})"
                ) from None
            raise
        opened.callback(os.close, descriptor)
        return descriptor

    def _demand_plain(self, found: os.stat_result, path: str) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise TransferError(f"{self.address}: {path!r} is a link or no plain file")

    def _read(self, file: int, path: str, max_bytes: int) -> bytes:
        pieces: list[bytes] = []
        left = max_bytes + 1
        while left and (piece := os.read(file, left)):
            pieces.append(piece)
            left -= len(piece)
        if not left:
            raise MetadataError(f"{self.address}: {path!r} has more than {max_bytes} bytes")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _error(self, path: str, reason: OSError) -> TransferError:
        if reason.errno in (errno.ELOOP, errno.ENOTDIR):  # O_NOFOLLOW met a link.
            return TransferError(f"{self.address}: {path!r} is a link, or its folder is none")
        return TransferError(f"{self.address}: {path!r} cannot be read ({reason.strerror})")

    def rest(self) -> None:
        """Nothing is kept open."""

    def close(self) -> None:
        """For ever."""
        self._closed = True
