"""Time: whether the clock is kept right, and what this device may believe when it is not."""

from __future__ import annotations

import time
from collections.abc import Iterator

from edge_runtime.agent.doctor.finding import Finding, ok, unknown, warning
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.bundle import durable
from edge_runtime.telemetry.board import read_integer
from edge_runtime.update.clock import BUILD_S, load_floor

YEARS_AHEAD_S = 30 * 365.25 * 86_400
"""A clock further ahead of the day this software was made is spoiled."""


def synchronized(scene: Scene) -> Iterator[Finding]:
    """As systemd-timesyncd says, or else the kernel."""
    if scene.readings.synchronized():
        yield ok("clock.synchronized", "something keeps this clock right")
    else:
        yield warning(
            "clock.synchronized",
            "nothing keeps this clock right; signed metadata is judged by older, trusted time",
            "switch on time synchronization: sudo timedatectl set-ntp true, and let UDP port 123 "
            "through where there is a firewall",
        )


def plausible(scene: Scene) -> Iterator[Finding]:
    """Not before this software was made, and not decades after."""
    now_s = scene.readings.now_s()
    text = f"{_day(now_s)} {time.strftime('%H:%M:%S', time.gmtime(now_s))} UTC"
    if BUILD_S - 86_400 <= now_s <= BUILD_S + YEARS_AHEAD_S:
        yield ok("clock.plausible", text, values={"time_s": round(now_s, 3)})
    else:
        yield warning(
            "clock.plausible",
            f"{text}, this software is of {_day(BUILD_S)}",
            "synchronize the clock, or set it: sudo date -s; until then TLS may refuse "
            "certificates",
            values={"time_s": round(now_s, 3)},
        )


def rtc(scene: Scene) -> Iterator[Finding]:
    """A hardware clock that goes on while the board is switched off."""
    folder = scene.root / "sys/class/rtc"
    clocks = sorted(folder.glob("rtc*"))
    told = [clock for clock in clocks if (read_integer(clock / "since_epoch") or 0) > 0]
    if not clocks:
        yield ok("clock.rtc", "none: after each start time is wrong until it is synchronized")
    elif not told:
        yield unknown("clock.rtc", f"{clocks[0].name} does not tell the time")
    else:
        found_s = read_integer(told[0] / "since_epoch") or 0
        if found_s < BUILD_S - 86_400:
            yield warning(
                "clock.rtc",
                f"{told[0].name} says {_day(found_s)}",
                "set it from the synchronized clock: sudo hwclock --systohc; where it forgets "
                "again, its battery is empty or missing",
                values={"time_s": found_s},
            )
        else:
            yield ok("clock.rtc", f"{told[0].name}, {_day(found_s)}", values={"time_s": found_s})


def floor(scene: Scene) -> Iterator[Finding]:
    """The latest time that signed metadata vouched for, kept on disk."""
    if scene.state_dir is None or scene.config is None or scene.config.trust == "none":
        return
    path = scene.state_dir / "trust/time.json"
    try:
        durable.demand_regular(path)
    except FileNotFoundError:
        pass
    except OSError as reason:
        yield warning(
            "clock.floor",
            f"{path}: cannot be read ({reason.strerror})",
            "move it away: the agent writes it anew when it follows signed metadata",
        )
        return
    kept = load_floor(path)
    if kept is None:
        yield ok("clock.floor", "no signed metadata was followed yet")
    elif scene.readings.synchronized() and kept.time_s > scene.readings.now_s() + 86_400:
        yield warning(
            "clock.floor",
            f"metadata signed on {_day(kept.time_s)} was believed, the clock says "
            f"{_day(scene.readings.now_s())}",
            "find out which of both is wrong: the clock of the operator's machine that signs "
            "(edge-fleet refresh), or this one",
            values={"time_s": kept.time_s},
        )
    else:
        yield ok("clock.floor", f"not before {_day(kept.time_s)}", values={"time_s": kept.time_s})


def _day(time_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(time_s))
