"""A first bundle that comes with an identity, brought to where only the service can read it.

The service is a user that exists while it runs, so nothing of its own can be written before. The
bundle lies in a folder of root's that nobody else may enter, and a passing drop-in shows its inside
to the service alone and names it as the first bundle. Once the bundle serves, both go.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from edge_runtime.agent.setup.place import SERVICE, System, failing, remove, write
from edge_runtime.bundle.durable import sync_folder
from edge_runtime.errors import DeviceError
from edge_runtime.update.journal import Journal
from edge_runtime.update.record import Record

REPOSITORY, FILE = "repository", "first.edge"
SHOWN = "/run/edge-agent-first"
DROP_IN = "60-first.conf"
TEXT = """\
# Written by `edge-agent setup`, and removed by it once the first bundle serves.
[Service]
BindReadOnlyPaths=-{folder}:{shown}
Environment=EDGE_AGENT_FIRST_BUNDLE={shown}/{name}
"""


def first_of(folder: Path) -> Path | None:
    """The bundle that comes with the identity in `folder`: a repository, or one file."""
    if (folder / REPOSITORY / "metadata").is_dir():
        return folder / REPOSITORY
    return folder / FILE if (folder / FILE).is_file() else None


def standing(system: System) -> Record | None:
    """What the agent's journal says; None where there is none, or it cannot be read."""
    try:
        return Journal(system.state / "journal.json").load()
    except DeviceError:
        return None


def serves(system: System) -> bool:
    """Whether the device has a bundle already: then a first one would not be looked at."""
    record = standing(system)
    return record is not None and record.active is not None


def bring(source: Path, system: System) -> bool:
    """Copy it, and write the drop-in; False where both were there. May be repeated.

    Raises:
        DeviceError: the disk is full, read-only or failing; nothing counts yet.
    """
    inside = system.first / "bundle"
    if _same(source, inside / source.name) and (drop_in(system)).is_file():
        return False
    beside = system.first.with_name(f"{system.first.name}.new")
    remove(beside)
    with failing(beside):
        beside.parent.mkdir(parents=True, exist_ok=True)
        os.mkdir(beside, 0o700)
        os.mkdir(beside / "bundle")
        # A first boot runs with a umask that takes everybody else's rights.
        os.chmod(beside / "bundle", 0o755)
        _copy(source, beside / "bundle" / source.name)
        # All of it at once: file after file would take minutes on a memory card.
        os.sync()
        remove(system.first)
        os.rename(beside, system.first)
        sync_folder(system.first.parent)
        folder = drop_in(system).parent
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        text = TEXT.format(folder="/var/lib/edge-agent-first/bundle", shown=SHOWN, name=source.name)
        remove(drop_in(system))
        write(drop_in(system), text.encode(), 0o644)
        sync_folder(folder)
    return True


def forget(system: System) -> bool:
    """It serves, or is wanted no more; True where anything was there. Raises DeviceError."""
    there = drop_in(system).exists() or system.first.exists()
    remove(drop_in(system))
    remove(system.first)
    return there


def drop_in(system: System) -> Path:
    """The passing drop-in."""
    return system.units / f"{SERVICE}.d" / DROP_IN


def _copy(source: Path, target: Path) -> None:
    """Plain files and folders, readable for all; a link is nobody's bundle. Raises OSError."""
    if source.is_dir():
        os.mkdir(target, 0o755)
        os.chmod(target, 0o755)
        for item in os.scandir(source):
            if not item.is_symlink():
                _copy(Path(item.path), target / item.name)
    elif source.is_file():
        shutil.copyfile(source, target)
        os.chmod(target, 0o644)


def _same(source: Path, target: Path) -> bool:
    """Whether `target` is a copy of `source`, by names and sizes; digests are checked later."""

    def sizes(path: Path) -> dict[str, int]:
        if path.is_file():
            return {".": path.stat().st_size}
        found = (item for item in path.rglob("*") if item.is_file() and not item.is_symlink())
        return {str(item.relative_to(path)): item.stat().st_size for item in found}

    return target.exists() and sizes(source) == sizes(target)
