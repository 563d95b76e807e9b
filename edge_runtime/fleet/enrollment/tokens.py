"""One-time tokens as the fleet keeps them: `enrollment/tokens/<device>.json`, one for each device.

Only a hash of the secret is kept; it is of 256 random bits, so nobody finds it by trying. A token
is used by the first key that comes with it: the mark, with that key, is on disk before a
certificate goes out. Who comes again with the same key is answered again, as long as the token is
valid: the connection may have broken after the mark. Whoever changes something here holds the home.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from edge_runtime.bundle.durable import replace
from edge_runtime.errors import InputError, UntrustedError
from edge_runtime.fields import Fields, Json, decode_json, encode_json
from edge_runtime.fleet.ca import CertificateAuthority
from edge_runtime.fleet.certificates import Role, alternative_names
from edge_runtime.fleet.enroll import newest_root
from edge_runtime.fleet.enrollment.place import Place
from edge_runtime.fleet.home import Home, make_secret_folder, write_secret
from edge_runtime.fleet.issued import SERIAL, TIME, utc
from edge_runtime.fleet.mosquitto import broker_of
from edge_runtime.messages.enrollment import SECRET_BYTES, Address, Token
from edge_runtime.messages.topics import DEVICE_ID
from edge_runtime.profile import load_profile

FORMAT = 1
MAX_RECORD_BYTES = 64 << 10
VALID = timedelta(hours=1)
MAX_VALID = timedelta(days=30)
SHA256 = r"[0-9a-f]{64}"
UNKNOWN = (
    "the token is not known to this fleet; make one with `edge-fleet token`, and paste it whole"
)


@dataclass(frozen=True, slots=True)
class Use:
    """The key, by the SHA-256 of its SPKI, that a token was used by, and the certificate's serial.

    No serial: the certificate is not issued yet, or the power went before it was told here.
    """

    when: datetime
    key_sha256: str
    serial: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a token. `profile` is a shipped one's name, or the path of a .toml file."""

    device: str
    secret_sha256: str
    profile: str
    made: datetime
    expires: datetime
    force: bool = False
    revoked: datetime | None = None
    used: Use | None = None

    def state(self, now: datetime) -> str:
        """One word for people: open, used, expired or revoked."""
        if self.revoked is not None:
            return "revoked"
        if self.used is not None:
            return "used"
        return "open" if now < self.expires else "expired"

    def as_json(self, now: datetime) -> dict[str, Json]:
        """For programs, and nothing secret."""
        return {
            "device": self.device,
            "state": self.state(utc(now)),
            "profile": Path(self.profile).name,
            "made": self.made.strftime(TIME),
            "expires": self.expires.strftime(TIME),
        }


class Tokens:
    """Of one home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._folder = home.enrollment / "tokens"

    def make(
        self,
        device: str,
        profile: str,
        place: Place,
        *,
        valid: timedelta = VALID,
        force: bool = False,
        now: datetime | None = None,
    ) -> tuple[Token, Record]:
        """A new token; one that the device had before is good no more.

        Args:
            profile: a shipped one's name, or the path of a .toml file, which is copied.
            place: where the board shall go, and the key that it will find there.
            force: the board may take the place of a certificate that is still good.

        Raises:
            InputError, UntrustedError: a faulty word, no such profile, the device is enrolled, or
                the home lacks what every device needs.
            DeviceError: it cannot be written.
        """
        now = utc(now)
        settings = self._home.read()
        broker_of(self._home, settings)
        newest_root(self._home, settings)
        alternative_names(Role.DEVICE, device, ())
        load_profile(profile)
        good = CertificateAuthority(self._home).issued().good(Role.DEVICE.value, device, now)
        if good and not force:
            raise InputError(
                f"device {device}: is enrolled, with a certificate good until "
                f"{good[-1].not_after:%Y-%m-%d}; with --force the token makes a new one, which "
                "revokes that"
            )
        if not timedelta(0) < valid <= MAX_VALID:
            raise InputError(f"token: valid for {valid}, expected up to {MAX_VALID.days} days")
        make_secret_folder(self._home.enrollment)
        make_secret_folder(self._folder)
        if profile.endswith(".toml"):
            copy = self._folder / f"{device}.toml"
            replace(copy, Path(profile).read_bytes())
            profile = copy.name
        secret = secrets.token_urlsafe(SECRET_BYTES)
        addresses: Sequence[Address] = place.addresses
        token = Token(device, tuple(addresses), place.pin_sha256, secret)
        record = Record(device, _digest(secret), profile, now, now + valid, force)
        self.write(record)
        return token, record

    def all(self) -> tuple[Record, ...]:
        """Every device's last token, by name. Raises InputError: one cannot be read."""
        names = sorted(path.stem for path in self._folder.glob("*.json"))
        return tuple(self._read(name) for name in names)

    def find(self, device: str) -> Record | None:
        """The last token of a device. Raises InputError: it cannot be read."""
        self._home.device(device)
        return self._read(device) if (self._folder / f"{device}.json").exists() else None

    def revoke(self, device: str, now: datetime | None = None) -> Record:
        """Nobody may come with it any more. May be repeated.

        Raises:
            InputError: the device never had one.
            DeviceError: it cannot be written.
        """
        record = self.find(device)
        if record is None:
            raise InputError(f"device {device}: never had a token")
        if record.revoked is None:
            record = dataclasses.replace(record, revoked=utc(now))
            self.write(record)
        return record

    def demand(self, device: str, secret: str, key_sha256: str, now: datetime) -> Record:
        """The record that `secret` opens for the key.

        Raises:
            UntrustedError: the token is unknown, revoked, expired, or used by another key.
        """
        record = self.find(device)
        # The same work where there is none, so that the time taken names no device.
        kept = record.secret_sha256 if record is not None else _digest("")
        known = hmac.compare_digest(kept, _digest(secret))
        if record is None or not known:
            raise UntrustedError(UNKNOWN)
        if record.revoked is not None:
            raise UntrustedError(f"the token of {device} was revoked; ask for another one")
        if now >= record.expires:
            raise UntrustedError(
                f"the token of {device} expired on {record.expires:%Y-%m-%d at %H:%M} UTC; ask for "
                "another one"
            )
        if record.used is not None and not hmac.compare_digest(record.used.key_sha256, key_sha256):
            raise UntrustedError(
                f"the token of {device} was used on {record.used.when:%Y-%m-%d at %H:%M} UTC, by "
                "another board or another try; if that was not you, revoke the device"
            )
        return record

    def write(self, record: Record) -> None:
        """To disk, durably. Raises DeviceError."""
        used: Json = None
        if record.used is not None:
            used = {
                "when": record.used.when.strftime(TIME),
                "key_sha256": record.used.key_sha256,
                "serial": f"{record.used.serial:x}" if record.used.serial is not None else None,
            }
        value: Json = {
            "format": FORMAT,
            "device": record.device,
            "secret_sha256": record.secret_sha256,
            "profile": record.profile,
            "made": record.made.strftime(TIME),
            "expires": record.expires.strftime(TIME),
            "force": record.force,
            "revoked": record.revoked.strftime(TIME) if record.revoked is not None else None,
            "used": used,
        }
        write_secret(self._folder / f"{record.device}.json", encode_json(value))

    def profile_of(self, record: Record) -> str:
        """As `enroll` takes it: a name, or the path of the copy that was made of a file."""
        own = record.profile.endswith(".toml")
        return str(self._folder / record.profile) if own else record.profile

    def _read(self, device: str) -> Record:
        path = self._folder / f"{device}.json"
        try:
            data = path.read_bytes()
        except OSError as reason:
            raise InputError(f"{path}: cannot be read ({reason.strerror})") from None
        value = decode_json(data, max_bytes=MAX_RECORD_BYTES, where=str(path), error=InputError)
        f = Fields(value, str(path), InputError)
        if (found := f.integer("format")) != FORMAT:
            raise InputError(f"{path}: format is {found}, expected {FORMAT}")
        used: Use | None = None
        if f.present("used"):
            u = f.object("used")
            serial = int(u.text("serial", pattern=SERIAL), 16) if u.present("serial") else None
            used = Use(_time(u, "when"), u.text("key_sha256", pattern=SHA256), serial)
        return Record(
            device=f.text("device", pattern=DEVICE_ID),
            secret_sha256=f.text("secret_sha256", pattern=SHA256),
            profile=f.text("profile", max_len=128),
            made=_time(f, "made"),
            expires=_time(f, "expires"),
            force=f.boolean("force", False),
            revoked=_time(f, "revoked") if f.present("revoked") else None,
            used=used,
        )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _time(f: Fields, key: str) -> datetime:
    text = f.text(key)
    try:
        return datetime.strptime(text, TIME).replace(tzinfo=timezone.utc)
    except ValueError:
        raise InputError(f"{f.where}: {key} is {text[:40]!r}, expected a time") from None
