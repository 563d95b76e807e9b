"""What the fleet's certificate authority has issued: `ca/index.json`, the revocation list's source.

A certificate that is not in here could never be revoked, so an entry is on disk before the
certificate that it stands for. Entries are never removed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edge_runtime.bundle.durable import replace
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields, decode_json, encode_json

FORMAT = 1
MAX_INDEX_BYTES = 256 << 20
MAX_ISSUED = 1 << 24
TIME = "%Y-%m-%dT%H:%M:%SZ"
SERIAL = r"[0-9a-f]{1,40}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate. `revoked` None: it is good until `not_after`."""

    serial: int
    role: str
    name: str
    issued: datetime
    not_after: datetime
    revoked: datetime | None = None
    reason: str = ""

    def good(self, now: datetime) -> bool:
        """Whether whoever holds it gets in."""
        return self.revoked is None and now < self.not_after

    def as_json(self) -> dict[str, str]:
        """As in the index."""
        row = {
            "serial": f"{self.serial:x}",
            "role": self.role,
            "name": self.name,
            "issued": self.issued.strftime(TIME),
            "not_after": self.not_after.strftime(TIME),
        }
        if self.revoked is not None:
            row |= {"revoked": self.revoked.strftime(TIME), "reason": self.reason}
        return row


@dataclass(frozen=True, slots=True)
class Issued:
    """All of them, the oldest first. A value: a change is a new one, for `write`."""

    entries: tuple[Entry, ...] = ()

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @classmethod
    def read(cls, path: Path) -> Issued:
        """From disk.

        Raises:
            InputError: it is not there, or not what `write` wrote: nothing may be issued or
                revoked then.
        """
        try:
            data = path.read_bytes()
        except OSError as reason:
            raise InputError(f"{path}: cannot be read ({reason.strerror})") from None
        top = Fields(
            decode_json(
                data,
                max_bytes=MAX_INDEX_BYTES,
                where=str(path),
                error=InputError,
                max_containers=MAX_ISSUED + 2,
            ),
            str(path),
            InputError,
        )
        if (found := top.integer("format")) != FORMAT:
            raise InputError(f"{path}: format is {found}, expected {FORMAT}")
        return cls(tuple(_entry(item) for item in top.objects("issued", max_items=MAX_ISSUED)))

    def write(self, path: Path) -> None:
        """To disk. Raises DeviceError: `path` is as it was."""
        rows = [encode_json(entry.as_json()).strip() for entry in self.entries]
        head = b'{"format":%d,"issued":[' % FORMAT
        # A line for each, so that people may read and compare what was issued when.
        replace(path, head + b",".join(b"\n" + row for row in rows) + b"\n]}\n")

    def good(self, role: str, name: str, now: datetime) -> tuple[Entry, ...]:
        """Those of `name` that still get in."""
        return tuple(e for e in self.entries if (e.role, e.name) == (role, name) and e.good(now))

    def of(self, role: str, name: str) -> tuple[Entry, ...]:
        """All that `name` ever had."""
        return tuple(e for e in self.entries if (e.role, e.name) == (role, name))

    def with_one(self, entry: Entry) -> Issued:
        """And `entry`."""
        return Issued((*self.entries, entry))

    def without(self, serials: Iterable[int], now: datetime, reason: str) -> Issued:
        """These are revoked from `now` on."""
        gone = set(serials)
        return Issued(
            tuple(
                dataclasses.replace(e, revoked=now, reason=reason)
                if e.serial in gone and e.revoked is None
                else e
                for e in self.entries
            )
        )


def utc(now: datetime | None = None) -> datetime:
    """`now`, or else the clock's time, as certificates and the index hold it: whole seconds."""
    return (now or datetime.now(timezone.utc)).astimezone(timezone.utc).replace(microsecond=0)


def _entry(fields: Fields) -> Entry:
    revoked = _time(fields, "revoked") if "revoked" in fields else None
    return Entry(
        serial=int(fields.text("serial", pattern=SERIAL), 16),
        role=fields.text("role"),
        name=fields.text("name"),
        issued=_time(fields, "issued"),
        not_after=_time(fields, "not_after"),
        revoked=revoked,
        reason=fields.text("reason", ""),
    )


def _time(fields: Fields, key: str) -> datetime:
    text = fields.text(key)
    try:
        return datetime.strptime(text, TIME).replace(tzinfo=timezone.utc)
    except ValueError:
        raise InputError(
            f"{fields.where}: {key} is {text[:40]!r}, expected a time as 2026-11-05T12:00:00Z"
        ) from None
