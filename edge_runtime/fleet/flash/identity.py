"""A device's identity as it lies in the home: the folder that `edge-fleet enroll` wrote."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.fleet.enroll import CA, CERTIFICATE, CONFIG, KEY, MARK, ROOT
from edge_runtime.fleet.home import Home
from edge_runtime.profile import load_profile
from edge_runtime.profile.toml import load_toml

NEEDED = (CONFIG, ROOT, CA, CERTIFICATE, KEY)
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """A device that is enrolled. `profile` is the name of its board's profile."""

    device: str
    profile: str
    files: tuple[Path, ...]


def find_identity(home: Home, device: str) -> Identity:
    """Of `device`, whole and good.

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
    name = load_profile(str(own) if own is not None else profile).name
    paths = [folder / name for name in NEEDED] + ([own] if own is not None else [])
    for path in paths:
        _read(path)
    return Identity(device, name, tuple(paths))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as reason:
        raise InputError(f"{path}: cannot be read ({reason.strerror})") from None
    if len(data) > _MAX_FILE_BYTES:
        raise InputError(f"{path}: has more than {_MAX_FILE_BYTES} bytes")
    return data
