"""`fleet.toml`: prefix, broker, and for each TUF role its threshold, expiry and signers.

Read with every fault named at once; written so that it reads the same. A misspelt key is a fault,
but whole tables of other parts are kept as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge_runtime.errors import InputError
from edge_runtime.fields import Fields, Json
from edge_runtime.messages.topics import DEFAULT_PREFIX, Topics
from edge_runtime.profile import load_toml

FORMAT = 1
MAX_SETTINGS_BYTES = 256 << 10
ROLES = ("root", "targets", "snapshot", "timestamp")
"""In the order in which they vouch for each other."""
OFFLINE_ROLES = ("root", "targets")
"""Their keys are encrypted, and meant for a machine without a network."""
EXPIRY_DAYS: Mapping[str, int] = {"root": 365, "targets": 180, "snapshot": 30, "timestamp": 30}
"""They bound how long somebody in the middle can withhold an update unnoticed, and how long nobody
needs to refresh. A month lets a USB stick travel and an operator be away; a device that was
offline for longer takes whatever is valid when it is back."""
MAX_EXPIRY_DAYS = 3650
MAX_KEYS = 16
"""Of a role."""
KEYID = r"[0-9a-zA-Z]{8,128}"
SHA256 = r"(|[0-9a-f]{64})"


@dataclass(frozen=True, slots=True)
class RoleSettings:
    """How a role is signed: `keys` has the signer's URI by key id, empty where another holds it."""

    threshold: int
    expiry_days: int
    keys: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Settings:
    """What `fleet.toml` holds. `more` is what other parts keep there, and is written back.

    `first_root` is the sha256 of what the fleet's first root signs (`metadata.digest`): the anchor
    of the chain. Empty in a home that is older than that, until it signs again.
    """

    prefix: str = DEFAULT_PREFIX
    broker: str = ""
    roles: Mapping[str, RoleSettings] = field(default_factory=dict)
    more: Mapping[str, Json] = field(default_factory=dict)
    first_root: str = ""

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Settings:
        """Of a `fleet.toml`.

        Raises:
            InputError: names every fault.
        """
        faults: list[str] = []
        f = Fields(load_toml(data, MAX_SETTINGS_BYTES, where), where, InputError, faults)
        found = f.integer("format", FORMAT)
        if found != FORMAT:
            f.fault(f"{where}: format {found}, this software reads {FORMAT}")
        prefix = f.text("prefix", DEFAULT_PREFIX)
        try:
            Topics(prefix)
        except InputError as reason:
            f.fault(f"{where}: {reason}")
        roles = f.object("roles")
        settings = cls(
            prefix=prefix,
            broker=f.text("broker", "", max_len=1024),
            roles={name: _role(roles.object(name)) for name in ROLES},
            more=f.rest("format", "prefix", "broker", "first_root", "roles"),
            first_root=f.text("first_root", "", pattern=SHA256),
        )
        for key in roles.unknown():
            f.fault(f"{roles.where}: {key!r} is no role, expected {', '.join(ROLES)}")
        for key, value in settings.more.items():
            if not isinstance(value, Mapping):
                f.fault(f"{where}: {key!r} is not known, expected prefix, broker, roles")
        f.done()
        return settings

    def to_bytes(self) -> bytes:
        """What `from_bytes` reads."""
        roles: dict[str, Json] = {
            name: {"threshold": r.threshold, "expiry_days": r.expiry_days, "keys": dict(r.keys)}
            for name, r in self.roles.items()
        }
        head: dict[str, Json] = {"format": FORMAT, "prefix": self.prefix, "broker": self.broker}
        if self.first_root:
            head["first_root"] = self.first_root
        text = HEADING + _toml({**head, **self.more, "roles": roles})
        return text.encode()


HEADING = """\
# The settings of this fleet, written by edge-fleet; edit `prefix`, `broker` and `expiry_days` as
# you like. Keys and thresholds are signed: change them with `edge-fleet rotate`. A key without a
# signer ("") is in somebody else's hands. `first_root` tells this fleet's metadata from any other.

"""


def _role(f: Fields) -> RoleSettings:
    keys = f.object("keys")
    uris: dict[str, str] = {}
    for keyid in f.mapping("keys"):
        if re.fullmatch(KEYID, keyid):
            uris[keyid] = keys.text(keyid, max_len=1024)
        else:
            f.fault(f"{keys.where}: {keyid!r} is no key id")
    made = RoleSettings(
        threshold=f.integer("threshold", low=1, high=MAX_KEYS),
        expiry_days=f.integer("expiry_days", low=1, high=MAX_EXPIRY_DAYS),
        keys=uris,
    )
    for key in f.unknown():
        f.fault(f"{f.where}: {key!r} is not known, expected threshold, expiry_days, keys")
    return made


_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {'"': '\\"', "\\": "\\\\"}


def _toml(values: Mapping[str, Json], path: tuple[str, ...] = ()) -> str:
    """`values` as TOML: plain values first, then a table for each object."""
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    text = "".join(f"{line}\n" for line in lines)
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = (*path, key)
            name = ".".join(map(_key, inner))
            own = any(not isinstance(item, Mapping) for item in value.values())
            heading = f"\n[{name}]\n" if own or not value else ""
            text += heading + _toml(value, inner)
    return text


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(c) or (_escape(c) if _odd(c) else c) for c in text) + '"'


def _odd(char: str) -> bool:
    return ord(char) < 32 or ord(char) == 127


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}"


def _value(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return str(value)  # Dates and times, which TOML has and JSON has not.
