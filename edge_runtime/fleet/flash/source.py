"""The image as it was downloaded, unpacked into a file: .img, .img.xz, .img.gz, or one in a .zip.

What it is, its first bytes say. No size in it is believed: it is unpacked a piece at a time, and
whoever unpacks to more than the limit is refused the moment it does, and leaves nothing. Blocks
of zeros become holes, so that an image takes no more room than what is in it.

Sources: The .xz File Format 1.2.1; RFC 1952; PKWARE's APPNOTE 6.3.10, 4.3.16.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

from edge_runtime.bundle.durable import demand_regular
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fleet.flash.carve import data_ranges
from edge_runtime.text import plain, size

OnProgress = Callable[[int, int], None]

MAX_IMAGE_BYTES = 64 << 30
MAX_XZ_MEMORY_BYTES = 256 << 20
"""What a decoder may take; `xz -9` needs 65 MiB."""
MAX_DIRECTORY_BYTES = 1 << 20
_PIECE = 1 << 20
_HOLE = 64 << 10
_ZEROS = bytes(_HOLE)
XZ, GZIP, ZIP, ZSTD = b"\xfd7zXZ\0", b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd"


def unpack(
    image: Path,
    to: Path,
    max_bytes: int = MAX_IMAGE_BYTES,
    on_progress: OnProgress = lambda _done, _total: None,
    *,
    room: str = "here",
) -> int:
    """Unpack `image` into the new file `to`; its size.

    Args:
        max_bytes: of the unpacked image.
        on_progress: bytes of `image` that were read, and all of them.
        room: where there is no more room than `max_bytes`, for messages.

    Raises:
        InputError: no image, damaged, cut off, or larger than `max_bytes`.
        DeviceError: a disk is full or failing.
    """
    where = plain(str(image))
    try:
        demand_regular(image)  # A pipe would have us wait, and has no holes to look for.
        # Without a buffer, which would not know that holes are looked for behind its back.
        source = image.open("rb", buffering=0)
    except OSError as reason:
        raise InputError(f"{where}: cannot be read ({reason.strerror}), expected a file") from None
    try:
        with source, _Target(to) as target:
            total = os.fstat(source.fileno()).st_size
            for piece in _pieces(source, where):
                if target.done + len(piece) > max_bytes:
                    raise InputError(
                        f"{where}: holds an image of more than {size(max_bytes)} ({max_bytes} "
                        f"bytes), which is all there is room for {room}"
                    )
                target.write(piece)
                on_progress(min(source.tell(), total), total)
            target.finish()
    except OSError as reason:
        raise DeviceError(f"{where}: cannot be unpacked ({reason.strerror or reason})") from None
    done = target.done
    if done == 0:
        raise InputError(f"{where}: is empty")
    return done


class _Target:
    """The new file, written with holes. Its disk's failures name its folder, not the image."""

    def __init__(self, path: Path) -> None:
        self.done = 0
        self._where = plain(str(path.parent))
        with self._told():
            # What gets into it later is secret.
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = FileIO(os.open(path, flags, 0o600), "wb")

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, piece: bytes) -> None:
        """Behind what was written; zeros are left out."""
        view = memoryview(piece)
        with self._told():
            for at in range(0, len(piece), _HOLE):
                block = view[at : at + _HOLE]
                if block != (_ZEROS if len(block) == _HOLE else bytes(len(block))):
                    self._file.seek(self.done + at)
                    while block:
                        block = block[self._file.write(block) :]
        self.done += len(piece)

    def finish(self) -> None:
        """The size, holes at the end included; and all of it on the disk."""
        with self._told():
            self._file.truncate(self.done)
            os.fsync(self._file.fileno())

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as reason:
            raise DeviceError(
                f"{self._where}: the image cannot be written there ({reason.strerror or reason})"
            ) from None


def _pieces(source: FileIO, where: str) -> Iterator[bytes]:
    """What unpacks it, by its first bytes."""
    head = source.read(8)
    source.seek(0)
    if head.startswith(XZ):
        return _unxz(source, where)
    if head.startswith(GZIP):
        return _gunzip(source, where)
    if head.startswith(ZIP):
        return _unzip(source, where)
    if head.startswith(ZSTD):
        raise InputError(f"{where}: is packed with zstd; unpack it first: zstd -d {where}")
    return _plain(source)


def _plain(source: FileIO) -> Iterator[bytes]:
    """The file as it is; its holes are not read, but handed out as zeros."""
    size_bytes = os.fstat(source.fileno()).st_size
    at = 0
    for data, end in (*data_ranges(source.fileno(), 0, size_bytes), (size_bytes, size_bytes)):
        while at < data:
            yield bytes(min(_PIECE, data - at))
            at += min(_PIECE, data - at)
        source.seek(at)
        while at < end and (piece := source.read(min(_PIECE, end - at))):
            at += len(piece)
            yield piece


def _unxz(source: FileIO, where: str) -> Iterator[bytes]:
    """One or more streams, with padding between."""
    rest = b""
    while True:
        rest = rest or source.read(_PIECE)
        if not rest:
            return
        if not rest.strip(b"\0"):
            rest = b""
            continue
        rest = rest.lstrip(b"\0")
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY_BYTES)
        try:
            while not decoder.eof:
                if decoder.needs_input and not rest:
                    rest = source.read(_PIECE)
                    if not rest:
                        raise InputError(f"{where}: is cut off, download it again")
                piece = decoder.decompress(rest, _PIECE)
                rest = b""
                if piece:
                    yield piece
        except lzma.LZMAError as reason:
            raise InputError(f"{where}: is damaged, download it again ({reason})") from None
        rest = decoder.unused_data


def _gunzip(source: FileIO, where: str) -> Iterator[bytes]:
    """One or more members."""
    rest = b""
    while rest := rest or source.read(_PIECE):
        decoder = zlib.decompressobj(31)
        try:
            while not decoder.eof:
                rest = rest or source.read(_PIECE)
                if not rest:
                    raise InputError(f"{where}: is cut off, download it again")
                piece = decoder.decompress(rest, _PIECE)
                rest = decoder.unconsumed_tail
                if piece:
                    yield piece
        except zlib.error as reason:
            raise InputError(f"{where}: is damaged, download it again ({reason})") from None
        rest = decoder.unused_data


def _unzip(source: FileIO, where: str) -> Iterator[bytes]:
    """The one .img in it."""
    _demand_small_directory(source, where)
    try:
        with zipfile.ZipFile(source) as archive:
            names = [n for n in archive.namelist() if n.endswith(".img") and "__MACOSX" not in n]
            if len(names) != 1:
                raise InputError(f"{where}: holds {len(names)} files .img, expected one")
            with archive.open(names[0]) as member:
                while piece := member.read(_PIECE):
                    yield piece
    except (zipfile.BadZipFile, zlib.error, EOFError, lzma.LZMAError) as reason:
        raise InputError(f"{where}: is damaged, download it again ({reason})") from None
    except (RuntimeError, NotImplementedError) as reason:  # Encrypted; a rare method.
        raise InputError(f"{where}: cannot be unpacked ({reason})") from None


def _demand_small_directory(source: FileIO, where: str) -> None:
    """Raises InputError: zipfile would read a directory of any size into memory."""
    end = source.seek(0, os.SEEK_END)
    source.seek(max(0, end - 65557))
    tail = source.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise InputError(f"{where}: is cut off, download it again")
    (length,) = struct.unpack_from("<I", tail, at + 12)
    # 0xffffffff: the real one is in the ZIP64 record, in front of its locator and this.
    record = tail.rfind(b"PK\x06\x06", 0, at)
    if length == 0xFFFFFFFF and record >= 0 and len(tail) >= record + 48:
        (length,) = struct.unpack_from("<Q", tail, record + 40)
    if length > MAX_DIRECTORY_BYTES:
        raise InputError(f"{where}: is an archive of too many files, expected one image")
    source.seek(0)
