"""Accelerators: are the device nodes and drivers there that `hardware` lists, and may we use them?

Nothing is opened: opening some of these powers the device up.
"""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.agent.doctor.finding import Finding, ok, warning
from edge_runtime.agent.doctor.scene import Scene, user
from edge_runtime.agent.hardware import HARDWARE, Hardware
from edge_runtime.text import plain

CLASSES = {"dri": "drm", "accel": "accel"}
"""Folders of /dev that are shared, and the class of their nodes in /sys."""


def devices(scene: Scene) -> Iterator[Finding]:
    """Of every accelerator of the profile; without one, of those that are there."""
    p = scene.profile
    if p is None:
        names = [name for name in HARDWARE if _there(scene, name)]
    else:
        names = [n for n in dict.fromkeys(e.accelerator for e in p.engines) if n in HARDWARE]
    told: list[Hardware] = []
    for name in names:
        if HARDWARE[name] in told:
            continue  # One GPU, under each of the engines that it is used through.
        told.append(HARDWARE[name])
        yield _device(scene, name)
        yield from _drivers(scene, name)


def absent(scene: Scene, name: str) -> str:
    """In a sentence, that there is no such device; empty where there is, or where it needs none."""
    if name not in HARDWARE or _there(scene, name):
        return ""
    h = HARDWARE[name]
    return f"no {h.title}: there is no {' or '.join(f'/dev/{pattern}' for pattern in h.nodes)}"


def _there(scene: Scene, name: str) -> bool:
    h = HARDWARE[name]
    return bool(_nodes(scene, h) or _plugged(scene, h))


def _nodes(scene: Scene, h: Hardware) -> list[Path]:
    return [
        node
        for pattern in h.nodes
        for node in sorted((scene.root / "dev").glob(pattern))
        if not pattern.startswith(tuple(CLASSES)) or _driver(scene, node) in h.kernel
    ]


def _driver(scene: Scene, node: Path) -> str:
    """The driver behind a node whose name says nothing."""
    link = scene.root / "sys/class" / CLASSES[node.parent.name] / node.name / "device/driver"
    try:
        return os.path.basename(os.readlink(link))
    except OSError:
        return ""


def _plugged(scene: Scene, h: Hardware) -> str:
    """Vendor and product of a USB device of that kind, where one is plugged in."""
    if not h.usb:
        return ""
    for device in sorted((scene.root / "sys/bus/usb/devices").glob("*")):
        where = f"sys/bus/usb/devices/{device.name}"
        found = f"{scene.read(f'{where}/idVendor')}:{scene.read(f'{where}/idProduct')}"
        if found in h.usb:
            return found
    return ""


def _device(scene: Scene, name: str) -> Finding:
    h = HARDWARE[name]
    nodes = _nodes(scene, h)
    shown = [f"/{node.relative_to(scene.root)}" for node in nodes]
    usable = [node for node in nodes if os.access(node, os.R_OK | os.W_OK)]
    if usable:
        at = shown[nodes.index(usable[0])]
        return ok("accelerator.device", f"{h.title} at {at}", subject=name, values={"nodes": shown})
    if nodes:
        return warning(
            "accelerator.device",
            f"{h.title} at {shown[0]} may not be read and written by {user()}{_rights(nodes[0])}",
            _let_in(nodes[0]),
            subject=name,
            values={"nodes": shown},
        )
    if found := _plugged(scene, h):
        return ok(
            "accelerator.device", f"{h.title} on USB, {found}", subject=name, values={"usb": found}
        )
    return warning(
        "accelerator.device",
        absent(scene, name),
        f"load its driver ({' or '.join(h.drivers)}) and look into dmesg; where the board has "
        "none, use another profile",
        subject=name,
        values={"nodes": []},
    )


def _rights(node: Path) -> str:
    try:
        found = node.stat()
    except OSError:
        return ""
    return f" (group {_group(found.st_gid)}, mode {stat.S_IMODE(found.st_mode):04o})"


def _let_in(node: Path) -> str:
    try:
        found = node.stat()
    except OSError:
        return "look at the rights of the folder that it is in"
    if found.st_mode & 0o060 == 0o060 and found.st_gid:
        group = _group(found.st_gid)
        return (
            f"put the agent's user into the group: sudo usermod -aG {group} {user()}; or "
            f"SupplementaryGroups={group} in its unit"
        )
    return 'a udev rule must give it a group, as GROUP="video", MODE="0660"'


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _drivers(scene: Scene, name: str) -> Iterator[Finding]:
    """Modules that are loaded, with their versions as far as they tell them."""
    h = HARDWARE[name]
    loaded = {
        module: scene.read(f"sys/module/{module}/version") or ""
        for module in h.drivers
        if (scene.root / "sys/module" / module).is_dir()
    }
    told = [plain(text.splitlines()[0], 120) for path in h.versions if (text := scene.read(path))]
    if loaded or told:
        words = [f"{module} {version}".strip() for module, version in loaded.items()]
        text = ", ".join([*words, *told])
        yield ok(
            "accelerator.driver",
            plain(text),
            subject=name,
            values={"modules": loaded, "told": told},
        )
