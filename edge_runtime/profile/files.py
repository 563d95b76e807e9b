"""Where profiles stand: shipped ones by name, a user's own by path."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.profile.device import MAX_PROFILE_BYTES, DeviceProfile


def profile_names() -> list[str]:
    """Names of the profiles that are shipped."""
    folder = importlib.resources.files("device_profiles")
    return sorted(
        item.name[: -len(".toml")] for item in folder.iterdir() if item.name.endswith(".toml")
    )


def load_profile(name_or_path: str) -> DeviceProfile:
    """A shipped profile by name, or a file of the user's own by path (it ends in .toml).

    Raises:
        InputError: no such profile (the known ones are listed), or a faulty file.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        try:
            with open(path, "rb") as stream:
                data = stream.read(MAX_PROFILE_BYTES + 1)
        except OSError as reason:
            raise InputError(f"profile {path}: cannot be read ({reason.strerror})") from None
        return DeviceProfile.from_toml(data, where=str(path))
    known = profile_names()
    if name_or_path not in known:
        raise InputError(
            f"profile {name_or_path!r} is not known; known are {', '.join(known)}, "
            "or give the path of a .toml file"
        )
    file = importlib.resources.files("device_profiles") / f"{name_or_path}.toml"
    return DeviceProfile.from_toml(file.read_bytes(), where=f"profile {name_or_path}")
