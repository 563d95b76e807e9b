"""What is put into a file system: folders, files and links, all of them root's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Folder:
    """One to make; where it is there already, it stays as it is."""

    path: str
    mode: int


@dataclass(frozen=True, slots=True)
class File:
    """One to write: these bytes, or the content of a file of ours."""

    path: str
    mode: int
    content: bytes | Path = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """Of its content. Raises OSError."""
        if isinstance(self.content, bytes):
            return len(self.content)
        return self.content.stat().st_size

    @property
    def sha256(self) -> str:
        """Of its content. Raises OSError."""
        if isinstance(self.content, bytes):
            return hashlib.sha256(self.content).hexdigest()
        return sha256_of(self.content)


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    path: str
    target: str


Entry = Folder | File | Link


def sha256_of(path: Path) -> str:
    """Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
