"""The seed: what lies on a board's ext4 until its first boot, and the unit that uses it up.

`/var/lib/edge-agent-seed`, root's alone: the package, the script of the first boot, and the
identity with the first bundle in it. Secrets lie nowhere else, and go with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path, PurePosixPath

from edge_runtime.fleet.flash.entries import Entry, File, Folder, Link
from edge_runtime.fleet.flash.first_bundle import FirstBundle
from edge_runtime.fleet.flash.identity import Identity
from edge_runtime.fleet.flash.package import Package

SEED = "/var/lib/edge-agent-seed"
UNIT = "edge-agent-firstboot.service"
UNITS = "/etc/systemd/system"
SCRIPT = "firstboot.sh"
USUAL_TARGETS = ("", "multi-user.target", "graphical.target")


def seed_entries(
    identity: Identity,
    package: Package,
    bundle: FirstBundle | None,
    extra: dict[str, bytes],
    boots_into: str,
) -> Iterator[Entry]:
    """Everything, folders before what is in them.

    Args:
        extra: files for the script, by name.
        boots_into: the systemd target that the image starts.

    Raises:
        UntrustedError, IncompatibleError, DeviceError: the first bundle is damaged.
    """
    yield Folder(SEED, 0o700)
    yield File(f"{SEED}/{package.file}", 0o644, package.path)
    yield File(f"{SEED}/{SCRIPT}", 0o755, _shipped(SCRIPT))
    for name, data in sorted(extra.items()):
        yield File(f"{SEED}/{name}", 0o600, data)
    yield Folder(f"{SEED}/identity", 0o700)
    for path in identity.files:
        yield File(f"{SEED}/identity/{path.name}", 0o600, path)
    if bundle is not None:
        yield from _tree(f"{SEED}/identity/repository", bundle.files())
    yield File(f"{UNITS}/{UNIT}", 0o644, _shipped(UNIT))
    targets = ["multi-user.target", *([] if boots_into in USUAL_TARGETS else [boots_into])]
    for target in targets:
        yield Folder(f"{UNITS}/{target}.wants", 0o755)
        yield Link(f"{UNITS}/{target}.wants/{UNIT}", f"{UNITS}/{UNIT}")


def _tree(top: str, files: Iterable[tuple[str, bytes | Path]]) -> Iterator[Entry]:
    made: set[PurePosixPath] = set()
    for name, content in files:
        path = PurePosixPath(top) / name
        for folder in reversed([p for p in path.parents if p.is_relative_to(top)]):
            if folder not in made:
                made.add(folder)
                yield Folder(str(folder), 0o700)
        yield File(str(path), 0o600, content)


def _shipped(name: str) -> bytes:
    """A file beside this module."""
    return resources.files("edge_runtime.fleet.flash").joinpath(name).read_bytes()
