"""A device's identity as one folder to flash, and taking it back.

`enroll` writes `devices/<id>/`: `agent.toml`, `root.json` (the keys that the device trusts from the
start), `ca.pem`, `device.pem`, `device.key`, and its profile where that is a file of the fleet's
own. `agent.toml` comes last: a folder that has one is complete. Where the device made its key
itself (`enrollment`), the folder holds all but the key. `revoke_device` takes the certificate back
and says so in the folder; the broker acts once it has the new revocation list.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_runtime.bundle.durable import replace, sync_folder
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fleet.ca import CertificateAuthority, copy_crl
from edge_runtime.fleet.certificates import OPERATOR, PublicKey, Role, key_pem, new_key
from edge_runtime.fleet.home import Home, make_secret_folder, write_secret
from edge_runtime.fleet.issued import Entry, utc
from edge_runtime.fleet.mosquitto import broker_of
from edge_runtime.fleet.settings import Settings
from edge_runtime.fleet.standing import load_roots
from edge_runtime.fleet.tree import MetadataFolder, role_file
from edge_runtime.profile import load_profile

CONFIG, ROOT, CA, CERTIFICATE, KEY = (
    "agent.toml", "root.json", "ca.pem", "device.pem", "device.key"
)  # fmt: skip
MARK = "REVOKED"
STATE_DIR = "/var/lib/edge-agent"


@dataclass(frozen=True, slots=True)
class Enrolled:
    """`replaced`: a certificate that was good is not any more, once the broker has `crl`."""

    device: str
    folder: Path
    entry: Entry
    replaced: bool
    crl: Path

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "device": self.device,
            "folder": str(self.folder),
            "replaced": self.replaced,
            "crl": str(self.crl),
            **self.entry.as_json(),
        }


@dataclass(frozen=True, slots=True)
class RevokedDevice:
    """`gone`: the certificates that got in until now; `broker_crl`: the copy for the broker."""

    device: str
    gone: tuple[Entry, ...]
    crl: Path
    broker_crl: Path | None

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "device": self.device,
            "serials": [entry.as_json()["serial"] for entry in self.gone],
            "crl": str(self.broker_crl or self.crl),
        }


def enroll(
    home: Home,
    device: str,
    profile: str,
    *,
    passphrase: str | None = None,
    state_dir: str = STATE_DIR,
    out: Path | None = None,
    force: bool = False,
    public_key: PublicKey | None = None,
    now: datetime | None = None,
) -> Enrolled:
    """Write the folder of `device`, with a new certificate. The caller holds the home.

    Args:
        profile: a shipped one's name, or the path of a .toml file, which is copied.
        state_dir: where the agent keeps its state, on the device.
        out: the folder, where it is not the home's own.
        force: take the place of a certificate that is still good, which is revoked.
        public_key: of a key that the device made and keeps; then the folder holds none. None: the
            key is made here, and lies in the folder.

    Raises:
        InputError, UntrustedError: not enrolled, and nothing is changed: a faulty word, no such
            profile, enrolled before, or the home lacks what every device needs.
        DeviceError: the folder cannot be written.
    """
    now = utc(now)
    folder = home.device(device) if out is None else out
    settings = home.read()
    broker_of(home, settings)
    own_profile = _profile(profile)
    named = own_profile[0] if own_profile else profile
    try:
        config = agent_toml(device, named, settings, state_dir, now).encode()
    except UnicodeEncodeError:
        raise InputError(f"state folder {state_dir!r}: not valid Unicode") from None
    root = newest_root(home, settings)
    authority = CertificateAuthority(home, passphrase)
    good = authority.issued().good(Role.DEVICE.value, device, now)
    if good and not force:
        raise InputError(
            f"device {device}: is enrolled, with a certificate good until "
            f"{good[-1].not_after:%Y-%m-%d}; --force makes a new one and revokes that"
        )
    if out is not None and not force and (folder / CONFIG).exists():
        raise InputError(f"{folder / CONFIG}: exists; --force replaces it")
    secret: bytes | None = None
    if public_key is None:
        key = new_key()
        public_key, secret = key.public_key(), key_pem(key)
    signed = authority.sign(Role.DEVICE, device, public_key, now=now)
    broker_crl = copy_crl(home)
    make_secret_folder(folder)
    _remove(folder / CONFIG)
    if secret is not None:
        write_secret(folder / KEY, secret)
    else:
        _remove(folder / KEY)
    replace(folder / CERTIFICATE, signed.certificate)
    replace(folder / CA, authority.certificate())
    replace(folder / ROOT, root)
    if own_profile:
        replace(folder / own_profile[0], own_profile[1])
    _remove(folder / MARK)
    replace(folder / CONFIG, config)
    return Enrolled(device, folder, signed.entry, bool(good), broker_crl or home.crl)


def revoke_device(
    home: Home, device: str, *, passphrase: str | None = None, now: datetime | None = None
) -> RevokedDevice:
    """Let `device` in no longer. May be repeated. The caller holds the home.

    Raises:
        InputError: it never was enrolled, is the operator, or the authority cannot be used.
        DeviceError: the disk failed; repeat it.
    """
    folder = home.device(device)
    if device.casefold() == OPERATOR:
        raise InputError(
            f"{device} is no device; delete {home.operator_certificate} and run `edge-fleet "
            "broker`, which issues another certificate and revokes the old one"
        )
    now = utc(now)
    gone = CertificateAuthority(home, passphrase).revoke(Role.DEVICE, device, now=now)
    broker_crl = copy_crl(home)
    if folder.is_dir() and not (folder / MARK).exists():
        words = f"The certificate of {device} was revoked on {now:%Y-%m-%d}; do not flash this.\n"
        replace(folder / MARK, words.encode())
    return RevokedDevice(device, gone, home.crl, broker_crl)


def newest_root(home: Home, settings: Settings) -> bytes:
    """The root metadata that a device starts from: it follows the chain from there by itself.

    Raises:
        InputError: the home's repository has none, or not all of them.
        UntrustedError: it holds roots that are not this fleet's.
        DeviceError: the disk failed.
    """
    # The repository may have come back from a web server: every root is checked before a device
    # is told to believe the last one.
    metadata = MetadataFolder(home.metadata)
    roots = load_roots(metadata, settings)
    data = metadata.read(role_file("root", len(roots))) if roots else None
    if data is None:
        raise InputError(
            f"{home.metadata}: holds no root metadata, which says whom devices trust; "
            f"finish `edge-fleet init --home {home.folder}` first"
        )
    return data


def agent_toml(device: str, profile: str, settings: Settings, state_dir: str, now: datetime) -> str:
    """A device's configuration, with what may be changed explained. Files stand beside it."""
    return TEMPLATE.format(
        when=f"{now:%Y-%m-%d}",
        device_id=_quoted(device),
        profile=_quoted(profile),
        state_dir=_quoted(state_dir),
        url=_quoted(settings.broker),
        prefix=_quoted(settings.prefix),
        root=_quoted(ROOT),
        ca=_quoted(CA),
        cert=_quoted(CERTIFICATE),
        key=_quoted(KEY),
    )


TEMPLATE = """\
# Written by `edge-fleet enroll` on {when}. Keep the files of this folder together, readable for
# the agent only, and start it with `edge-agent run --config agent.toml`. A setting behind a # is
# shown with the value that it has without being set. `edge-agent doctor` tells what is wrong.

device_id = {device_id}

# The board: which engines it has, and what a bundle may cost. A shipped profile, or a .toml file.
profile = {profile}

# Bundles, the journal and what is trusted live here. Give it a disk that survives a power cut.
state_dir = {state_dir}

# "tuf": a bundle runs only if the fleet's keys have signed it. `root` says which keys these were
# when the device was enrolled; later ones it learns by itself, each vouched for by those before.
trust = "tuf"
root = {root}

# Where signed metadata and chunks come from, in this order: "mqtt" is the broker below; a web
# server or a folder that holds the fleet's repository is named by its URL. All get the same checks.
#   sources = ["mqtt", "https://mirror.example/edge", "file:///media/usb/edge"]
sources = ["mqtt"]

# debug, info, warning or error
# log_level = "info"

[broker]
url = {url}
# The broker must show a certificate of this authority, and the device shows its own.
ca = {ca}
cert = {cert}
key = {key}
# What all topics begin with.
prefix = {prefix}
# auto speaks MQTT 5, and 3.1.1 where that is refused; or say "5" or "3.1.1"
# version = "auto"

# The local API. It asks nobody for a password: leave it on loopback, or put something before it.
[api]
# host = "127.0.0.1"
# port = 8080

[telemetry]
# interval_s = 10.0
# Kept on disk while the broker is away; the oldest goes first.
# spool_bytes = 4194304
"""


def _quoted(text: str) -> str:
    """A string of TOML: as JSON writes it, but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _profile(profile: str) -> tuple[str, bytes] | None:
    """A profile of the fleet's own as (file name, content); None for one that ships.

    Raises:
        InputError: there is no such profile, or it is faulty.
    """
    name = load_profile(profile).name
    if not profile.endswith(".toml"):
        return None
    return f"{name}.toml", Path(profile).read_bytes()


def _remove(path: Path) -> None:
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
            sync_folder(path.parent)
    except OSError as reason:
        raise DeviceError(f"{path}: cannot be removed ({reason.strerror})") from None
