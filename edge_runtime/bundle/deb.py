"""Reading a Debian package (.deb) without dpkg, strictly and within limits.

A .deb is an `ar` archive of three members: `debian-binary`, `control.tar.*`, `data.tar.*`. Only
what is asked for is read: the fields of `control`, and the files below one folder, one after the
other. No script of a package is ever looked at. What is compressed with zstd is refused in a
sentence: the Pythons of the boards cannot read it.

Sources: deb(5), deb-control(5).
"""

from __future__ import annotations

import contextlib
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, BinaryIO, Protocol

from edge_runtime.bundle.agent_package import MAX_PACKAGE_BYTES
from edge_runtime.errors import IncompatibleError, InputError, UntrustedError

MAGIC = b"!<arch>\n"
MAX_CONTROL_BYTES = 1 << 20
MAX_UNPACKED_BYTES = 1 << 30
MAX_ENTRIES = 32_768
MAX_PATH = 512
MAX_DEPTH = 24
MAX_XZ_MEMORY = 128 << 20
"""What a decompressor may use: `xz -9` needs 65 MiB."""
_HEADER_BYTES = 60
_SLICE = 64 << 10
_FIELD = re.compile(r"([!-9;-~]+):[ \t]*(.*)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder or a plain file; `path` is relative to the folder that was asked for."""

    path: str
    is_folder: bool
    executable: bool
    size_bytes: int


class _Source(Protocol):
    def read(self, size: int) -> bytes: ...


class Deb:
    """The package in `file`, which stays open as long as this is used.

    `control` has its fields, their names in small letters; `made_s` is when it says it was made.

    Raises:
        InputError: it is no .deb.
        IncompatibleError: it is compressed in a way that this software does not read.
        UntrustedError: it is damaged, or larger than a package may be.
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.where = where
        self.made_s = 0.0
        self._file = file
        self._places = self._look_through()
        self.control = self._read_control()

    def walk(self, folder: str) -> Iterator[tuple[Entry, IO[bytes] | None]]:
        """What is below `folder`, in the package's order; a file with its bytes, to be read now.

        Files elsewhere are passed over, whatever they are.

        Raises:
            UntrustedError: something below `folder` is neither folder nor plain file, has a path
                that leads elsewhere or twice to the same place, may run as another user, or there
                is more of all than `MAX_ENTRIES` and `MAX_UNPACKED_BYTES`.
        """
        seen: set[str] = set()
        with self._sentences(), self._opened("data.tar") as tar:
            for number, info in enumerate(tar):
                if number >= MAX_ENTRIES:
                    raise UntrustedError(f"{self.where}: more than {MAX_ENTRIES} entries")
                path = below(info.name, folder)
                if not path:
                    continue
                entry = self._entry(info, path)
                if path.casefold() in seen:
                    raise UntrustedError(f"{self.where}: {path!r} is there twice")
                seen.add(path.casefold())
                yield entry, None if entry.is_folder else tar.extractfile(info)

    def _entry(self, info: tarfile.TarInfo, path: str) -> Entry:
        if not (info.isdir() or (info.isreg() and not info.issparse())):
            raise UntrustedError(f"{self.where}: {path!r} is a link or no plain file")
        if info.mode & 0o7000:
            raise UntrustedError(f"{self.where}: {path!r} has mode {info.mode:o}")
        if not plain_path(path):
            raise UntrustedError(f"{self.where}: {path[:80]!r} is not a path that a tree may have")
        size_bytes = 0 if info.isdir() else info.size
        return Entry(path, info.isdir(), bool(info.mode & 0o100), size_bytes)

    def _look_through(self) -> dict[str, tuple[str, int, int]]:
        """(name, offset, size) of each member by its name without a suffix."""
        found: dict[str, tuple[str, int, int]] = {}
        whole = self._file.seek(0, io.SEEK_END)
        self._file.seek(0)
        if self._file.read(len(MAGIC)) != MAGIC:
            raise InputError(f"{self.where}: is no Debian package")
        offset = len(MAGIC)
        while len(header := self._file.read(_HEADER_BYTES)) == _HEADER_BYTES:
            name = header[:16].decode("latin-1").strip().rstrip("/")
            digits = header[48:58].decode("latin-1").strip()
            if header[58:] != b"`\n" or not digits.isdecimal():
                raise UntrustedError(f"{self.where}: its archive is damaged")
            start, size_bytes = offset + _HEADER_BYTES, int(digits)
            for known in ("debian-binary", "control.tar", "data.tar"):
                if name == known or name.startswith(f"{known}."):
                    found.setdefault(known, (name, start, size_bytes))
            made = header[16:28].decode("latin-1").strip()
            self.made_s = max(self.made_s, float(made) if made.isdecimal() else 0.0)
            offset = start + size_bytes + size_bytes % 2
            if start + size_bytes > whole:
                raise UntrustedError(f"{self.where}: is cut off")
            if offset > MAX_PACKAGE_BYTES:
                raise UntrustedError(f"{self.where}: more than {MAX_PACKAGE_BYTES} bytes")
            self._file.seek(offset)
        missing = {"debian-binary", "control.tar", "data.tar"} - found.keys()
        if missing:
            raise InputError(f"{self.where}: is no Debian package, it has no {min(missing)}")
        return found

    def _read_control(self) -> Mapping[str, str]:
        with self._sentences(), self._opened("control.tar") as tar:
            for info in tar:
                if info.name in ("control", "./control") and info.isreg():
                    file = tar.extractfile(info)
                    if file is not None and info.size <= MAX_CONTROL_BYTES:
                        return _fields(file.read().decode("utf-8", "replace"))
        raise UntrustedError(f"{self.where}: it has no control file")

    @contextlib.contextmanager
    def _opened(self, member: str) -> Iterator[tarfile.TarFile]:
        name, start, size_bytes = self._places[member]
        most = MAX_CONTROL_BYTES if member == "control.tar" else MAX_UNPACKED_BYTES
        raw = _Slice(self._file, start, size_bytes)
        source = _Inflated(raw, _codec(name, self.where), most, self.where)
        # A stream: read once from front to back, so that nothing of it is kept in memory.
        with tarfile.open(fileobj=source, mode="r|", bufsize=_SLICE) as tar:  # type: ignore[call-overload]
            yield tar

    @contextlib.contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as reason:
            raise UntrustedError(f"{self.where}: is damaged ({reason})") from None


def below(name: str, folder: str) -> str:
    """`name` of an archive relative to `folder`; empty where it is not below it."""
    path = name.removeprefix("./").rstrip("/")
    return path[len(folder) + 1 :] if path.startswith(f"{folder}/") else ""


def plain_path(path: str) -> bool:
    """Relative, printable ASCII, forward slashes, no empty name, none of `.` and `..`."""
    parts = path.split("/")
    return (
        0 < len(path) <= MAX_PATH
        and len(parts) <= MAX_DEPTH
        and path.isascii()
        and path.isprintable()
        and "\\" not in path
        and all(part not in ("", ".", "..") for part in parts)
    )


def _fields(text: str) -> dict[str, str]:
    """The first paragraph of a control file; lines that go on are joined."""
    found: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if not line.strip():
            break
        match = _FIELD.fullmatch(line)
        if line[0] in " \t":
            found[last] = f"{found.get(last, '')}\n{line.strip()}"
        elif match is not None:
            last = match[1].lower()
            found[last] = match[2].strip()
    return found


class _Slice:
    """A member of the archive, from front to back."""

    def __init__(self, file: BinaryIO, start: int, size_bytes: int) -> None:
        self._file = file
        self._at, self._end = start, start + size_bytes

    def read(self, size: int) -> bytes:
        self._file.seek(self._at)
        data = self._file.read(min(size, self._end - self._at))
        self._at += len(data)
        return data


class _Codec(Protocol):
    """Feeds on compressed bytes and gives at most so many others."""

    def take(self, data: bytes, most: int) -> bytes: ...

    @property
    def hungry(self) -> bool: ...


class _Plain:
    def __init__(self) -> None:
        self._left = b""

    def take(self, data: bytes, most: int) -> bytes:
        whole = self._left + data
        self._left = whole[most:]
        return whole[:most]

    @property
    def hungry(self) -> bool:
        return not self._left


class _Xz:
    def __init__(self) -> None:
        self._made = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY)

    def take(self, data: bytes, most: int) -> bytes:
        return b"" if self._made.eof else self._made.decompress(data, most)

    @property
    def hungry(self) -> bool:
        return self._made.needs_input or self._made.eof  # What stands behind the end is let go of.


class _Gzip:
    def __init__(self) -> None:
        self._made = zlib.decompressobj(31)

    def take(self, data: bytes, most: int) -> bytes:
        return self._made.decompress(self._made.unconsumed_tail + data, most)

    @property
    def hungry(self) -> bool:
        return not self._made.unconsumed_tail


def _codec(name: str, where: str) -> _Codec:
    match name.rpartition(".")[2]:
        case "tar":
            return _Plain()
        case "xz":
            return _Xz()
        case "gz":
            return _Gzip()
        case other:
            raise IncompatibleError(
                f"{where}: {name} is compressed as {other[:8]!r}, expected xz or gz"
            )


class _Inflated:
    """The bytes behind `raw`, decompressed; at most `most` of them.

    Raises:
        UntrustedError: there are more.
    """

    def __init__(self, raw: _Source, codec: _Codec, most: int, where: str) -> None:
        self._raw = raw
        self._codec = codec
        self._left = most
        self._where = where

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end only."""
        while True:
            data = self._raw.read(_SLICE) if self._codec.hungry else b""
            fed = bool(data) or not self._codec.hungry
            made = self._codec.take(data, size)
            self._left -= len(made)
            if self._left < 0:
                raise UntrustedError(f"{self._where}: unpacks to more than may be")
            if made or not fed:
                return made
