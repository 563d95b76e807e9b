"""What devices say while one listens: one `Notice` for each message, whatever is in it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from edge_runtime.errors import EdgeError
from edge_runtime.fields import Json
from edge_runtime.fleet.connection import Connection
from edge_runtime.link.base import Message
from edge_runtime.messages.fleet import Event, Online, Reported, Telemetry
from edge_runtime.messages.topics import Topics

Said: TypeAlias = Reported | Online | Telemetry | Event

KINDS: dict[str, type[Said]] = {
    "reported": Reported,
    "online": Online,
    "telemetry": Telemetry,
    "event": Event,
}


@dataclass(frozen=True, slots=True)
class Notice:
    """`device` said `message` as its `kind`; or, where that is None, `unreadable` says why not.

    `retained`: the broker had kept it, it is not news.
    """

    device: str
    kind: str
    message: Said | None
    retained: bool
    unreadable: str = ""

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        return {
            "device": self.device,
            "kind": self.kind,
            "retained": self.retained,
            "message": dataclasses.asdict(self.message) if self.message is not None else None,
            "unreadable": self.unreadable,
        }


def notice_of(topics: Topics, message: Message) -> Notice | None:
    """What `message` says; None where it is nothing that is watched, or clears a topic. Pure."""
    place = topics.device_of(message.topic)
    if place is None or place[1] not in KINDS or not message.payload:
        return None
    device, kind = place
    try:
        said = KINDS[kind].from_bytes(message.payload)
    except EdgeError as reason:
        return Notice(device, kind, None, message.retain, str(reason))
    return Notice(device, kind, said, message.retain)


def watch(
    connection: Connection, device: str = "+", seconds: float | None = None
) -> Iterator[Notice | None]:
    """Notices as they come; None about twice a second in which nothing does.

    Raises:
        InputError: `device` is not a device id.
        TransferError: the connection was lost for long.
    """
    connection.listen([connection.topics.device(device, kind) for kind in KINDS])
    end_s = time.monotonic() + seconds if seconds is not None else None
    while end_s is None or time.monotonic() < end_s:
        left_s = 0.5 if end_s is None else max(0.0, min(0.5, end_s - time.monotonic()))
        message = connection.receive(left_s)
        yield notice_of(connection.topics, message) if message is not None else None
