"""The board's SD card: an image with partitions, whose writes are logged; and a look at it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import DeviceError
from tests.board import host
from tests.board.disk import CLEAN, REPAIRED, Logged

SECTOR = 512
FAT = ("b", "c")
"""Types of partitions."""
COPIED = 64 << 20
"""At once."""
STATE = "/var/lib/private/edge-agent"
"""Where systemd keeps the state of a service whose user is dynamic."""


@dataclass(frozen=True, slots=True)
class Found:
    """The card as it would be after a power cut: a copy that may be changed.

    `boot` is where the FAT partition begins and ends, None where there is none.
    """

    image: Path
    boot: tuple[int, int] | None
    root_at: int

    @property
    def _root(self) -> str:
        return f"{self.image}?offset={self.root_at}"

    def repair(self) -> None:
        """What a kernel does when it mounts, then a look at everything.

        Raises:
            DeviceError: the root file system is damaged.
        """
        # Alone in a file: e2fsck forgets an offset when it has replayed a journal.
        alone = self.image.with_suffix(".root")
        _move(self.image, self.root_at, alone, 0)
        try:
            host.call("e2fsck", "-p", alone, fine=(CLEAN, REPAIRED))
            host.call("e2fsck", "-f", "-n", alone)
            _move(alone, 0, self.image, self.root_at)
        finally:
            alone.unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """What lies in a folder of the root file system; nothing where there is none."""
        said = host.ask("debugfs", "-R", f"ls -p {folder}", self._root)
        rows = [line.split("/") for line in said.splitlines() if line.startswith("/")]
        return sorted(row[5] for row in rows if len(row) > 5 and row[5] not in (".", ".."))

    def modes(self, folder: str) -> dict[str, tuple[int, int]]:
        """(mode, user id) of all that lies in a folder of the root file system."""
        said = host.ask("debugfs", "-R", f"ls -p {folder}", self._root)
        rows = [line.split("/") for line in said.splitlines() if line.startswith("/")]
        return {row[5]: (int(row[2], 8), int(row[3])) for row in rows if len(row) > 5}

    def text(self, path: str) -> str:
        """A file of the root file system."""
        return host.ask("debugfs", "-R", f"cat {path}", self._root)

    def folder(self, path: str, to: Path) -> Path:
        """A folder of the root file system, copied into `to`."""
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir(parents=True)
        host.call("debugfs", "-R", f"rdump {path} {to}", self._root)
        found = to / Path(path).name
        if not found.is_dir():
            raise DeviceError(f"{path}: the card has no such folder")
        return found

    def boot_text(self, name: str) -> str:
        """A file of the FAT partition."""
        if self.boot is None:
            return ""
        return host.ask("mtype", "-i", f"{self.image}@@{self.boot[0]}", f"::/{name}")

    def boot_bytes(self) -> bytes:
        """The whole FAT partition, what was deleted included."""
        if self.boot is None:
            return b""
        with self.image.open("rb") as file:
            file.seek(self.boot[0])
            return file.read(self.boot[1] - self.boot[0])


class Card(Logged):
    """A card of `size_bytes`, with `image` at its beginning. `image` is what is on it."""

    def __init__(self, folder: Path, image: Path, size_bytes: int) -> None:
        super().__init__(folder, image)
        if image.stat().st_size > size_bytes:
            raise DeviceError(f"{image}: does not fit a card of {size_bytes} bytes")
        with image.open("r+b") as file:
            file.truncate(size_bytes)

    def found(self) -> Found:
        """The card as it would be after a power cut now."""
        return self._at(self.settled())

    def resting(self) -> Found:
        """The card itself, while the board is off: not to be changed."""
        return self._at(self.image)

    def _at(self, image: Path) -> Found:
        table = json.loads(host.ask("sfdisk", "--json", image))["partitiontable"]["partitions"]
        places = [(int(one["start"]) * SECTOR, int(one["size"]) * SECTOR) for one in table]
        boot = [begin for begin, one in zip(places, table, strict=True) if one["type"] in FAT]
        root_at = places[-1][0]
        return Found(image, (boot[0][0], sum(boot[0])) if boot else None, root_at)


def _move(source: Path, source_at: int, target: Path, target_at: int) -> None:
    """Copy what is in `source` from an offset on to another one of `target`; holes stay holes."""
    with source.open("rb") as reader, target.open("r+b" if target.exists() else "w+b") as writer:
        end = reader.seek(0, os.SEEK_END)
        writer.truncate(max(target_at + end - source_at, writer.seek(0, os.SEEK_END)))
        at = source_at
        while at < end:
            try:
                at = os.lseek(reader.fileno(), at, os.SEEK_DATA)
            except OSError:
                return  # Nothing but a hole is left.
            hole = os.lseek(reader.fileno(), at, os.SEEK_HOLE)
            while at < hole:
                count = os.copy_file_range(
                    reader.fileno(), writer.fileno(), min(hole - at, COPIED), at,
                    target_at + at - source_at,
                )  # fmt: skip
                at += count
