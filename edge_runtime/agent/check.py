"""`edge-agent check`: would this configuration run here? Looks, and changes nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.listener import Listener
from edge_runtime.agent.state_folder import holder, not_writable
from edge_runtime.errors import EdgeError
from edge_runtime.inference.backend import load_backend
from edge_runtime.profile import DeviceProfile, load_profile


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `ok` None: not good, and no obstacle either."""

    what: str
    ok: bool | None
    text: str

    def as_json(self) -> Mapping[str, object]:
        """For `--json`."""
        return {"what": self.what, "ok": self.ok, "text": self.text}


def check(config: AgentConfig) -> list[Finding]:
    """Profile, machine, engines, state folder, API, broker, first bundle, trust.

    Raises:
        InputError: there is no such profile.
    """
    profile = load_profile(config.profile)
    broker = f"{config.broker.address}, not contacted" if config.broker else "none configured"
    return [
        Finding("profile", True, f"{profile.name}: {profile.title}"),
        _machine(profile),
        *_engines(profile),
        _state(config.state_dir),
        _api(config),
        Finding("broker", True if config.broker else None, broker),
        _first_bundle(config),
        _trust(config),
        Finding("sources", True if config.sources else None, ", ".join(config.sources) or "none"),
    ]


def _machine(profile: DeviceProfile) -> Finding:
    found = platform.machine()
    same = found == profile.arch
    text = (
        f"{found}, as the profile says" if same else f"{found}, the profile is for {profile.arch}"
    )
    return Finding("machine", True if same else None, text)


def _engines(profile: DeviceProfile) -> list[Finding]:
    """Each engine of the profile; one is enough, so only the lack of all is an obstacle."""
    missing = {}
    for engine in profile.engines:
        try:
            missing[engine.backend] = load_backend(engine.backend).available()
        except EdgeError as reason:
            missing[engine.backend] = str(reason)
    none = all(missing.values())
    return [
        Finding(
            f"engine {name}", True if why is None else (False if none else None), why or "installed"
        )
        for name, why in missing.items()
    ]


def _state(folder: Path) -> Finding:
    fault = holder(folder) or not_writable(folder)
    return Finding("state", not fault, fault or str(folder))


def _api(config: AgentConfig) -> Finding:
    where = f"{config.api.host} port {config.api.port}"
    try:
        listener = Listener(config.api.host, config.api.port)
        try:
            listener.listen()
        finally:
            listener.close()
    except EdgeError as reason:
        return Finding("api", False, str(reason))
    return Finding("api", True, f"{where} is free" if config.api.port else "any free port")


def _first_bundle(config: AgentConfig) -> Finding:
    path = config.first_bundle
    if path is None:
        obstacle = config.broker is None
        text = "none configured" + (", and no broker to get one from" if obstacle else "")
        return Finding("first bundle", None, text)
    there = os.path.exists(path)  # False also where it may not be looked for.
    return Finding("first bundle", there, str(path) if there else f"{path} is missing")


def _trust(config: AgentConfig) -> Finding:
    """Whether there is a root to begin with; what it leads to is not asked here."""
    if config.root is None:
        text = "none: bundles are not signed, who writes to the broker decides what runs"
        return Finding("trust", None, text)
    from edge_runtime.update.trust.client import root_version

    try:
        version = root_version(config.root.read_bytes())
    except OSError as reason:
        return Finding("trust", False, f"{config.root}: cannot be read ({reason.strerror})")
    except EdgeError as reason:
        return Finding("trust", False, f"{config.root}: {reason}")
    return Finding("trust", True, f"tuf, from root version {version} of {config.root}")
