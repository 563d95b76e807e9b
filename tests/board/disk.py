"""The board's data disk: what is on it, what a power cut leaves of it, and a look at it from here.

`image` is the disk as the last power cut left it. The emulator writes to a copy, and a log tells
what it wrote and flushed; see `writelog`.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from random import Random

from edge_runtime.errors import DeviceError
from tests.board import host
from tests.board.writelog import Left, count, settle

SIZE_MIB = 160
JOURNAL_MIB = 8
CLEAN, REPAIRED = 0, 1
"""Exit codes of e2fsck."""


class Logged:
    """A disk image in `folder`, whose writes and flushes are logged while a board runs."""

    def __init__(self, folder: Path, image: Path) -> None:
        self.image = image
        self._running = folder / "running.img"
        self._log = folder / "writes.log"
        self._look = folder / "look"

    def attach(self) -> list[str]:
        """Options of the emulator for a disk with a cache that only a flush empties."""
        _copy(self.image, self._running)
        self._log.unlink(missing_ok=True)
        self._log.touch()
        return [
            "-blockdev", f"driver=file,node-name=disk,filename={self._running}",
            "-blockdev", f"driver=file,node-name=log,filename={self._log}",
            "-blockdev", "driver=blklogwrites,node-name=data,file=disk,log=log",
            "-device", "virtio-blk-pci,drive=data",
        ]  # fmt: skip

    def cut(self, random: Random) -> Left:
        """The power is gone: `image` is what the disk has now."""
        left = settle(self._log, self.image, random)
        self._log.unlink()
        self._log.touch()
        return left

    def keep(self) -> None:
        """The board restarted by itself: nothing that it wrote is lost."""
        self._running.replace(self.image)
        self._log.unlink()
        self._log.touch()

    def await_write(self, timeout_s: float) -> None:
        """Until the board writes something, or for so long."""
        end_s, before = time.monotonic() + timeout_s, self._log.stat().st_size
        while self._log.stat().st_size == before and time.monotonic() < end_s:
            time.sleep(0.0005)

    @property
    def requests(self) -> int:
        """Writes and flushes since it was attached."""
        return count(self._log)

    def settled(self, upto: int | None = None, random: Random | None = None) -> Path:
        """A copy of the disk as it would be after a power cut now; for arguments see `look`."""
        self._look.mkdir(exist_ok=True)
        copy = self._look / "look.img"
        _copy(self.image, copy)
        settle(self._log, copy, random, upto)
        return copy


class Disk(Logged):
    """An ext4 file system with the files of `contents`, in `folder`."""

    def __init__(self, folder: Path, contents: Path) -> None:
        super().__init__(folder, folder / "data.img")
        host.call(
            "mke2fs", "-q", "-t", "ext4", "-m", "0", "-J", f"size={JOURNAL_MIB}",
            "-E", "lazy_itable_init=0,lazy_journal_init=0",
            "-d", contents, self.image, f"{SIZE_MIB}M",
        )  # fmt: skip

    def look(self, upto: int | None = None, random: Random | None = None) -> Path:
        """The disk's files, in a folder, as they would be after a power cut now.

        Args:
            upto: or as they had been after so many requests.
            random: decides what survives without a flush; None: nothing does.

        Raises:
            DeviceError: the file system is damaged, which no power cut may do.
        """
        copy, files = self.settled(upto, random), self._look / "files"
        # First what the kernel does when it mounts, then a look at everything.
        host.call("e2fsck", "-p", copy, fine=(CLEAN, REPAIRED))
        host.call("e2fsck", "-f", "-n", copy)
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir()
        host.call("debugfs", "-R", f"rdump / {files}", copy)
        copy.unlink()
        return files


def _copy(image: Path, to: Path) -> None:
    """Holes stay holes."""
    done = subprocess.run(
        ["cp", "--sparse=always", str(image), str(to)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DeviceError(f"{image}: cannot be copied ({done.stderr.strip()})")
