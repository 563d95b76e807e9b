"""Temperature, power and speed: which of the profile's probes are there, and what they say now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from edge_runtime.agent.doctor.finding import Finding, ok, unknown, warning
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.fields import Json
from edge_runtime.profile import Probes
from edge_runtime.telemetry.board import (
    PI_FLAGS,
    flags_in_words,
    found,
    power_w,
    read_text,
    slowed,
    temperatures,
    throttling,
)
from edge_runtime.text import plain

HOT_C = 80.0
"""From here on boards slow down: a Raspberry Pi at 80, most others at 85 to 100."""
USUAL = (
    "/sys/devices/platform/soc/soc:firmware/get_throttled",
    "/sys/devices/platform/soc*/soc*:firmware/get_throttled",
    "/sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count",
)
"""Where throttling is told on boards whose profile names no place."""

WORDS = {"in0_lcrit_alarm": "under-voltage"}
"""Flags whose name says nothing. Source: Linux, drivers/hwmon/raspberrypi-hwmon.c."""


def _places(scene: Scene) -> Probes:
    return scene.profile.probes if scene.profile is not None else Probes()


def thermal(scene: Scene) -> Iterator[Finding]:
    """The zones now; those of the profile must be there, for telemetry goes by them."""
    wanted = _places(scene).thermal
    now = temperatures(scene.root, wanted)
    kinds = {read_text(zone / "type") for zone in found("class/thermal/thermal_zone*", scene.root)}
    missing = [kind for kind in wanted if kind not in kinds]
    values: dict[str, Json] = {f"{kind}_c": temp_c for kind, temp_c in now.items()}
    text = ", ".join(f"{kind} {temp_c:.0f} °C" for kind, temp_c in list(now.items())[:6])
    if missing:
        yield warning(
            "probe.thermal",
            f"no zone {', '.join(missing)} here{f'; there are {text}' if text else ''}",
            "correct thermal of [probes] in the profile: /sys/class/thermal/*/type lists the zones",
            values=values,
        )
    elif not now:
        yield unknown("probe.thermal", "this machine has no thermal zone that tells a temperature")
    elif max(now.values()) >= HOT_C:
        yield warning(
            "probe.thermal",
            f"hot: {text}",
            "cool it: give it a heat sink, a fan or a cooler place, before it slows down",
            values=values,
        )
    else:
        yield ok("probe.thermal", text, values=values)


def power(scene: Scene) -> Iterator[Finding]:
    """The rails of the profile, now."""
    wanted = _places(scene).power
    rails = power_w(wanted, scene.root)
    missing = [pattern for pattern in wanted if not power_w((pattern,), scene.root)]
    text = ", ".join(f"{rail} {watts:.2f} W" for rail, watts in rails.items())
    values: dict[str, Json] = {f"{rail}_w": watts for rail, watts in rails.items()}
    if missing:
        yield warning(
            "probe.power",
            f"{', '.join(missing)} cannot be read{f'; there are {text}' if text else ''}",
            "load the driver of the power monitor, or correct power of [probes] in the profile",
            values=values,
        )
    elif rails:
        yield ok("probe.power", text, values=values)


def throttled(scene: Scene) -> Iterator[Finding]:
    """Whether it is slowed down now, or was since it started."""
    wanted = _places(scene).throttling
    counts = throttling(wanted or USUAL, scene.root)
    now = [f"{kind} by {steps} steps" for kind, steps in slowed(scene.root).items()]
    before = []
    for name, count in counts.items():
        if name == PI_FLAGS:
            words_now, words_ever = flags_in_words(count)
            now += words_now
            before += [word for word in words_ever if word not in words_now]
        elif count:
            before.append(WORDS.get(name, f"{name} {count}"))
    values: dict[str, Json] = dict(counts)
    text = "; ".join(
        [*([f"now: {', '.join(now)}"] if now else []),
         *([f"since it was started: {', '.join(before)}"] if before else [])]
    )  # fmt: skip
    if now or before:
        yield warning(
            "probe.throttling",
            plain(text),
            "latency was or is longer than measured: use the power supply that the board's maker "
            "names where the voltage is low, and cool it where it is hot",
            values=values,
        )
    elif wanted and not counts:  # One place is enough: kernels name them differently.
        yield warning(
            "probe.throttling",
            f"{', '.join(wanted)} cannot be read",
            "correct throttling of [probes] in the profile",
            values=values,
        )
    elif counts or found("class/thermal/cooling_device*", scene.root):
        yield ok("probe.throttling", "not slowed down, now or since it was started", values=values)
    else:
        yield unknown("probe.throttling", "this machine does not tell")


def governor(scene: Scene) -> Iterator[Finding]:
    """Who sets the processor's frequency."""
    policies = found("devices/system/cpu/cpufreq/policy*", scene.root)
    names = Counter(name for policy in policies if (name := read_text(policy / "scaling_governor")))
    drivers = {read_text(policy / "scaling_driver") for policy in policies}
    text = ", ".join(names)
    if not names:
        yield unknown("probe.governor", "the kernel does not set this machine's frequency")
    elif set(names) <= {"powersave"} and not drivers & {"intel_pstate", "amd-pstate-epp"}:
        # These two drivers call their usual, adaptive mode "powersave".
        yield warning(
            "probe.governor",
            f"{text}: the processor stays at its lowest frequency",
            "set schedutil, ondemand or performance: echo schedutil | sudo tee "
            "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
            values={"governors": list(names)},
        )
    else:
        yield ok("probe.governor", text, values={"governors": list(names)})
