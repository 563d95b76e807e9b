"""The FAT partition, through mtools: a few small files, read and written whole.

mtools believes what a FAT says of its own size and would write behind its partition. So its first
sector is looked at here before any tool is.

Source: Microsoft's FAT specification, "Boot Sector and BPB".
"""

from __future__ import annotations

import struct
from pathlib import Path

from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fleet.flash.partitions import SECTOR, Partition
from edge_runtime.fleet.flash.tools import IMAGE, last_words, run
from edge_runtime.text import plain

MAX_FILE_BYTES = 1 << 20


def is_fat(path: Path, partition: Partition) -> bool:
    """Whether it looks like one; `Fat` says whether it is sound."""
    sector = _first(path, partition)
    return sector[510:] == b"\x55\xaa" and (
        sector[54:57] == b"FAT" or sector[82:85] == b"FAT"
    ) and sector[0] in (0xEB, 0xE9)  # fmt: skip


class Fat:
    """The FAT in `partition` of the image that is called `image` in `folder`.

    Raises:
        InputError: it is larger than its partition, or contradicts itself.
    """

    def __init__(self, folder: Path, partition: Partition, where: str) -> None:
        self._folder = folder
        self._drive = f"{IMAGE}@@{partition.start_bytes}"
        self._where = f"{where}: FAT in partition {partition.number}"
        sector = _first(folder / IMAGE, partition)
        bytes_per, per_cluster, reserved, fats, roots, small = struct.unpack_from(
            "<HBHBHH", sector, 11
        )
        (fat16,) = struct.unpack_from("<H", sector, 22)
        large, fat32 = struct.unpack_from("<II", sector, 32)
        total, fat = small or large, fat16 or fat32
        if bytes_per != SECTOR or per_cluster not in (1, 2, 4, 8, 16, 32, 64, 128):
            raise InputError(
                f"{self._where}: has sectors of {bytes_per} bytes, {per_cluster} a cluster; "
                f"expected {SECTOR}, and a power of two"
            )
        if total * SECTOR > partition.size_bytes:
            raise InputError(
                f"{self._where}: says it has {total} sectors, its partition has "
                f"{partition.size_bytes // SECTOR}"
            )
        head = reserved + fats * fat + -(-roots * 32 // SECTOR)
        if reserved == 0 or fats not in (1, 2) or fat == 0 or head >= total:
            raise InputError(f"{self._where}: leaves no room for files")

    def names(self) -> tuple[str, ...]:
        """Of the files in the top folder.

        Raises:
            InputError: it cannot be read.
        """
        ran = run("mdir", "-b", "-i", self._drive, "::/", folder=self._folder, timeout_s=60)
        if ran.code != 0 or not ran.whole:
            raise InputError(f"{self._where}: cannot be read: {last_words(ran.err)}")
        lines = ran.out.decode("utf-8", "replace").splitlines()
        return tuple(line[3:].rstrip("/") for line in lines if line.startswith("::/"))

    def read(self, name: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """A file that is there.

        Raises:
            InputError: it cannot be read, or is larger than `max_bytes`.
        """
        ran = run(
            "mtype", "-i", self._drive, f"::/{name}",
            folder=self._folder, max_out_bytes=max_bytes, timeout_s=60,
        )  # fmt: skip
        if not ran.whole:
            raise InputError(f"{self._where}: {plain(name)} has more than {max_bytes} bytes")
        if ran.code != 0:
            raise InputError(f"{self._where}: {plain(name)}: {last_words(ran.err)}")
        return ran.out

    def write(self, name: str, data: bytes) -> None:
        """Put `data` in place of a file, and read it back.

        Raises:
            DeviceError: it did not get there.
        """
        source = self._folder / "fat-file"
        source.write_bytes(data)
        ran = run(
            "mcopy", "-o", "-i", self._drive, source.name, f"::/{name}",
            folder=self._folder, timeout_s=60,
        )  # fmt: skip
        source.unlink()
        if ran.code != 0 or self.read(name) != data:
            raise DeviceError(f"{self._where}: {name} cannot be written: {last_words(ran.err)}")


def _first(path: Path, partition: Partition) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(partition.start_bytes)
            return file.read(SECTOR).ljust(SECTOR, b"\0")
    except OSError as reason:
        raise DeviceError(f"{path}: cannot be read ({reason.strerror})") from None
