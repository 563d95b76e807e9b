"""Reading a bundle's bytes, from a folder or from one `.edge` file, and packing that file.

A `Reader` hands out the bytes of one path at a time, never more than the caller asked for, and
follows no link. It believes nothing: `verify` compares what it hands out with the manifest, and
only paths that the manifest names are ever asked for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from edge_runtime.bundle.container import (
    MAX_ARCHIVE_BYTES,
    MAX_MEMBERS,
    Member,
    directory,
    local_header,
    read_members,
)
from edge_runtime.bundle.durable import replacing
from edge_runtime.bundle.files import FileEntry, safe_path
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from edge_runtime.errors import DeviceError, InputError, UntrustedError


class Reader(Protocol):
    """Bytes of a bundle by path. `where` says which bundle, for error messages."""

    @property
    def where(self) -> str:
        """What a person calls the place that is read."""
        ...

    def names(self) -> tuple[str, ...]:
        """Every path that is there, named by the manifest or not; the manifest is one of them."""
        ...

    def read(self, path: str, max_bytes: int) -> bytes:
        """The whole file.

        Raises:
            UntrustedError: not there, no plain file, or larger than `max_bytes`.
            DeviceError: the disk failed.
        """
        ...

    def pieces(self, entry: FileEntry) -> Iterator[bytes]:
        """The same file, cut where `entry` cuts it, one piece in memory at a time; unchecked.

        Raises:
            UntrustedError: not there, no plain file, or not of the size that `entry` says.
            DeviceError: the disk failed.
        """
        ...


class FolderReader:
    """A bundle as a folder. Links are refused at every level, also ones swapped in meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.where = f"bundle {folder}"

    def names(self) -> tuple[str, ...]:
        """Sorted. Links are listed, not followed."""
        found: list[str] = []
        for folder, folders, files in os.walk(self._folder):
            inside = Path(folder)
            linked = [name for name in folders if (inside / name).is_symlink()]
            for name in files + linked:
                found.append((inside / name).relative_to(self._folder).as_posix())
            if len(found) > MAX_MEMBERS:
                raise UntrustedError(f"{self.where}: more than {MAX_MEMBERS} files")
        return tuple(sorted(found))

    def read(self, path: str, max_bytes: int) -> bytes:
        """Each level is opened relative to the one before and must not be a link."""
        with self._opened(path) as (stream, size_bytes):
            if size_bytes > max_bytes:
                raise _too_large(self.where, path, size_bytes, max_bytes)
            data = stream.read(size_bytes + 1)
        if len(data) != size_bytes:
            raise UntrustedError(f"{self.where}: {path!r} changed while it was read")
        return data

    def pieces(self, entry: FileEntry) -> Iterator[bytes]:
        """Opened as by `read`."""
        with self._opened(entry.path) as (stream, size_bytes):
            _demand_size(self.where, entry, size_bytes)
            for chunk in entry.chunks:
                yield stream.read(chunk.size_bytes)

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[tuple[BinaryIO, int]]:
        """A plain file, and its size. What fails inside is told as if opening it had failed."""
        if not safe_path(path):
            raise UntrustedError(f"{self.where}: {path!r} is not a plain relative path")
        *folders, name = path.split("/")
        try:
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                for folder in folders:
                    inner = os.open(
                        folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor
                    )
                    os.close(descriptor)
                    descriptor = inner
                # A pipe called model.onnx must not block us: O_NONBLOCK.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                file = os.open(name, flags, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            try:
                found = os.fstat(file)
                if not stat.S_ISREG(found.st_mode):
                    raise UntrustedError(f"{self.where}: {path!r} is not a plain file")
                with open(file, "rb", closefd=False) as stream:
                    yield stream, found.st_size
            finally:
                os.close(file)
        except OSError as reason:
            raise self._unreadable(path, reason) from None

    def _unreadable(self, path: str, reason: OSError) -> UntrustedError | DeviceError:
        if reason.errno == errno.ENOENT:
            return UntrustedError(f"{self.where}: {path!r} is missing")
        if reason.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            return UntrustedError(f"{self.where}: {path!r} is a link or no plain file")
        return DeviceError(f"{self.where}: {path!r} cannot be read ({reason.strerror})")


class ArchiveReader:
    """A bundle as one `.edge` file.

    Raises:
        UntrustedError: the file is not an archive as `container` demands it.
        InputError: it cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.where = f"bundle {file}"
        try:
            with open(file, "rb") as stream:
                size_bytes = os.fstat(stream.fileno()).st_size
                members = read_members(stream, size_bytes, self.where)
        except OSError as reason:
            raise InputError(f"{self.where}: cannot be read ({reason.strerror})") from None
        self._members: dict[str, Member] = {member.path: member for member in members}

    def names(self) -> tuple[str, ...]:
        """In the order of the archive."""
        return tuple(self._members)

    def read(self, path: str, max_bytes: int) -> bytes:
        """The member's bytes, its checksum checked."""
        member = self._member(path)
        if member.size_bytes > max_bytes:
            raise _too_large(self.where, path, member.size_bytes, max_bytes)
        try:
            with open(self._file, "rb") as stream:
                stream.seek(member.data_offset)
                data = stream.read(member.size_bytes)
        except OSError as reason:
            raise DeviceError(
                f"{self.where}: {path!r} cannot be read ({reason.strerror})"
            ) from None
        if len(data) != member.size_bytes or zlib.crc32(data) != member.crc32:
            raise UntrustedError(f"{self.where}: {path!r} is damaged (checksum does not match)")
        return data

    def pieces(self, entry: FileEntry) -> Iterator[bytes]:
        """The checksum is left alone: whoever reads so holds every piece to its digest."""
        member = self._member(entry.path)
        _demand_size(self.where, entry, member.size_bytes)
        try:
            with open(self._file, "rb") as stream:
                stream.seek(member.data_offset)
                for chunk in entry.chunks:
                    yield stream.read(chunk.size_bytes)
        except OSError as reason:
            raise DeviceError(
                f"{self.where}: {entry.path!r} cannot be read ({reason.strerror})"
            ) from None

    def _member(self, path: str) -> Member:
        member = self._members.get(path)
        if member is None:
            raise UntrustedError(f"{self.where}: {path!r} is missing")
        return member


def _demand_size(where: str, entry: FileEntry, found: int) -> None:
    if found != entry.size_bytes:
        raise UntrustedError(
            f"{where}: {entry.path!r} has {found} bytes, expected {entry.size_bytes}"
        )


def _too_large(where: str, path: str, found: int, max_bytes: int) -> UntrustedError:
    return UntrustedError(f"{where}: {path!r} has {found} bytes, at most {max_bytes} expected")


def open_bundle(path: Path) -> Reader:
    """A reader for a folder or an `.edge` file.

    Raises:
        InputError: there is neither at `path`, or it cannot be opened.
        UntrustedError: the file is no `.edge` archive.
    """
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as reason:  # A folder that may not be entered, a name that no disk can have.
        raise InputError(f"bundle {path}: cannot be read ({reason.strerror})") from None
    if is_folder:
        return FolderReader(path)
    if is_file:
        return ArchiveReader(path)
    raise InputError(f"bundle {path}: no such folder or .edge file")


def pack(reader: Reader, out: Path) -> int:
    """Write the bundle as one `.edge` file and return its size in bytes.

    The same manifest gives the same bytes: the manifest, then its files sorted by path, times
    fixed. Files that the manifest does not name stay out. Holds one file in memory at a time.

    Raises:
        UntrustedError: a file is missing, or it or its chunk list differs from the manifest.
        InputError: more than 4 GiB.
        DeviceError: `out` cannot be written; what stood there stays.
    """
    manifest_bytes = reader.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
    manifest = Manifest.from_bytes(manifest_bytes, where=f"{reader.where}: {MANIFEST_NAME}")
    if manifest.size_bytes + MAX_MANIFEST_BYTES * 8 > MAX_ARCHIVE_BYTES:
        raise InputError(f"{reader.where}: {manifest.size_bytes} bytes do not fit an .edge file")
    members: list[Member] = []
    with replacing(out) as file:

        def add(path: str, data: bytes) -> None:
            member, header = local_header(path, len(data), zlib.crc32(data), file.tell())
            file.write(header)
            file.write(data)
            members.append(member)

        add(MANIFEST_NAME, manifest_bytes)
        for entry in sorted(manifest.files, key=lambda entry: entry.path):
            data = reader.read(entry.path, entry.size_bytes)
            entry.check(data, reader.where)
            entry.check_chunks(data, reader.where)
            add(entry.path, data)
        file.write(directory(members, file.tell()))
        return file.tell()
