"""Trusted time, on a board whose clock may say anything.

Boards have no battery: they start in 1970, or where they were switched off, and an attacker who
answers for NTP can send them anywhere. Signed metadata expires, so some time must be believed. It
is the latest of: 1. the day this software was made; 2. when the trusted root metadata was signed;
3. the floor, which is the latest `signed_at` of a timestamp that was verified here, kept on disk
and carried on by the board's uptime; 4. the system's clock, while something has synchronised it.

The floor never goes back, with one exception. Whoever steals the timestamp key could sign a time
far ahead and so stop all updates for ever. As the specification has it for versions ("fast-forward
attack recovery", 5.3.11), a root that names other timestamp keys ends what the old ones vouched
for. A synchronised clock is not kept for the same reason: a wrong answer of NTP passes with the
boot.

Time decides about new updates only. What is installed runs whatever the clock says.

Source: The Update Framework Specification 1.0.34, 5.1 and 5.3.10 to 5.3.11.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_runtime.bundle import durable
from edge_runtime.errors import DeviceError, EdgeError
from edge_runtime.fields import Fields, decode_json, encode_json

BUILD_S = 1_795_478_400.0
"""2026-11-24: no metadata that expired before this software was made is of any use to it."""
MAX_S = 253_402_300_799.0
"""The last second that a date can tell, 9999-12-31: a spoiled clock may say more."""
MAX_FLOOR_BYTES = 16 << 10
FORMAT = 1
SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TIMEX_BYTES = 256
_TIME_ERROR = 5

log = logging.getLogger(__name__)


class Readings(Protocol):
    """What the machine says of time, believed or not."""

    def now_s(self) -> float:
        """The system's clock, Unix seconds."""

    def synchronized(self) -> bool:
        """Whether something keeps that clock right."""

    def uptime_s(self) -> float:
        """Seconds since the machine started, sleep included."""

    def boot_id(self) -> str:
        """Another one after each start of the machine."""


class Machine:
    """This machine."""

    def now_s(self) -> float:
        """The system's clock."""
        return time.time()

    def synchronized(self) -> bool:
        """As systemd-timesyncd says, or else the kernel (chrony, ntpd)."""
        return SYNCHRONIZED.exists() or _kernel_synchronized()

    def uptime_s(self) -> float:
        """CLOCK_BOOTTIME."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        """The kernel's, or nothing where it tells none: then no uptime is counted."""
        try:
            return BOOT_ID.read_text("ascii").strip()[:64]
        except OSError:
            return ""


def _kernel_synchronized() -> bool:
    """adjtimex(2) without a change: TIME_ERROR while nothing disciplines the clock."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        state = int(ctypes.CDLL(None).adjtimex(buffer))
    except (OSError, AttributeError):
        return False
    return 0 <= state < _TIME_ERROR


@dataclass(frozen=True, slots=True)
class Floor:
    """Time that was vouched for by the timestamp `keys`, at `uptime_s` of the boot `boot_id`."""

    time_s: float
    keys: tuple[str, ...]
    boot_id: str = ""
    uptime_s: float = 0.0


class Clock:
    """Trusted time; `path` holds the floor. One process at a time.

    Args:
        made_s: when this software was made. Only whoever tests how it keeps time says otherwise.
    """

    def __init__(
        self, path: Path, readings: Readings | None = None, *, made_s: float = BUILD_S
    ) -> None:
        self._path = path
        self._readings = readings or Machine()
        self._made_s = made_s
        self._floor = load_floor(path)

    def now_s(self, root_signed_s: float = 0.0, keys: Collection[str] = ()) -> float:
        """Trusted time now, Unix seconds.

        Args:
            root_signed_s: when the trusted root metadata was signed, 0 where it does not say.
            keys: ids of the timestamp keys that this root names.
        """
        best_s = max(self._made_s, root_signed_s)
        if self._floor is not None and set(self._floor.keys) == set(keys):
            best_s = max(best_s, self._floor.time_s + self._elapsed_s(self._floor))
        if self._readings.synchronized():
            best_s = max(best_s, self._readings.now_s())
        return min(best_s, MAX_S)

    def vouch(self, time_s: float, keys: Collection[str]) -> None:
        """A timestamp signed by `keys` at `time_s` was verified: it is not earlier than that.

        One that does not say when, 0, changes nothing.

        Raises:
            DeviceError: the disk is full, read-only or failing.
        """
        if time_s <= 0:
            return
        floor = self._floor
        known = floor is not None and set(floor.keys) == set(keys)
        if floor is not None and known and time_s <= floor.time_s + self._elapsed_s(floor):
            return
        r = self._readings
        floor = Floor(time_s, tuple(sorted(keys)), r.boot_id(), r.uptime_s())
        durable.replace(self._path, _to_bytes(floor))
        self._floor = floor

    def _elapsed_s(self, floor: Floor) -> float:
        """How long ago, as far as one boot's uptime tells."""
        boot_id = self._readings.boot_id()
        if not boot_id or boot_id != floor.boot_id:
            return 0.0
        return max(self._readings.uptime_s() - floor.uptime_s, 0.0)


def load_floor(path: Path) -> Floor | None:
    """The floor on disk. One that cannot be read is none: the board still has the others."""
    try:
        return _from_bytes(durable.read(path, MAX_FLOOR_BYTES + 1), str(path))
    except FileNotFoundError:
        return None
    except OSError as reason:
        log.error("time floor %s: cannot be read (%s)", path, reason.strerror)
    except EdgeError as reason:
        log.error("time floor is spoiled: %s", reason)
    return None


def _to_bytes(floor: Floor) -> bytes:
    return encode_json(
        {
            "format": FORMAT,
            "time_s": floor.time_s,
            "keys": list(floor.keys),
            "boot_id": floor.boot_id,
            "uptime_s": floor.uptime_s,
        }
    )


def _from_bytes(data: bytes, where: str) -> Floor:
    f = Fields(
        decode_json(data, max_bytes=MAX_FLOOR_BYTES, where=where, error=DeviceError),
        where,
        DeviceError,
    )
    found = f.integer("format")
    if found != FORMAT:
        raise DeviceError(f"{where}: format {found}, this software reads {FORMAT}")
    return Floor(
        time_s=f.number("time_s", low=0, high=MAX_S),
        keys=f.texts("keys", max_items=64, max_len=256),
        boot_id=f.text("boot_id", max_len=64),
        uptime_s=f.number("uptime_s", low=0, high=MAX_S),
    )
