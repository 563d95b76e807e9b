"""The disk that holds the state folder: may it be written, is there room, does it wear out.

Nothing on it changes. The one write goes to a file without a name, which is gone before anybody
can see it, and only where the state folder is there and ours.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.agent.doctor.finding import Finding, obstacle, ok, unknown, warning
from edge_runtime.agent.doctor.scene import Scene, user
from edge_runtime.agent.doctor.seen import seen
from edge_runtime.agent.state_folder import not_writable, owner
from edge_runtime.errors import EdgeError
from edge_runtime.fields import Json
from edge_runtime.telemetry.board import read_integer, read_text
from edge_runtime.text import plain, size

NEARLY = 0.75
"""Of the profile's storage: cards are sold by thousands, and systems have more partitions."""
FEW_INODES = 0.05
SLOW_SYNC_S = 0.5
MEMORY_KINDS = ("tmpfs", "ramfs")
FRAIL_KINDS = ("vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk")
REMOTE_KINDS = ("nfs", "nfs4", "cifs", "smb3", "9p")
WORN = 0x09
"""eMMC's life_time in steps of a tenth: from here on more than 80 % of its life is used.

Source: JEDEC JESD84-B51, EXT_CSD DEVICE_LIFE_TIME_EST and PRE_EOL_INFO.
"""
END_OF_LIFE = {2: "80 % of its spare blocks are used", 3: "90 % of its spare blocks are used"}


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo."""

    point: str
    kind: str
    source: str
    device: str
    read_only: bool


def mount_of(folder: Path, scene: Scene) -> Mount | None:
    """Where `folder`, which exists, is mounted. The last line that covers it counts."""
    path = os.path.realpath(folder)
    best: Mount | None = None
    for line in scene.lines("proc/self/mountinfo"):
        front, _, back = line.partition(" - ")
        fields, rest = front.split(), back.split()
        if len(fields) < 6 or len(rest) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4])
        if path != point and not path.startswith(point.rstrip("/") + "/"):
            continue
        if best is None or len(point) >= len(best.point):
            read_only = "ro" in fields[5].split(",") or "ro" in rest[2].split(",")
            best = Mount(point, rest[0], rest[1], fields[2], read_only)
    return best


def _place(scene: Scene) -> Path | None:
    """The state folder, or what is there of the way to it."""
    if scene.state_dir is None:
        return None
    return next((f for f in (scene.state_dir, *scene.state_dir.parents) if os.path.exists(f)), None)


def state(scene: Scene) -> Iterator[Finding]:
    """Whether the agent can keep anything there."""
    folder = scene.state_dir
    if folder is None:
        return
    mount = mount_of(_place(scene) or Path("/"), scene)
    who = owner(folder)
    if mount is not None and mount.read_only:
        yield obstacle(
            "storage.state",
            f"{folder}: {mount.point} is mounted read-only",
            f"look into dmesg for errors of the disk, check it, and mount it again: sudo mount -o "
            f"remount,rw {mount.point}",
        )
    elif who is not None and not os.access(folder, os.W_OK):
        yield unknown(
            "storage.state",
            f"{folder} belongs to {who}, and {user()} may not write it",
            f"run the doctor as that user: sudo -u {who} edge-agent doctor …",
        )
    elif fault := not_writable(folder):
        yield obstacle(
            "storage.state",
            fault,
            f"make it, for the agent's user alone: sudo install -d -m 700 -o {user()} {folder}",
        )
    else:
        made = "" if folder.exists() else ", which the agent will make"
        # Root may do what the agent's user may not.
        whose = f"; it belongs to {who}: sudo -u {who} tells what that user may do" if who else ""
        yield ok("storage.state", f"{folder}{made}{whose}")


def filesystem(scene: Scene) -> Iterator[Finding]:
    """Its kind: some forget, some tear files in a power cut."""
    place = _place(scene) or scene.root
    mount = mount_of(place, scene)
    if mount is None:
        yield unknown("storage.filesystem", "/proc/self/mountinfo does not tell it")
        return
    where = f"{mount.kind} on {plain(mount.source)} at {mount.point}"
    if scene.state_dir is None:
        yield ok("storage.filesystem", where, values={"kind": mount.kind})
    elif mount.kind in MEMORY_KINDS:
        yield warning(
            "storage.filesystem",
            f"{where} is memory: bundles and trust are gone after a restart",
            "move state_dir to a disk",
            values={"kind": mount.kind},
        )
    elif mount.kind in FRAIL_KINDS:
        yield warning(
            "storage.filesystem",
            f"{where} does not survive a power cut, and keeps no rights of users",
            "move state_dir to ext4, f2fs, xfs or btrfs",
            values={"kind": mount.kind},
        )
    elif mount.kind in REMOTE_KINDS:
        yield warning(
            "storage.filesystem",
            f"{where} is on another machine: without it nothing serves",
            "move state_dir to a disk of this machine",
            values={"kind": mount.kind},
        )
    else:
        yield ok("storage.filesystem", where, values={"kind": mount.kind})


def disk_size(scene: Scene) -> Iterator[Finding]:
    """The whole file system against the profile's storage."""
    found = os.statvfs(_place(scene) or scene.root)
    total, p = found.f_frsize * found.f_blocks, scene.profile
    if p is not None and total < NEARLY * p.storage_bytes:
        yield warning(
            "storage.size",
            f"{size(total)}, profile {p.name} counts on {size(p.storage_bytes)}",
            "grow the partition (most images do so on their first start), or use a larger card",
            values={"total_bytes": total},
        )
    else:
        wanted = f", the profile counts on {size(p.storage_bytes)}" if p is not None else ""
        yield ok("storage.size", f"{size(total)}{wanted}", values={"total_bytes": total})


def free(scene: Scene) -> Iterator[Finding]:
    """Room for the bundle that is here and one more like it, as an update needs."""
    found = os.statvfs(_place(scene) or scene.root)
    free_bytes = found.f_frsize * found.f_bavail
    if scene.config is None:
        yield ok("storage.free", size(free_bytes), values={"free_bytes": free_bytes})
        return
    try:
        bundle = seen(scene)
    except (EdgeError, OSError):
        bundle = None  # Said where bundles are looked at.
    each = bundle.size_bytes(scene.profile) if bundle is not None else 0
    held = each if bundle is not None and bundle.installed else 0
    needed = 2 * each - held + scene.config.update.disk_margin_bytes
    words = f"{size(free_bytes)}, an update needs {size(needed)}"
    values: dict[str, Json] = {"free_bytes": free_bytes, "needed_bytes": needed}
    if free_bytes < needed:
        yield warning(
            "storage.free",
            words,
            "remove what else fills this disk: du -xh / | sort -h | tail; until then updates wait",
            values=values,
        )
    else:
        yield ok("storage.free", words, values=values)


def inodes(scene: Scene) -> Iterator[Finding]:
    """A chunk is a file: a disk may run out of those before it is full."""
    found = os.statvfs(_place(scene) or scene.root)
    if found.f_files == 0:
        yield ok("storage.inodes", "this file system counts none")
        return
    used = 1 - found.f_favail / found.f_files
    text = f"{used:.0%} of {found.f_files:,} used"
    values: dict[str, Json] = {"free_inodes": found.f_favail, "total_inodes": found.f_files}
    if found.f_favail < FEW_INODES * found.f_files:
        yield warning(
            "storage.inodes",
            text,
            "remove small files; a new file system needs more inodes: mkfs.ext4 -T small",
            values=values,
        )
    else:
        yield ok("storage.inodes", text, values=values)


def health(scene: Scene) -> Iterator[Finding]:
    """What the disk says of its wear, and the file system of its errors."""
    mount = mount_of(_place(scene) or scene.root, scene)
    block = _block(mount, scene) if mount is not None else None
    if mount is None or block is None:
        yield unknown("storage.health", "not on a disk whose driver tells")
        return
    errors = read_integer(scene.root / "sys/fs" / mount.kind / block.name / "errors_count")
    device = _disk(block) / "device"
    life = [int(text, 16) for text in (read_text(device / "life_time") or "").split()
            if re.fullmatch(r"0x[0-9a-fA-F]{1,2}", text)]  # fmt: skip
    end = read_integer(device / "pre_eol_info", 16)
    worn = max(life, default=0)
    faults = [
        *([f"{errors} errors of the file system were counted"] if errors else []),
        *([f"{_used(worn)} of its life is used"] if worn >= WORN else []),
        *([END_OF_LIFE[end]] if end in END_OF_LIFE else []),
    ]
    values: dict[str, Json] = {"errors": errors, "life_time": life, "pre_eol_info": end}
    if faults:
        yield warning(
            "storage.health",
            f"{_disk(block).name}: {', '.join(faults)}",
            "replace the card or board before it fails, and check the file system: sudo fsck",
            values=values,
        )
    elif life or errors is not None:
        words = [f"{_used(worn)} of its life used"] if worn else []
        words += ["no errors counted"] if errors == 0 else []
        yield ok("storage.health", f"{_disk(block).name}: {', '.join(words)}", values=values)
    else:
        yield unknown("storage.health", f"{_disk(block).name} does not tell its wear")


def _used(step: int) -> str:
    return f"{10 * (step - 1)} to {10 * step} %" if step <= 10 else "more than 100 %"


def _block(mount: Mount, scene: Scene) -> Path | None:
    """The folder in /sys of the partition."""
    names = [f"dev/block/{mount.device}"]
    if mount.source.startswith("/dev/"):
        names.append(f"class/block/{os.path.basename(mount.source)}")
    for name in names:
        path = scene.root / "sys" / name
        if path.exists():
            return path.resolve()
    return None


def _disk(block: Path) -> Path:
    """The folder of the whole disk; under a mapping, of the first one below."""
    for _ in range(4):
        below = sorted((block / "slaves").glob("*"))
        if not below:
            break
        block = below[0].resolve()
    return block.parent if (block / "partition").exists() else block


def sync(scene: Scene) -> Iterator[Finding]:
    """How long one small durable write takes, in a file that has no name."""
    folder = scene.state_dir
    if folder is None or not folder.is_dir() or not os.access(folder, os.W_OK):
        return
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError:
        yield unknown("storage.sync", "this file system has no files without a name to try it on")
        return
    try:
        begin_s = time.monotonic()
        os.write(descriptor, bytes(4096))
        os.fsync(descriptor)
        took_s = time.monotonic() - begin_s
    finally:
        os.close(descriptor)
    text, sync_ms = f"{took_s * 1000:.1f} ms for 4 KiB", {"sync_ms": round(took_s * 1000, 2)}
    if took_s > SLOW_SYNC_S:
        yield warning(
            "storage.sync",
            text,
            "a worn or cheap card, updates will be slow: use one of application class A1 or A2",
            values={"sync_ms": sync_ms},
        )
    else:
        yield ok("storage.sync", text, values={"sync_ms": sync_ms})
