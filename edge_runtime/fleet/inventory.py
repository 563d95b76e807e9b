"""Which devices there are and what each of them last said, out of retained messages.

A device is known once it has said anything. What one device says wrongly is that device's row and
nobody else's: it stands there as unreadable, with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.errors import EdgeError, InputError
from edge_runtime.fields import Json
from edge_runtime.fleet.connection import Connection
from edge_runtime.messages.fleet import Desired, Online, Reported
from edge_runtime.messages.topics import Topics

KEPT = ("online", "reported", "desired")
"""What a broker keeps of a device."""
WINDOW = 64
"""Devices asked for by name at a time: far fewer messages than a broker's queue holds."""


@dataclass(frozen=True, slots=True)
class Device:
    """What the broker keeps of one device. `online` None: it never said; `unreadable`: why."""

    id: str
    online: bool | None = None
    reported: Reported | None = None
    desired: Desired | None = None
    unreadable: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether it has ever been on this broker."""
        return self.online is not None or self.reported is not None or bool(self.unreadable)

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        r, d = self.reported, self.desired
        wanted = d.release.ref if d is not None and d.release is not None else None
        agent = d.agent.release.ref if d is not None and d.agent is not None else None
        return {
            "device": self.id,
            "online": self.online,
            "reported": dataclasses.asdict(r) if r is not None else None,
            "desired_revision": d.revision if d is not None else None,
            "desired": dataclasses.asdict(wanted) if wanted is not None else None,
            "desired_agent": dataclasses.asdict(agent) if agent is not None else None,
            "unreadable": list(self.unreadable),
        }


def read_inventory(connection: Connection) -> tuple[Device, ...]:
    """Every device, sorted by id.

    Raises:
        TransferError: the connection was lost.
    """
    topics = connection.topics
    found: dict[str, bytes] = {}
    # One after the other: a broker's queue for us holds a thousand messages, not three.
    for what in KEPT:
        found |= connection.retained([topics.device("+", what)])
    return devices_of(topics, found)


def read_devices(connection: Connection, ids: Sequence[str]) -> tuple[Device, ...]:
    """The devices called `ids`, known or not, each once, in their order.

    Raises:
        InputError: not a device id; nothing was read.
        TransferError: the connection was lost.
    """
    topics = connection.topics
    for id in ids:
        if id == "+":
            raise InputError("device id '+': names the whole fleet, expected one device")
        topics.device(id, "reported")
    found: dict[str, bytes] = {}
    for start in range(0, len(ids), WINDOW):
        window = ids[start : start + WINDOW]
        found |= connection.retained([topics.device(id, what) for id in window for what in KEPT])
    devices = {device.id: device for device in devices_of(topics, found, ids)}
    return tuple(devices[id] for id in dict.fromkeys(ids))


def devices_of(
    topics: Topics, retained: Mapping[str, bytes], ids: Iterable[str] = ()
) -> tuple[Device, ...]:
    """Devices out of retained payloads by topic, and those called `ids` in any case. Pure."""
    said: dict[str, dict[str, bytes]] = {device: {} for device in ids}
    for topic, payload in retained.items():
        place = topics.device_of(topic)
        if place is not None:
            said.setdefault(place[0], {})[place[1]] = payload
    return tuple(_device(device, said[device]) for device in sorted(said))


def _device(device: str, said: Mapping[str, bytes]) -> Device:
    faults: list[str] = []
    online: Online | None = None
    reported: Reported | None = None
    desired: Desired | None = None
    try:
        online = Online.from_bytes(said["online"]) if "online" in said else None
    except EdgeError as reason:
        faults.append(str(reason))
    try:
        reported = Reported.from_bytes(said["reported"]) if "reported" in said else None
    except EdgeError as reason:
        faults.append(str(reason))
    try:
        desired = Desired.from_bytes(said["desired"]) if "desired" in said else None
    except EdgeError as reason:
        faults.append(str(reason))
    return Device(
        id=device,
        online=online.online if online is not None else None,
        reported=reported,
        desired=desired,
        unreadable=tuple(faults),
    )
