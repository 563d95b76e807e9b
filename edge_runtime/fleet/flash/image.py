"""From an image and a fleet home to an image for one device, or to nothing.

The order: 1. everything that can be wrong with what was asked, before a byte is unpacked; 2. unpack
beside the target; 3. find the system in it, and the package for that; 4. room, by growing the last
partition; 5. the seed and the network into the ext4, proved; 6. names and keys, in the image's own
way; 7. prove the file system again, then give the file its name. What fails leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from edge_runtime.bundle.agent_package import MACHINES
from edge_runtime.bundle.durable import sync_folder
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fields import Json
from edge_runtime.fleet.flash import tools, wifi
from edge_runtime.fleet.flash.entries import Entry, File, Link
from edge_runtime.fleet.flash.first_bundle import FirstBundle, find_bundle
from edge_runtime.fleet.flash.identity import Identity, find_identity
from edge_runtime.fleet.flash.package import Package, find_package
from edge_runtime.fleet.flash.partitions import Table, grow
from edge_runtime.fleet.flash.person import (
    Person,
    custom_toml,
    is_customised,
    own_files,
    user_data,
)
from edge_runtime.fleet.flash.seed import USUAL_TARGETS, seed_entries
from edge_runtime.fleet.flash.source import MAX_IMAGE_BYTES, OnProgress, unpack
from edge_runtime.fleet.flash.system import DEFAULT_TARGET, Flavour, System, find_system
from edge_runtime.fleet.flash.target import demand_target, making
from edge_runtime.fleet.home import Home
from edge_runtime.text import plain, size

OnStep = Callable[[str], None]
SPARE_BYTES = 64 << 20
_MIB = 1 << 20
_DISPLAY = "/etc/systemd/system/display-manager.service"
_LICENSE = (
    "a Jetson's image asks for NVIDIA's licence, and for a user, at its first boot; with --user it "
    "asks nothing, so say that you accept that licence: --accept-license"
)


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for. `package` None: the newest that fits, in ./dist."""

    image: Path
    device: str
    person: Person
    bundle: str | None = None
    package: Path | None = None
    wifi: wifi.Wifi | None = None
    accept_license: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class Flashed:
    """What is in the image now. `grown_bytes` it became larger."""

    order: Order
    identity: Identity
    system: System
    package: Package
    bundle: FirstBundle | None
    size_bytes: int
    grown_bytes: int

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        return {
            "device": self.order.device,
            "image": str(self.order.image),
            "flavour": self.system.flavour.value,
            "system": self.system.name,
            "suite": self.system.suite,
            "arch": self.system.arch,
            "profile": self.identity.profile,
            "package": {"file": str(self.package.path), "version": self.package.version},
            "bundle": self.bundle.as_json() if self.bundle is not None else None,
            "hostname": self.order.person.host,
            "user": self.order.person.user or None,
            "wifi": self.order.wifi.ssid if self.order.wifi is not None else None,
            "size_bytes": self.size_bytes,
            "grown_bytes": self.grown_bytes,
        }


def flash(
    home: Home,
    order: Order,
    out: Path,
    now: datetime,
    *,
    max_bytes: int = MAX_IMAGE_BYTES,
    room: str = "here",
    on_unpack: OnProgress = lambda _done, _total: None,
    on_step: OnStep = lambda _what: None,
) -> Flashed:
    """Make `out`, the image for one device, readable for its owner only.

    Args:
        max_bytes: of the image, that of the card where it is known.
        room: where there is no more room than that, for messages.
        on_unpack: bytes of the packed image that were read, and all of them.
        on_step: told what is done next, in words for people.

    Raises:
        InputError: what was asked for or the image is wrong; one sentence says what to do.
        UntrustedError, IncompatibleError: home or bundle are damaged.
        DeviceError: a disk is full or failing.
    """
    tools.demand()
    identity = find_identity(home, order.device, now)  # 1
    bundle = (
        find_bundle(home, order.bundle, identity.profile, now) if order.bundle is not None else None
    )
    demand_target(out, order.image, force=order.force)
    with making(out) as (part, folder):
        unpack(order.image, part, max_bytes, on_unpack, room=room)  # 2
        (folder / tools.IMAGE).symlink_to(part.resolve())
        on_step("looking what is in the image")
        table, system = find_system(folder, plain(str(order.image)))  # 3
        _demand_fitting(order, identity, system)
        package = find_package(order.package, system.suite, system.arch)
        system.ext4.check()
        system, links, extra = _settings(system, order)
        entries = list(seed_entries(identity, package, bundle, extra, system.boots_into))
        if order.wifi is not None:
            entries += wifi.entries(order.wifi, system.network)
        before = part.stat().st_size
        on_step("making room")
        system = _room(part, table, system, entries, package, bundle, max_bytes, room)  # 4
        on_step("putting the agent in")
        system.ext4.add(entries)  # 5
        for link in links:
            system.ext4.replace_link(link)
        _boot_files(system, order)  # 6
        on_step("proving what was written")
        system.ext4.check()  # 7
        _sync(part)
        size_bytes = part.stat().st_size
        os.replace(part, out)
        sync_folder(out.parent)
    return Flashed(order, identity, system, package, bundle, size_bytes, size_bytes - before)


def _demand_fitting(order: Order, identity: Identity, system: System) -> None:
    """Raises InputError: the image is for another board, or has a user of its own so called."""
    where, machine = plain(str(order.image)), MACHINES[system.arch]
    if identity.arch != machine:
        raise InputError(
            f"{where}: holds {system.name} for {machine}, but {order.device} is enrolled as "
            f"{identity.profile}, which is {identity.arch}; take another image, or enrol it anew "
            "with the profile of its board"
        )
    if order.person.user in system.users:
        raise InputError(
            f"--user {order.person.user}: {where} has a user of the system with this name, take "
            "another name"
        )


def _settings(system: System, order: Order) -> tuple[System, list[Link], dict[str, bytes]]:
    """Files for our first boot, where the image has no way of its own; and what it boots into.

    Raises:
        InputError: a licence must be accepted first.
    """
    extra: dict[str, bytes] = {}
    links: list[Link] = []
    if order.wifi is not None:
        extra["country"] = f"{order.wifi.country}\n".encode()
    if system.flavour in (Flavour.PLAIN, Flavour.JETSON):
        extra |= own_files(order.person)
    if system.flavour is Flavour.JETSON and order.person.user:
        if not order.accept_license:
            raise InputError(_LICENSE)
        # NVIDIA's first boot stops at a target that excludes multi-user.target until somebody has
        # answered its questions. There is a user, so it need not: as l4t_create_default_user.sh.
        if system.boots_into not in USUAL_TARGETS:
            usual = "graphical" if system.ext4.kind(_DISPLAY) else "multi-user"
            links.append(Link(DEFAULT_TARGET, f"/lib/systemd/system/{usual}.target"))
            system = replace(system, boots_into="")
    return system, links, extra


def _room(
    part: Path,
    table: Table,
    system: System,
    entries: Sequence[Entry],
    package: Package,
    bundle: FirstBundle | None,
    max_bytes: int,
    room: str,
) -> System:
    """See that all of it fits, and that the first boot has room to unpack it.

    Raises:
        InputError: it does not, and the partition cannot grow.
    """
    need = sum(e.size_bytes for e in entries if isinstance(e, File)) + SPARE_BYTES
    need += 2 * system.ext4.space().block_bytes * len(entries)
    if system.flavour in (Flavour.PLAIN, Flavour.JETSON):
        # The others fill the card before anything of ours runs.
        need += package.installed_bytes + (2 * bundle.release.size_bytes if bundle else 0)
    for _ in range(4):
        space = system.ext4.space()
        lacking = max(0, need - space.free_bytes)
        inodes = max(0, len(entries) + 1024 - space.free_inodes)
        lacking = max(lacking, -(-inodes // space.group_inodes) * space.group_bytes)
        if not lacking:
            return system
        if not table.is_last(system.root):
            raise InputError(
                f"{system.ext4.where}: has {size(space.free_bytes)} free, {size(need)} are needed, "
                "and it cannot grow: another partition lies behind it"
            )
        # A fiftieth for the groups' own tables.
        add = -(-(lacking + lacking // 50) // _MIB) * _MIB + _MIB
        if part.stat().st_size + add > max_bytes:
            raise InputError(
                f"{system.ext4.where}: has {size(space.free_bytes)} free, {size(need)} are needed; "
                f"so grown it would have more than {size(max_bytes)}, all there is room for {room}"
            )
        root = grow(part, table, system.root, add, system.ext4.where)
        system.ext4.grow(root, part.with_name(f"{part.name}.root"))
        table = replace(
            table,
            partitions=tuple(root if p.number == root.number else p for p in table.partitions),
        )
        system = replace(system, root=root)
    raise DeviceError(f"{system.ext4.where}: could not be grown enough")


def _boot_files(system: System, order: Order) -> None:
    """Names and keys onto the FAT, where the image looks for them. Nothing there is secret."""
    if system.fat is None or system.flavour not in (Flavour.FIRST_RUN, Flavour.CLOUD_INIT):
        return
    if system.flavour is Flavour.FIRST_RUN:
        name, data = "custom.toml", custom_toml(order.person)
        taken = name in system.fat.names()
    else:
        name, data = "user-data", user_data(order.person)
        taken = is_customised(system.fat.read(name))
    if taken and not order.force:
        raise InputError(
            f"{plain(str(order.image))}: has settings of somebody's in {name}; take a fresh image, "
            "or replace them with --force"
        )
    system.fat.write(name, data)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
