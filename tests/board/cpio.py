"""A cpio archive in the "newc" form, as a kernel unpacks it before it has any disk.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterable, Mapping

_TRAILER = "TRAILER!!!"


def initramfs(
    files: Mapping[str, tuple[int, bytes]], folders: Iterable[str], links: Mapping[str, str]
) -> bytes:
    """Gzipped. Files by path, with mode bits and content; empty folders; symbolic links."""
    parts = [_member(path, stat.S_IFDIR | 0o755, b"") for path in folders]
    parts += [_member(path, stat.S_IFREG | mode, data) for path, (mode, data) in files.items()]
    parts += [_member(path, stat.S_IFLNK | 0o777, aim.encode()) for path, aim in links.items()]
    parts.append(_member(_TRAILER, 0, b""))
    return gzip.compress(b"".join(parts), compresslevel=1, mtime=0)


def _member(path: str, mode: int, data: bytes) -> bytes:
    name = path.encode() + b"\0"
    # inode, mode, uid, gid, links, time, size, two devices of two numbers, length of name, check
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(head + name) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
