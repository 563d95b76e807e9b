"""The real packages, built by packaging/deb, in two versions so that there is something to upgrade.

A package of the same sources is built once, and found again by their digest.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.machine.tree import ROOT, cache_folder

SOURCES = ("edge_runtime", "device_profiles", "packaging/deb", "packaging/systemd")
FIRST, SECOND = "0.1.0", "0.1.1"
ARCH = "amd64"
BUILD_S = 900
KEPT = 4


def package(suite: str, version: str) -> Path:
    """The package of a suite with that version, for this processor.

    Raises:
        RuntimeError: it cannot be built; with the end of what the builder said.
    """
    given = os.environ.get("EDGE_MACHINE_PACKAGES")
    folder = Path(given) if given else cache_folder() / "packages" / _digest()
    made = folder / f"edge-agent_{version}+{suite}_{ARCH}.deb"
    if made.is_file():
        return made
    if not given:
        _forget_old(folder.parent)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as place:
        command = [
            sys.executable, str(ROOT / "packaging" / "deb" / "build.py"),
            "--suite", suite, "--arch", ARCH, "--version", version, "--out", place,
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=BUILD_S, cwd=ROOT, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-1500:]}")
        (new,) = Path(place).glob("*.deb")
        new.rename(made)
    return made


def _forget_old(cache: Path) -> None:
    """Packages of earlier sources, but for a few that others may be using."""
    if cache.is_dir():
        found = sorted(cache.iterdir(), key=lambda path: path.stat().st_mtime)
        for folder in found[:-KEPT]:
            shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _digest() -> str:
    """Of everything that goes in as it is now, but the wheels, which are pinned there."""
    found = hashlib.sha256()
    for path in _files():
        found.update(f"{path.relative_to(ROOT)}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _files() -> Iterator[Path]:
    for top in SOURCES:
        for path in sorted((ROOT / top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path
