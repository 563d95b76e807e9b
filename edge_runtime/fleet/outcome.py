"""What became of the signed metadata: each role's state, what waits for whom, what to look after.

Values only; JSON is for scripts and monitoring.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edge_runtime.fields import Json

TIME = "%Y-%m-%dT%H:%M:%SZ"


def left(seconds: float) -> str:
    """As 27 days, or 5 hours."""
    if seconds <= 0:
        return "expired"
    if seconds >= 2 * 86400:
        return f"{seconds // 86400:.0f} days"
    return f"{seconds // 3600:.0f} hours" if seconds >= 7200 else f"{seconds // 60:.0f} minutes"


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """A role's newest metadata in the tree; `version` 0: there is none.

    `keys` are all of its key ids, `here` those that this machine has a signer for.
    """

    role: str
    version: int
    expires: datetime | None
    left_s: float
    signatures: int
    threshold: int
    keys: tuple[str, ...]
    here: tuple[str, ...]

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        return {
            "role": self.role,
            "version": self.version,
            "expires": self.expires.strftime(TIME) if self.expires is not None else None,
            "left_s": self.left_s,
            "signatures": self.signatures,
            "threshold": self.threshold,
            "keys": list(self.keys),
            "keys_here": list(self.here),
        }


@dataclass(frozen=True, slots=True)
class Staged:
    """Metadata that lacks `missing` signatures, of any of the keys `unsigned`."""

    role: str
    version: int
    file: str
    signed: tuple[str, ...]
    unsigned: tuple[str, ...]
    missing: int
    changes: tuple[str, ...]

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        return {
            "role": self.role,
            "version": self.version,
            "file": self.file,
            "signed": list(self.signed),
            "unsigned": list(self.unsigned),
            "missing": self.missing,
            "changes": list(self.changes),
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """The state of every role, and what a run did.

    `written` are the files that are new in the tree, in the order of their writing; `published`:
    the timestamp names the newest of everything; `notes` are sentences for people.
    """

    roles: tuple[RoleStatus, ...]
    staged: tuple[Staged, ...]
    written: tuple[str, ...]
    published: bool
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        return {
            "roles": [role.as_json() for role in self.roles],
            "staged": [staged.as_json() for staged in self.staged],
            "written": list(self.written),
            "published": self.published,
            "notes": list(self.notes),
        }
