"""A .deb from files in memory: ar around two tars. Root's, sorted as given, no clock but its own.

dpkg-deb would do; but it sorts by name, and the order here is what keeps the beginning of two
releases alike: vendored wheels first, our own files last. Nothing on this machine (umask, users,
folders, clock) reaches the package.

Source: deb(5).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True, slots=True)
class File:
    """A plain file; `path` is absolute on the device, without the leading slash."""

    path: PurePosixPath
    data: bytes
    mtime: int
    executable: bool = False


def segments(groups: Sequence[Iterable[File]], folder_mtime: int) -> list[bytes]:
    """A tar of all files, cut behind each group. Folders come before what is in them.

    Args:
        folder_mtime: the time of every folder: the same for all releases.
    """
    made: set[PurePosixPath] = set()
    parts = []
    for group in groups:
        out = io.BytesIO()
        for file in group:
            for folder in reversed(file.path.parents):
                if folder not in made:
                    made.add(folder)
                    out.write(_folder(folder, folder_mtime))
            out.write(_header(file))
            out.write(file.data)
            out.write(bytes(-len(file.data) % tarfile.BLOCKSIZE))
        parts.append(out.getvalue())
    return [*parts[:-1], parts[-1] + _END]


def ar(members: Iterable[tuple[str, bytes]], mtime: int) -> bytes:
    """An `ar` archive as dpkg wants it: names as they are, everything root's, modes 0644."""
    out = [b"!<arch>\n"]
    for name, data in members:
        out.append(f"{name:<16}{mtime:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
        out.append(data + b"\n" * (len(data) % 2))
    return b"".join(out)


def installed_kib(groups: Sequence[Iterable[File]]) -> int:
    """What Installed-Size says: files in whole KiB, and one for each folder."""
    files = [file for group in groups for file in group]
    folders = {folder for file in files for folder in file.path.parents}
    return sum(-(-len(file.data) // 1024) for file in files) + len(folders)


def _folder(path: PurePosixPath, mtime: int) -> bytes:
    name = "./" if path == PurePosixPath() else f"./{path}/"
    return _entry(name, 0, 0o755, mtime, tarfile.DIRTYPE)


def _header(file: File) -> bytes:
    mode = 0o755 if file.executable else 0o644
    return _entry(f"./{file.path}", len(file.data), mode, file.mtime, tarfile.REGTYPE)


def _entry(name: str, size: int, mode: int, mtime: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime, info.type = size, mode, mtime, kind
    info.uname = info.gname = "root"
    return info.tobuf(tarfile.GNU_FORMAT)
