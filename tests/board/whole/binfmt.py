"""Whether programs for ARM64 run on this host: packages' own scripts are such programs.

The kernel starts them by QEMU's user emulation once `binfmt_misc` knows of it. Installing Debian's
`qemu-user-static` sees to that where systemd runs; in a container root does it here, once a boot.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from edge_runtime.errors import DeviceError

KERNEL = Path("/proc/sys/fs/binfmt_misc")
NAME = "qemu-aarch64"
RULE = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
"""What the package wants to be registered, in the kernel's own form."""


def ensure() -> None:
    """Raises DeviceError where such programs do not run, and this process cannot change it."""
    if (KERNEL / NAME).exists():
        return
    if os.geteuid() != 0:
        raise DeviceError(
            f"{KERNEL / NAME}: programs for ARM64 do not run here; install qemu-user-static, or "
            "run this once as root"
        )
    if not RULE.exists():
        raise DeviceError(f"{RULE}: is missing; install the Debian package qemu-user-static")
    if not (KERNEL / "register").exists():
        command = ["mount", "-t", "binfmt_misc", "binfmt_misc", str(KERNEL)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DeviceError(f"{KERNEL}: cannot be mounted ({done.stderr.strip()})")
    if (KERNEL / NAME).exists():
        return
    try:
        (KERNEL / "register").write_text(RULE.read_text())
    except OSError as reason:
        raise DeviceError(f"{KERNEL}: {NAME} cannot be registered ({reason.strerror})") from None
