"""The helper's record: what it must remember over a power cut, and what it tells the agent.

One JSON file in the releases folder, which only root writes and everybody may read. `advance` is
the table and the record's change in one, pure; what it returns is journaled before any of the
returned actions is performed.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.agent.upgrade.places import tree_name
from edge_runtime.agent.upgrade.states import (
    Action,
    Asked,
    Candidate,
    Condemned,
    Confirmed,
    Event,
    Flipped,
    Refused,
    Stalled,
    State,
    step,
)
from edge_runtime.bundle import durable
from edge_runtime.bundle.agent_package import AGENT
from edge_runtime.bundle.files import SHA256
from edge_runtime.bundle.manifest import VERSION
from edge_runtime.errors import DeviceError
from edge_runtime.fields import Fields, decode_json, encode_json
from edge_runtime.messages.fleet import Refusal

FORMAT = 1
MAX_JOURNAL_BYTES = 256 << 10
MAX_REFUSALS = 16
MAX_REASON = 512
IDENTITY = r"[0-9a-f]{1,32}|"


@dataclass(frozen=True, slots=True)
class Record:
    """What the journal holds. `current` and `previous` are trees, empty for the package's.

    `current` is the one that proved itself; while a candidate is tried, the link names that one's.
    `answered` is the last request that was done with; `problem` is what stood in its way, where
    that was no fault of the candidate's. `serving` and `connected` say what the agent did before
    the candidate was started, which it must do as well. `boot_id`, `since_s` and `boots` are of the
    trial: the boot it goes on in, the uptime at which it began there, and boots that it has seen.
    """

    state: State = State.IDLE
    current: str = ""
    previous: str = ""
    candidate: Candidate | None = None
    refused: tuple[Refusal, ...] = ()
    answered: str = ""
    problem: str = ""
    serving: bool = False
    connected: bool = False
    boot_id: str = ""
    since_s: float = 0.0
    boots: int = 0

    @property
    def tree(self) -> str:
        """Name of the candidate's tree.

        Raises:
            RuntimeError: there is no candidate.
        """
        if self.candidate is None:
            raise RuntimeError(f"no candidate in {self.state.name}")
        return tree_name(self.candidate.version, self.candidate.manifest_sha256)

    def refusal(self, manifest_sha256: str, attempt: int) -> Refusal | None:
        """Why that release is not tried (again) at that attempt; None: it may be."""
        for refusal in self.refused:
            if refusal.manifest_sha256 == manifest_sha256 and refusal.attempt >= attempt:
                return refusal
        return None


def advance(record: Record, event: Event) -> tuple[Record, tuple[Action, ...]]:
    """The record after `event`, and the actions to perform once it is on disk.

    Raises:
        RuntimeError: `event` cannot happen in the record's state.
    """
    state, actions = step(record.state, event)
    return dataclasses.replace(_after(record, event), state=state), actions


def _after(r: Record, event: Event) -> Record:
    match event:
        case Asked(candidate):
            return dataclasses.replace(r, candidate=candidate, problem="")
        case Refused(reason):
            return dataclasses.replace(r, candidate=None, refused=_refuse(r, reason), problem="")
        case Stalled(reason):
            return dataclasses.replace(r, candidate=None, problem=_cut(reason))
        case Confirmed():
            previous = r.previous if r.tree == r.current else r.current
            kept = tuple(x for x in r.refused if x.manifest_sha256 != _digest(r))
            return dataclasses.replace(
                r, current=r.tree, previous=previous, candidate=None, refused=kept
            )
        case Condemned(reason):
            return dataclasses.replace(r, refused=_refuse(r, reason))
        case Flipped() if r.state is State.GOING_BACK:
            return dataclasses.replace(r, candidate=None)
        case _:
            return r


def _digest(r: Record) -> str:
    return r.candidate.manifest_sha256 if r.candidate is not None else ""


def _refuse(r: Record, reason: str) -> tuple[Refusal, ...]:
    if r.candidate is None:
        return r.refused
    c = r.candidate
    others = tuple(x for x in r.refused if x.manifest_sha256 != c.manifest_sha256)
    made = Refusal(c.manifest_sha256, c.attempt, _cut(reason), AGENT, c.version)
    return (*others, made)[-MAX_REFUSALS:]


def _cut(reason: str) -> str:
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…"


def load(path: Path) -> Record | None:
    """The record; None: there is none.

    Raises:
        DeviceError: it cannot be read, or is none.
    """
    try:
        data = durable.read(path, MAX_JOURNAL_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as reason:
        raise DeviceError(f"journal {path}: cannot be read ({reason.strerror})") from None
    return from_bytes(data, str(path))


def to_bytes(record: Record) -> bytes:
    """The JSON that `from_bytes` reads."""
    value = dataclasses.asdict(record) | {"format": FORMAT, "state": record.state.value}
    return encode_json(json.loads(json.dumps(value)))


def from_bytes(data: bytes, where: str) -> Record:
    """Parse and check.

    Raises:
        DeviceError: too large, malformed, at odds with itself, or of another format.
    """
    value = decode_json(data, max_bytes=MAX_JOURNAL_BYTES, where=where, error=DeviceError)
    f = Fields(value, where, DeviceError)
    found = f.integer("format")
    if found != FORMAT:
        raise DeviceError(f"{where}: format {found}, this software reads {FORMAT}")
    record = Record(
        state=State(f.choice("state", [state.value for state in State])),
        current=f.text("current"),
        previous=f.text("previous"),
        candidate=_candidate(f.object("candidate")) if f.present("candidate") else None,
        refused=tuple(_refusal(r) for r in f.objects("refused", max_items=64)),
        answered=f.text("answered", pattern=IDENTITY),
        problem=f.sentence("problem"),
        serving=f.boolean("serving"),
        connected=f.boolean("connected"),
        boot_id=f.text("boot_id"),
        since_s=f.number("since_s", low=0),
        boots=f.integer("boots"),
    )
    if (record.candidate is None) != (record.state is State.IDLE):
        raise DeviceError(f"{where}: state {record.state.value} does not fit the candidate")
    return record


def _candidate(f: Fields) -> Candidate:
    return Candidate(
        version=f.text("version", pattern=VERSION),
        manifest_sha256=f.text("manifest_sha256", pattern=SHA256),
        attempt=f.integer("attempt"),
    )


def _refusal(f: Fields) -> Refusal:
    return Refusal(
        manifest_sha256=f.text("manifest_sha256", pattern=SHA256),
        attempt=f.integer("attempt"),
        reason=f.sentence("reason"),
        name=f.text("name"),
        version=f.text("version"),
    )
