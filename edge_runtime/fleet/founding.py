"""A new fleet home: its keys, its first root, and signed metadata that names no release yet.

Everything is made in a folder beside the home's place and moved there when it is whole: a cut
leaves no half a home, and nobody's keys are ever written over. Where some keys are in other hands
or the threshold is met only by them, the first root stays staged until they have signed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tuf.api.metadata import Role, Root

from edge_runtime.bundle import durable
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fleet import ca
from edge_runtime.fleet.authority import Authority, check_threshold
from edge_runtime.fleet.home import SETTINGS_FILE, Home, make_secret_folder
from edge_runtime.fleet.keys import Held, check_passphrase, make_key, read_word
from edge_runtime.fleet.settings import EXPIRY_DAYS, OFFLINE_ROLES, ROLES, RoleSettings, Settings


@dataclass(frozen=True, slots=True)
class RolePlan:
    """How a role is to be signed: `new` keys made here, and those that `words` name.

    Words are as `keys.read_word` takes them.
    """

    new: int = 1
    threshold: int = 1
    words: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What `edge-fleet init` was asked for; a role that is not named has one new key."""

    prefix: str
    broker: str
    roles: Mapping[str, RolePlan] = field(default_factory=dict)
    expiry_days: Mapping[str, int] = field(default_factory=dict)

    def role(self, name: str) -> RolePlan:
        """Of one role."""
        return self.roles.get(name, RolePlan())


def found(
    home: Home, plan: Plan, now: datetime, passphrase: Callable[[], str | None] = lambda: None
) -> Authority:
    """Make `home`.

    Raises:
        InputError: there is something at its place, a threshold cannot be met, a key cannot be
            read, or a passphrase is missing or short.
        DeviceError: the disk is full, read-only or failing; nothing is there then.
    """
    _check_place(home)
    for role in ROLES:
        asked = plan.role(role)
        check_threshold(role, asked.threshold, asked.new + len(asked.words))
    building = Home(home.folder.with_name(f".{home.folder.name}.init"))
    try:
        # Of an init that was cut short: its keys have signed nothing that anybody has seen.
        shutil.rmtree(building.folder, ignore_errors=True)
        building.folder.parent.mkdir(parents=True, exist_ok=True)
        building.folder.mkdir(mode=0o755)
    except OSError as reason:
        raise DeviceError(f"{building.folder}: cannot be made ({reason.strerror})") from None
    try:
        secret = passphrase()
        if any(plan.role(role).new for role in OFFLINE_ROLES):
            check_passphrase(secret)
        _build(building, home, plan, now, secret)
        _move(building, home)
    except BaseException:
        shutil.rmtree(building.folder, ignore_errors=True)
        raise
    return Authority.open(home, now)


def _check_place(home: Home) -> None:
    folder = home.folder
    if home.exists:
        raise InputError(f"{folder}: is a fleet home already, and its keys are not written over")
    try:
        taken = folder.is_dir() and any(folder.iterdir())
    except OSError as reason:
        raise DeviceError(f"{folder}: cannot be read ({reason.strerror})") from None
    if taken or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"{folder}: is not empty and no fleet home ({SETTINGS_FILE} is missing); name another "
            "folder with --home"
        )


def _build(building: Home, home: Home, plan: Plan, now: datetime, passphrase: str | None) -> None:
    """Everything of the home, in the folder `building`."""
    make_secret_folder(building.keys)
    held = {role: _keys(building, home, role, plan.role(role), passphrase) for role in ROLES}
    roles = {
        role: RoleSettings(
            threshold=plan.role(role).threshold,
            expiry_days=plan.expiry_days.get(role, EXPIRY_DAYS[role]),
            keys={each.key.keyid: each.uri for each in held[role]},
        )
        for role in ROLES
    }
    building.write(Settings(plan.prefix, plan.broker, roles))
    root = Root(
        roles={role: Role([], plan.role(role).threshold) for role in ROLES},
        consistent_snapshot=True,
    )
    for role, several in held.items():
        for each in several:
            root.add_key(each.key, role)
    authority = Authority.open(building, now, lambda: passphrase)
    authority.desk.draft("root", root)
    authority.settle()
    ca.create(building, passphrase, now=now)


def _keys(
    building: Home, home: Home, role: str, asked: RolePlan, passphrase: str | None
) -> list[Held]:
    secret = passphrase.encode() if passphrase is not None and role in OFFLINE_ROLES else None
    made = [make_key(building.keys, role, secret) for _ in range(asked.new)]
    named = [read_word(word, home.folder, passphrase) for word in asked.words]
    keyids = [each.key.keyid for each in (*made, *named)]
    if len(set(keyids)) != len(keyids):
        raise InputError(f"role {role}: the same key is named twice")
    return [*made, *named]


def _move(building: Home, home: Home) -> None:
    try:
        # An empty folder gives way; one that is not makes this fail.
        os.rename(building.folder, home.folder)
        durable.sync_folder(home.folder.parent)
    except OSError as reason:
        raise DeviceError(f"{home.folder}: cannot be made ({reason.strerror})") from None
