"""SHA256SUMS of all packages in a folder, and its detached signature by gpg."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from suites import PackagingError
from wheels import sha256_of

SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.asc"


def write(folder: Path, key: str | None, say: Callable[[str], None]) -> None:
    """Sums of every package and bill in the folder, in the format of sha256sum(1).

    Args:
        key: whose signature; None: an old signature is removed, for it no longer fits.

    Raises:
        PackagingError: gpg cannot sign.
    """
    files = sorted([*folder.glob("edge-agent_*.deb"), *folder.glob("edge-agent_*.spdx.json")])
    lines = "".join(f"{sha256_of(path)}  {path.name}\n" for path in files)
    path, signature = folder / SUMS, folder / SIGNATURE
    path.write_text(lines)
    signature.unlink(missing_ok=True)
    if key is None:
        say(f"== {path}: {len(files)} files; not signed, no --sign-key was given")
        return
    _gpg("--local-user", key, "--armor", "--detach-sign", "--output", str(signature), str(path))
    say(f"== {path}: {len(files)} files; signed by {key}: {signature}")


def check_key(key: str) -> None:
    """Raises PackagingError: gpg has no secret key of this name."""
    _gpg("--list-secret-keys", key)


def _gpg(*words: str) -> None:
    try:
        command = ["gpg", "--batch", "--yes", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise PackagingError("to sign, gpg is needed; install gnupg") from None
    if done.returncode != 0:
        raise PackagingError(f"gpg cannot sign: {done.stderr.strip()}")
