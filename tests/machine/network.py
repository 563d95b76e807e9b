"""The cable between this host and a machine: it can be pulled, put back, and made slow.

Addresses are of 198.18.0.0/15, which is set aside for tests of devices (RFC 2544).
"""

from __future__ import annotations

import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.machine import host

UNIT = """\
[Match]
Name=host0
[Network]
Address={own}/30
Gateway={other}
LinkLocalAddressing=no
[Link]
RequiredForOnline=routable
"""


@dataclass(frozen=True, slots=True)
class Cable:
    """Addresses of both ends, and the name of the host's."""

    host: str
    machine: str
    link: str

    def unit(self) -> str:
        """For systemd-networkd in the machine."""
        return UNIT.format(own=self.machine, other=self.host)

    def plug(self) -> None:
        """Give the host's end its address; systemd-nspawn has made it."""
        ip("addr", "replace", f"{self.host}/30", "dev", self.link)
        self.join()

    def cut(self) -> None:
        """Nothing goes through, and both ends know."""
        ip("link", "set", self.link, "down")

    def join(self) -> None:
        """Put it back."""
        ip("link", "set", self.link, "up")

    def remove(self) -> None:
        """Both ends. A connection that was cut keeps a dead machine's network for minutes."""
        try:
            ip("link", "delete", self.link)
        except RuntimeError:
            if Path("/sys/class/net", self.link).exists():
                raise

    def slow(self, kbit_per_s: int) -> None:
        """So much goes to the machine, no more."""
        rate = ["rate", f"{kbit_per_s}kbit", "burst", "16kb", "latency", "500ms"]
        _call("tc", "qdisc", "replace", "dev", self.link, "root", "tbf", *rate)


def cable() -> Cable:
    """A new one, with addresses that this host does not use. For one machine at a time."""
    used = ip("-4", "-oneline", "addr")
    while True:
        number = random.SystemRandom().randrange(1 << 15) * 4
        net, low = f"198.{18 + (number >> 16)}.{number >> 8 & 255}", number & 255
        if f"{net}.{low + 1}/" not in used:
            return Cable(f"{net}.{low + 1}", f"{net}.{low + 2}", f"edge-{number:05x}")


def ip(*arguments: str) -> str:
    """iproute2's command on this host; what it says."""
    return _call("ip", *arguments)


def _call(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, env=host.environment(), check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
