"""The machine with a card in it, and what a Raspberry Pi's firmware does: it reads `cmdline.txt`.

Whatever restarts the board by itself, as a first boot does, ends the emulator; `check` then reads
`cmdline.txt` anew and starts it again, as the firmware would.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from edge_runtime.errors import DeviceError
from tests.board.emulator import Machine
from tests.board.whole.base import Base
from tests.board.whole.card import Card

SERIAL = "ttyAMA0"
OWN_WORDS = (
    f"console={SERIAL}", "systemd.show_status=1", "systemd.journald.forward_to_console=1",
    "systemd.journald.max_level_console=info", "panic=-1", "net.ifnames=0",
)  # fmt: skip
"""What the emulator adds, so that the serial log has everything."""
JETSON_WORDS = ("root=/dev/vda1", "rw", "rootwait")
"""A Jetson's boot loader reads them from a file of the root file system; here they stand."""
HTTP_PORT = 8081
"""Of the board, where `board-http.socket` passes on to the agent's API."""
RESTARTS = ("reboot: Restarting system", "sysrq: Resetting", "reboot: System halted")
MOST_RESTARTS = 6


class PiMachine(Machine):
    """A board with `card`. All consoles of its boots together are `serial`."""

    memory_mib = 1024

    def __init__(self, base: Base, card: Card, folder: Path, http_port: int) -> None:
        super().__init__(folder)
        self.card = card
        self.http_port = http_port
        self.restarts = 0
        self._base = base
        self._in_1970 = False
        self._since = 1

    def power_on(self, *, in_1970: bool = False) -> None:
        """Begin to boot."""
        self.restarts = 0
        self._since = self.boots + 1
        self._in_1970 = in_1970
        self._boot()

    def _boot(self) -> None:
        words = self.card.resting().boot_text("cmdline.txt").split() or list(JETSON_WORDS)
        words = [word for word in words if not word.startswith("console=")]
        forward = f"hostfwd=tcp:127.0.0.1:{self.http_port}-:{HTTP_PORT}"
        devices = [
            *self.card.attach(),
            "-netdev", f"user,id=n0,{forward}",
            "-device", "virtio-net-pci,netdev=n0,romfile=",
            "-device", "virtio-rng-pci",
        ]  # fmt: skip
        self.start(
            self._base.kernel, self._base.initrd, " ".join((*words, *OWN_WORDS)), devices,
            in_1970=self._in_1970,
        )  # fmt: skip

    def check(self) -> None:
        """Start it again where it restarted by itself.

        Raises:
            DeviceError: it has gone off, or restarts again and again.
        """
        if self._process is not None and self._process.poll() is not None:
            end = self.last()[-3000:]
            if self._process.returncode == 0 and any(word in end for word in RESTARTS):
                self.restarts += 1
                if self.restarts > MOST_RESTARTS:
                    raise DeviceError(f"the board restarts again and again: {end[-600:]}")
                self.card.keep()
                self._boot()
                return
        super().check()

    def last(self) -> str:
        """The console of the last start alone."""
        return super().said()

    def said(self) -> str:
        """The console since the power went on, over all restarts."""
        paths = [self._console(boot) for boot in range(self._since, self.boots + 1)]
        return "".join(path.read_text(errors="replace") for path in paths if path.exists())

    def _console(self, boot: int) -> Path:
        return self.folder / f"console-{boot:03}.log"

    def says(self) -> dict[str, str]:
        """The last line of `board-says`."""
        lines = re.findall(r"BOARD (date=.*)", self.last())
        return (
            dict(word.split("=", 1) for word in lines[-1].split() if "=" in word) if lines else {}
        )


def clock(since_s: float) -> str:
    """For a line of progress."""
    return f"{time.monotonic() - since_s:7.1f} s"
