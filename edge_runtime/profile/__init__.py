"""Device profiles: what a board is, which engines it runs, and what it may spend."""

from __future__ import annotations

from edge_runtime.profile.device import MAX_PROFILE_BYTES, Budget, DeviceProfile, Probes
from edge_runtime.profile.engine import CPU, Demands, Engine
from edge_runtime.profile.files import load_profile, profile_names
from edge_runtime.profile.toml import load_toml

__all__ = [
    "CPU",
    "MAX_PROFILE_BYTES",
    "Budget",
    "Demands",
    "DeviceProfile",
    "Engine",
    "Probes",
    "load_profile",
    "load_toml",
    "profile_names",
]
