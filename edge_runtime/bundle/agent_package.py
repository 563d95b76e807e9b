"""The agent itself as a release: what its package is called, for which boards it is made.

A new agent travels like a bundle: a manifest of task "agent", whose variants are platforms and
whose files are Debian packages. So chunks, signatures, sources and `edge-fleet publish` are the
same. A platform is a Python and a machine, as `python3.11-aarch64`: what a package's compiled
parts were made for. This module has the names; it touches no disk.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_runtime.bundle.files import FileEntry
from edge_runtime.bundle.manifest import VERSION, Manifest
from edge_runtime.errors import IncompatibleError, InputError, UntrustedError
from edge_runtime.text import plain

if TYPE_CHECKING:  # A supervisor needs the names, and none of what reads archives.
    from edge_runtime.bundle.deb import Deb

AGENT = "edge-agent"
"""The release's name, and the package's: no bundle may have it."""
TASK = "agent"
BACKEND = "agent"
SITE = "usr/lib/edge-agent"
"""The folder of a package that holds the software; nothing else of it is ever unpacked."""
LISTED = "packages.json"
MAX_PACKAGE_BYTES = 256 << 20
MACHINES = {"arm64": "aarch64", "amd64": "x86_64", "armhf": "armv7l"}
PLATFORM = r"python3\.[0-9]{1,2}-(aarch64|x86_64|armv7l)"
_SUITE = r"(?P<release>[^+]+)\+[a-z0-9.]+(?P<build>-[0-9]+)?"
_PYTHON = r"python3 \(>= (?P<at>3\.[0-9]{1,2})[~)]|python(?P<of>3\.[0-9]{1,2})\b"


@dataclass(frozen=True, slots=True)
class About:
    """What a package says of itself. `version` is the release's, `package` the package's own."""

    version: str
    platform: str
    package: str


def platform(python: str, machine: str) -> str:
    """Of a Python ("3.11") on a machine ("aarch64")."""
    return f"python{python}-{machine}"


def own_platform() -> str:
    """Of this very process."""
    return platform(f"{sys.version_info[0]}.{sys.version_info[1]}", os.uname().machine.lower())


def about(deb: Deb) -> About:
    """What `deb` is.

    Raises:
        InputError: another package; or its version or its dependencies are not of the form that
            ours have, so that nobody knows where it belongs.
    """
    name, version = deb.control.get("package", ""), deb.control.get("version", "")
    if name != AGENT:
        raise InputError(f"{deb.where}: is package {plain(name, 64)!r}, expected {AGENT}")
    found = re.fullmatch(_SUITE, version)
    release = found["release"].replace("~", "-") if found else ""
    if not re.fullmatch(VERSION, release):
        raise InputError(
            f"{deb.where}: has version {plain(version, 64)!r}, expected a release and a suite "
            "such as 0.2.0+deb12"
        )
    machine = MACHINES.get(deb.control.get("architecture", ""))
    pythons = {m["at"] or m["of"] for m in re.finditer(_PYTHON, deb.control.get("depends", ""))}
    if machine is None or len(pythons) != 1:
        raise InputError(
            f"{deb.where}: expected an architecture out of {', '.join(MACHINES)} and a dependency "
            "such as python3 (>= 3.11), python3 (<< 3.12), which say where it runs; found "
            f"{plain(deb.control.get('architecture', 'none'), 32)} and "
            f"{plain(deb.control.get('depends', 'none'), 120)}"
        )
    return About(release, platform(pythons.pop(), machine), version)


def package_file(of: str) -> str:
    """Path of the package for the platform `of`, the same in every version."""
    return f"{of}.deb"


def package_in(manifest: Manifest, of: str) -> FileEntry:
    """The package for the platform `of`.

    Raises:
        UntrustedError: `manifest` is no release of the agent.
        IncompatibleError: it has no package for that platform.
    """
    where = f"release {manifest.name}=={manifest.version}"
    if (manifest.name, manifest.task) != (AGENT, TASK):
        raise UntrustedError(f"{where}: is of task {manifest.task}, no {AGENT}")
    for variant in manifest.variants_for(of):
        if variant.backend == BACKEND and variant.file == package_file(of):
            entry = manifest.file(variant.file)
            if entry.size_bytes > MAX_PACKAGE_BYTES:
                raise UntrustedError(f"{where}: {entry.path} has {entry.size_bytes} bytes")
            return entry
    raise IncompatibleError(
        f"{where}: made for {', '.join(manifest.profiles)}, this device is {of}"
    )
