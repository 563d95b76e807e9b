"""The journal: the record as one JSON file that is the old one or the new one, never half.

It owns the file's form and its limits. A journal that cannot be read, for whatever reason, is
`None`: the device starts from what its manifests prove, and never stops for it.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from edge_runtime.bundle import durable
from edge_runtime.bundle.files import SHA256
from edge_runtime.errors import DeviceError, EdgeError
from edge_runtime.fields import Fields, Json, decode_json, encode_json
from edge_runtime.messages.fleet import BundleRef, Desired, Refusal
from edge_runtime.update.lifecycle import State
from edge_runtime.update.record import Record

MAX_JOURNAL_BYTES = 1 << 20
FORMAT = 1

log = logging.getLogger(__name__)


class Journal:
    """`path` holds the record. Only one process writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Record | None:
        """The record, or None where there is none that can be read; logs why.

        Raises:
            DeviceError: it may be sound, but not for us or not now: another start may read it.
        """
        try:
            return from_bytes(durable.read(self.path, MAX_JOURNAL_BYTES + 1), str(self.path))
        except FileNotFoundError:
            return None
        except OSError as reason:
            if reason.errno in durable.PASSING:
                raise DeviceError(
                    f"journal {self.path}: cannot be read now ({reason.strerror})"
                ) from None
            log.error("journal %s: cannot be read (%s); starting anew", self.path, reason.strerror)
        except EdgeError as reason:
            log.error("journal is spoiled: %s; starting anew", reason)
        return None

    @property
    def exists(self) -> bool:
        """Whether there is a file, readable or not."""
        return os.path.exists(self.path)  # Path.exists raises where a disk fails.

    def save(self, record: Record) -> None:
        """Durably replace the record.

        Raises:
            DeviceError: disk full, read-only or failing; the old record stands.
        """
        durable.replace(self.path, to_bytes(record))


def to_bytes(record: Record) -> bytes:
    """The JSON that `from_bytes` reads."""
    return encode_json(
        {
            "format": FORMAT,
            "state": record.state.value,
            "desired": json.loads(record.desired.to_bytes()) if record.desired else None,
            "local": record.local,
            "active": _ref(record.active),
            "previous": _ref(record.previous),
            "candidate": _ref(record.candidate),
            "good": record.good,
            "refused": [
                {
                    "manifest_sha256": refusal.manifest_sha256,
                    "attempt": refusal.attempt,
                    "reason": refusal.reason,
                    "name": refusal.name,
                    "version": refusal.version,
                }
                for refusal in record.refused
            ],
            "boots": record.boots,
            "fetched_bytes": record.fetched_bytes,
            "update_s": record.update_s,
            "reason": record.reason,
        }
    )


def from_bytes(data: bytes, where: str) -> Record:
    """Parse and check.

    Raises:
        EdgeError: too large, malformed, at odds with itself, or of another format.
    """
    value = decode_json(data, max_bytes=MAX_JOURNAL_BYTES, where=where, error=DeviceError)
    f = Fields(value, where, DeviceError)
    found = f.integer("format")
    if found != FORMAT:
        raise DeviceError(f"{where}: format {found}, this software reads {FORMAT}")
    desired = f.mapping("desired") if f.present("desired") else None
    record = Record(
        state=State(f.choice("state", [state.value for state in State])),
        desired=Desired.from_bytes(encode_json(desired)) if desired is not None else None,
        local=f.boolean("local"),
        active=_bundle(f, "active"),
        previous=_bundle(f, "previous"),
        candidate=_bundle(f, "candidate"),
        good=f.boolean("good"),
        refused=tuple(
            Refusal(
                manifest_sha256=r.text("manifest_sha256", pattern=SHA256),
                attempt=r.integer("attempt"),
                reason=r.text("reason", max_len=2048),
                name=r.text("name", ""),
                version=r.text("version", ""),
            )
            for r in f.objects("refused", max_items=64)
        ),
        boots=f.integer("boots"),
        fetched_bytes=f.integer("fetched_bytes"),
        update_s=f.number("update_s", low=0),
        reason=f.text("reason", max_len=2048),
    )
    if (record.candidate is None) != (record.state in (State.IDLE, State.TRIAL)):
        raise DeviceError(f"{where}: state {record.state.value} does not fit the candidate")
    if record.state is State.TRIAL and record.active is None:
        raise DeviceError(f"{where}: a trial without an active bundle")
    return record


def _ref(bundle: BundleRef | None) -> dict[str, Json] | None:
    if bundle is None:
        return None
    return {
        "name": bundle.name,
        "version": bundle.version,
        "manifest_sha256": bundle.manifest_sha256,
    }


def _bundle(f: Fields, key: str) -> BundleRef | None:
    return BundleRef.parse(f.object(key)) if f.present(key) else None
