"""The machine itself: power on, power cut, and standing still for a look at its disk."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from edge_runtime.errors import DeviceError
from tests.board import host
from tests.board.disk import Disk
from tests.board.image import Image

CPU = "cortex-a76"
CPUS = 2
MEMORY_MIB = 512
BEGINNING_OF_TIME = "1970-01-02T00:00:00"
"""What the clock of a board says that has no battery. Not the first day: ext4 keeps the time of a
removal where it also keeps numbers of inodes, and e2fsck takes what is small for one of those.
"""
REPLY_S = 30.0


class Machine:
    """A board that is an emulator's process; what it says on its console goes to `folder`."""

    memory_mib = MEMORY_MIB

    def __init__(self, folder: Path) -> None:
        self.boots = 0
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._place = tempfile.TemporaryDirectory(prefix="board-")
        # The path of a socket has at most 107 bytes, so it is not in `folder`.
        self._control = Path(self._place.name) / "control"

    @property
    def console(self) -> Path:
        """Of the last boot."""
        return self.folder / f"console-{self.boots:03}.log"

    def start(
        self, kernel: Path, initrd: Path, words: str, devices: Sequence[str], *, in_1970: bool
    ) -> None:
        """Begin to boot, with these words on the kernel's command line."""
        self.boots += 1
        command = [
            host.program("qemu-system-aarch64"), "-M", "virt", "-cpu", CPU, "-smp", str(CPUS),
            "-m", str(self.memory_mib), "-accel", "tcg,thread=multi",
            "-nodefaults", "-display", "none", "-no-reboot",
            "-serial", f"file:{self.console}",
            "-qmp", f"unix:{self._control},server=on,wait=off",
            "-kernel", str(kernel), "-initrd", str(initrd), "-append", words, *devices,
        ]  # fmt: skip
        if in_1970:
            command += ["-rtc", f"base={BEGINNING_OF_TIME}"]
        with (self.folder / "emulator.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def power_cut(self) -> None:
        """At once. A board that is off stays off."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(REPLY_S)
            self._process = None

    def check(self) -> None:
        """Raises DeviceError where it has gone off by itself."""
        if self._process is None or self._process.poll() is not None:
            raise DeviceError(f"the board went off by itself: {self.said()[-600:]}")

    def said(self) -> str:
        """Its console, since the last boot."""
        try:
            return self.console.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing on the board moves inside."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(REPLY_S)
            control.connect(str(self._control))
            with control.makefile("rwb") as made:
                stream = cast(BinaryIO, made)
                _order(stream, "qmp_capabilities")
                _order(stream, "stop")
                try:
                    yield
                finally:
                    _order(stream, "cont")

    def close(self) -> None:
        """Power off for good."""
        self.power_cut()
        self._place.cleanup()


class Emulator(Machine):
    """The board of the power cuts, with `disk`."""

    def __init__(self, image: Image, disk: Disk, folder: Path) -> None:
        super().__init__(folder)
        self.disk = disk
        self._image = image

    def power_on(self, *, in_1970: bool = False, told: Mapping[str, str] | None = None) -> None:
        """Begin to boot. What it is `told` stands in the environment of its processes."""
        words = ["console=ttyAMA0", "quiet", "panic=-1", "net.ifnames=0"]
        words += [f"{name}={value}" for name, value in (told or {}).items()]
        devices = [
            *_read_only("root", self._image.root), *_read_only("code", self._image.code),
            *self.disk.attach(),
            "-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile=",
        ]  # fmt: skip
        self.start(
            self._image.kernel, self._image.initrd, " ".join(words), devices, in_1970=in_1970
        )


def _read_only(name: str, image: Path) -> list[str]:
    """Options for a disk; the board numbers them in the order in which they are named."""
    drive = f"if=none,id={name},file={image},format=raw,readonly=on"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name}"]


def _order(stream: BinaryIO, command: str) -> None:
    """Give the emulator an order, and wait until it was obeyed."""
    stream.write(json.dumps({"execute": command}).encode() + b"\n")
    stream.flush()
    for line in stream:
        answer = json.loads(line)
        if "error" in answer:
            raise DeviceError(f"emulator: {command} failed ({answer['error'].get('desc')})")
        if "return" in answer:
            return
    raise DeviceError(f"emulator: no answer to {command}")
