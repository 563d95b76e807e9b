"""Folders that stand in for the root of a machine: /proc, /sys, /dev and /etc of boards."""

from __future__ import annotations

import os
from pathlib import Path


def put(root: Path, path: str, text: str) -> Path:
    """A file under the root."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target


def zone(root: Path, number: int, kind: str, millidegrees: int) -> None:
    """A thermal zone."""
    put(root, f"sys/class/thermal/thermal_zone{number}/type", f"{kind}\n")
    put(root, f"sys/class/thermal/thermal_zone{number}/temp", f"{millidegrees}\n")


def link(root: Path, path: str, to: str) -> None:
    """A link under the root, to another place under it."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(os.path.relpath(root / to, target.parent))


def mounted(root: Path, point: Path | str, kind: str, source: str, options: str = "rw") -> None:
    """A line of mountinfo, on the device 179:2."""
    place = str(point).replace(" ", "\\040")
    line = f"36 25 179:2 / {place} {options},noatime shared:1 - {kind} {source} {options}\n"
    before = root / "proc/self/mountinfo"
    put(root, "proc/self/mountinfo", (before.read_text() if before.exists() else "") + line)


def raspberry_pi_5(root: Path, state: Path) -> Path:
    """A Raspberry Pi 5 as its files under /proc and /sys have it, `state` on its card."""
    put(root, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    put(root, "proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    put(root, "proc/sys/kernel/osrelease", "6.12.20+rpt-rpi-2712\n")
    put(root, "proc/meminfo", "MemTotal:        4143424 kB\nMemFree: 5 kB\n")
    features = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimddp"
    put(root, "proc/cpuinfo", f"processor\t: 0\nFeatures\t: {features}\n\n" * 4)
    put(root, "proc/self/cgroup", "0::/system.slice/edge-agent.service\n")
    zone(root, 0, "cpu-thermal", 51_200)
    put(root, "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "0\n")
    policy = "sys/devices/system/cpu/cpufreq/policy0"
    put(root, f"{policy}/scaling_governor", "ondemand\n")
    put(root, f"{policy}/scaling_driver", "cpufreq-dt\n")
    put(root, "sys/class/rtc/rtc0/since_epoch", "1800000000\n")
    mounted(root, "/", "ext4", "/dev/mmcblk0p2")
    mounted(root, state, "ext4", "/dev/mmcblk0p2")
    disk = "sys/devices/platform/mmc0/block/mmcblk0"
    put(root, f"{disk}/mmcblk0p2/partition", "2\n")
    put(root, f"{disk}/device/life_time", "0x02 0x01\n")
    put(root, f"{disk}/device/pre_eol_info", "0x01\n")
    link(root, "sys/dev/block/179:2", f"{disk}/mmcblk0p2")
    put(root, "sys/fs/ext4/mmcblk0p2/errors_count", "0\n")
    return root
