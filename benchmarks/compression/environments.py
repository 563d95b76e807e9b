"""Environments of the tools that cannot share the host's: made when first needed, then kept.

A requirement list lies beside this file. Its first line that names torch is installed first and
alone, because whatever pulls torch itself brings another build. A stamp holds the list's hash.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements")
ROOT = Path(__file__).resolve().parents[2]
HOST = "host"
INSTALL_LIMIT_S = 1800.0
STAMP = ".stamp"
TAIL = 300

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    # No vendor's telemetry: ONNX Runtime, Olive; OpenVINO and NNCF keep quiet where CI is set.
    "ORT_DISABLE_TELEMETRY": "1",
    "OLIVE_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "CI": "true",
}


class PeerError(Exception):
    """A tool cannot be installed, built or run; becomes a row that says so."""


def settings() -> dict[str, str]:
    """The variables that every process of a tool gets."""
    return {**os.environ, **SETTINGS, "PYTHONPATH": str(ROOT)}


def version(environment: str) -> str:
    """The requirement list of an environment, as text; empty for the host's."""
    if environment == HOST:
        return ""
    return (REQUIREMENTS / f"{environment}.txt").read_text()


def prepare(environment: str, folder: Path) -> Path:
    """The environment's interpreter; installs what is missing into `folder`/<environment>.

    Raises:
        PeerError: pip failed; the end of what it said.
    """
    if environment == HOST:
        return Path(sys.executable)
    wanted = [
        line for line in version(environment).splitlines() if line and not line.startswith("#")
    ]
    place = folder / environment
    python = place / "bin" / "python"
    stamp = place / STAMP
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return python
    venv.create(place, clear=True, with_pip=True)
    first = [line for line in wanted if line.startswith("torch==")]
    for some in (first, [line for line in wanted if line not in first]):
        if some:
            _install(environment, python, some)
    stamp.write_text(digest)
    return python


def _install(environment: str, python: Path, wanted: list[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    extra = os.environ.get("PIP_ARGS", "").split()
    try:
        done = subprocess.run(
            [*command, "--quiet", *extra, *wanted],
            capture_output=True,
            text=True,
            timeout=INSTALL_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as reason:
        raise PeerError(f"environment {environment}: {reason}") from None
    if done.returncode:
        raise PeerError(
            f"environment {environment}: pip failed ({' '.join(done.stderr.split())[-TAIL:]})"
        )
