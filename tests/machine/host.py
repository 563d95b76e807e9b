"""What this host must have for machines, and the reason that a test is skipped with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "mke2fs": "e2fsprogs",
}
"""And the Debian packages that have them."""
PROBE = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "true")
GROUPS = Path("/sys/fs/cgroup")
PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def missing() -> str:
    """Why there can be no machine here; empty where there can."""
    why = ""
    absent = [f"{name} ({package})" for name, package in PROGRAMS.items() if not found(name)]
    if os.geteuid() != 0:
        why = "that needs root"
    elif absent:
        why = f"not installed: {', '.join(absent)}"
    elif subprocess.run(PROBE, capture_output=True, env=environment(), check=False).returncode:
        why = "mounts are forbidden here"
    elif not any(os.access(folder, os.W_OK) for folder in GROUPS.glob("*/")):
        why = "control groups are read-only here"
    return f"no machine in a container: {why}" if why else ""


def found(name: str) -> str | None:
    """The path of a program, also where the caller's PATH leaves the administrator's out."""
    return shutil.which(name, path=PATH)


def environment() -> dict[str, str]:
    """For programs of the administrator."""
    return {**os.environ, "PATH": PATH, "LANG": "C.UTF-8"}
