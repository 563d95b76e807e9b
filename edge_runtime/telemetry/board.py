"""How hot a board is, what it draws and whether it is slowed down, where its profile says to look.

Every board puts these elsewhere under `/sys`; a profile's `[probes]` names the places, with `*` for
what is numbered at boot. What is not there, or is no number, is left out, never guessed. Nothing
here raises. A fake root folder stands in for the board in tests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

MAX_ZONES = 32
MAX_FILES = 256
"""Of one pattern: a server has some hundred cores, each with a counter."""
MAX_TEXT_BYTES = 4096
MAX_INTEGER = (1 << 64) - 1
MAX_WATTS = 10_000.0
TEMPERATURES_C = (-60.0, 200.0)
"""Drivers say -274 or 2147483 where a sensor is off."""

PI_FLAGS = "get_throttled"
"""The Raspberry Pi firmware's file, in hexadecimal; its low bits are now, bits 16 up since boot."""
FLAGS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
SLOWING = re.compile(r"cpufreq|devfreq|processor", re.IGNORECASE)
"""Types of cooling devices that cool by slowing down; a fan is none."""


def read_text(path: Path) -> str | None:
    """The beginning of a file that the kernel writes, stripped; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_TEXT_BYTES).decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        return None


def read_integer(path: Path, base: int = 10) -> int | None:
    """The number in such a file; None where it is none, or none that a kernel counts with."""
    try:
        value = int(read_text(path) or "", base)
    except ValueError:
        return None
    return value if abs(value) <= MAX_INTEGER else None


def found(pattern: str, root: Path = Path("/")) -> list[Path]:
    """The files that a profile's pattern means, sorted; under `/sys` whether it says so or not."""
    parts = [part for part in pattern.split("/") if part]
    if parts[:1] != ["sys"]:
        parts.insert(0, "sys")
    if {"..", "**"} & set(parts):
        return []
    try:
        return sorted(root.glob("/".join(parts)))[:MAX_FILES]
    except (OSError, ValueError, NotImplementedError):
        return []


def temperatures(root: Path = Path("/"), first: Sequence[str] = ()) -> dict[str, float]:
    """Degrees Celsius by thermal zone type, the hottest where several share a type.

    Args:
        first: types as the board says them, in the order in which they are wanted.
    """
    wanted = [_named(kind) for kind in first]
    zones: list[tuple[int, int, str, Path]] = []
    for number, zone in enumerate(found("class/thermal/thermal_zone*", root)):
        kind = _named(read_text(zone / "type") or "")
        if kind:
            rank = wanted.index(kind) if kind in wanted else len(wanted)
            zones.append((rank, number, kind, zone))
    hot: dict[str, float] = {}
    low_c, high_c = TEMPERATURES_C
    for _, _, kind, zone in sorted(zones)[:MAX_ZONES]:
        temp = read_integer(zone / "temp")
        if temp is not None and low_c < temp / 1000 < high_c:
            hot[kind] = max(temp / 1000, hot.get(kind, -math.inf))
    return hot


def power_w(patterns: Iterable[str], root: Path = Path("/")) -> dict[str, float]:
    """Watts by rail, named as the board labels it.

    A file `curr<n>_input` is milliamperes; with the millivolts of its `in<n>_input` it makes
    microwatts, which `power<n>_input` of hwmon and `power_now` of a battery are themselves.
    `in_power<n>_input` of an older INA3221 driver is milliwatts.

    Source: Linux, Documentation/hwmon/sysfs-interface.rst, Documentation/ABI/testing/
    sysfs-class-power; NVIDIA Jetson Linux developer guide, "Software-Based Power Consumption
    Modeling" (ina3221x).
    """
    rails: dict[str, float] = {}
    for path in _all(patterns, root):
        watts = _watts(path)
        if watts is not None and 0 <= watts <= MAX_WATTS:
            rails.setdefault(_rail(path), round(watts, 4))
    return rails


def _watts(path: Path) -> float | None:
    value = read_integer(path)
    if value is None:
        return None
    if match := re.fullmatch(r"curr(\d+)_input", path.name):
        millivolts = read_integer(path.with_name(f"in{match[1]}_input"))
        return None if millivolts is None else value * millivolts / 1e6
    return value / (1e3 if path.name.startswith("in_power") else 1e6)


def _rail(path: Path) -> str:
    """The label beside the file, or else the chip's name and the file's."""
    number = (re.findall(r"\d+", path.name) or [""])[0]
    for label in (f"power{number}_label", f"in{number}_label", f"rail_name_{number}"):
        if kind := _named(read_text(path.with_name(label)) or ""):
            return kind
    chip = _named(read_text(path.with_name("name")) or "") or _named(path.parent.name)
    return f"{chip}_{number}".strip("_") or "power"


def throttling(patterns: Iterable[str], root: Path = Path("/")) -> dict[str, int]:
    """Flags or counts by file name; 0 says that nothing was slowed down.

    Counters of several cores are added up.

    Source: Linux, drivers/firmware/raspberrypi.c (get_throttled prints %x),
    Documentation/ABI/testing/sysfs-devices-system-cpu (thermal_throttle).
    """
    counts: dict[str, int] = {}
    for path in _all(patterns, root):
        value = read_integer(path, 16 if path.name == PI_FLAGS else 10)
        if value is not None and value >= 0:
            name = _named(path.name)
            counts[name] = counts.get(name, 0) + value
    return counts


def flags_in_words(flags: int) -> tuple[list[str], list[str]]:
    """What the Raspberry Pi's flags say of now, and of the time since it was started.

    Source: https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
    """
    now = [name for bit, name in enumerate(FLAGS) if flags >> bit & 1]
    ever = [name for bit, name in enumerate(FLAGS) if flags >> (bit + 16) & 1]
    return now, ever


def slowed(root: Path = Path("/")) -> dict[str, int]:
    """Cooling devices that slow something down at this moment, by type, and by how many steps."""
    steps: dict[str, int] = {}
    for device in found("class/thermal/cooling_device*", root):
        kind, step = read_text(device / "type") or "", read_integer(device / "cur_state")
        if SLOWING.search(kind) and step is not None and step > 0:
            steps[kind[:64]] = max(step, steps.get(kind[:64], 0))
    return steps


def _all(patterns: Iterable[str], root: Path) -> Iterator[Path]:
    """Every file once, in the order of the patterns."""
    return iter(dict.fromkeys(path for pattern in patterns for path in found(pattern, root)))


def _named(text: str) -> str:
    """Fit for the name of a gauge."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower())[:32]
