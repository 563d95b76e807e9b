"""A device's identity as it lies in the home: the folder that `edge-fleet enroll` wrote.

Held to what `edge-agent setup` demands at the first boot, where nobody is there to read why not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID
from tuf.api.metadata import Root

from edge_runtime.errors import EdgeError, InputError
from edge_runtime.fleet.certificates import read_certificate
from edge_runtime.fleet.enroll import CA, CERTIFICATE, CONFIG, KEY, MARK, ROOT
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.metadata import check_keyids, parse, votes
from edge_runtime.fleet.outcome import TIME
from edge_runtime.link.config import client_context
from edge_runtime.profile import load_profile
from edge_runtime.profile.toml import load_toml
from edge_runtime.text import plain

NEEDED = (CONFIG, ROOT, CA, CERTIFICATE, KEY)
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """A device that is enrolled. `profile` is the name of its board's profile, for `arch`."""

    device: str
    profile: str
    arch: str
    files: tuple[Path, ...]


def find_identity(home: Home, device: str, now: datetime) -> Identity:
    """Of `device`, whole and good `now`.

    Raises:
        InputError: not enrolled, revoked, or its folder is damaged; it says what to do.
    """
    folder = home.device(device)
    again = f"edge-fleet enroll {device} --home {home.folder} --profile NAME"
    if (folder / MARK).exists():
        raise InputError(f"device {device}: its certificate was revoked; enrol it anew: {again}")
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if CONFIG in missing:
        raise InputError(f"device {device}: is not enrolled in {home.folder}; enrol it: {again}")
    if missing:
        raise InputError(f"{folder}: lacks {', '.join(missing)}; enrol it anew: {again} --force")
    config = load_toml(_read(folder / CONFIG), _MAX_FILE_BYTES, str(folder / CONFIG))
    profile, named = config.get("profile"), config.get("device_id")
    if named != device or not isinstance(profile, str):
        raise InputError(f"{folder / CONFIG}: is of device {named!r}, expected {device}")
    own = folder / profile if profile.endswith(".toml") else None
    if own is not None and not re.fullmatch(r"[A-Za-z0-9._-]+", profile):
        raise InputError(f"{folder / CONFIG}: profile {profile!r} is no file beside it")
    board = load_profile(str(own) if own is not None else profile)
    paths = [folder / name for name in NEEDED] + ([own] if own is not None else [])
    try:
        _prove(folder, device, now)
    except EdgeError as reason:
        raise InputError(f"{reason}; enrol it anew: {again} --force") from None
    return Identity(device, board.name, board.arch, tuple(paths))


def _prove(folder: Path, device: str, now: datetime) -> None:
    """Raises EdgeError: keys and certificates do not belong together, or to `device` now."""
    where, ca, root = folder / CERTIFICATE, folder / CA, folder / ROOT
    certificate = read_certificate(_read(where), str(where))
    authority = read_certificate(_read(ca), str(ca))
    client_context(ca, where, folder / KEY)  # As the board opens them: a pair, and not locked.
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = plain(str(names[0].value)) if names else "nobody"
    if name != device:
        raise InputError(f"{where}: is of {name}, expected {device}")
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now < end:
        raise InputError(
            f"{where}: is good from {begin.strftime(TIME)} to {end.strftime(TIME)}, "
            f"it is {now.strftime(TIME)}"
        )
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise InputError(f"{where}: is not of the authority {ca}") from None
    found = parse(_read(root), Root, str(root))
    check_keyids(found.signed, str(root))
    if not votes("root", found, found.signed).complete:
        raise InputError(f"{root}: is not signed by the keys that it names")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as reason:
        raise InputError(f"{path}: cannot be read ({reason.strerror})") from None
    if len(data) > _MAX_FILE_BYTES:
        raise InputError(f"{path}: has more than {_MAX_FILE_BYTES} bytes")
    return data
