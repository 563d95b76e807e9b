"""Trees of a distribution, as a fresh board has them: made once by mmdebstrap, then only read.

A tree holds what the images of boards have in common: systemd, its network and time services, D-Bus
and Python. Its network address comes from a file that the machine adds.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.machine import host

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "systemd", "systemd-sysv", "systemd-timesyncd", "dbus", "python3", "ca-certificates",
    "iproute2", "procps",
)  # fmt: skip
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
NETWORK = ("systemd-networkd.service", "systemd-networkd-wait-online.service")
DOWNLOAD_S = 60
MAX_KEYRING_BYTES = 1 << 20
FORM = 1
"""Raised when trees are made in another way."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of another distribution, out of a package of it that is known by its digest."""

    url: str
    sha256: str
    path: str


@dataclass(frozen=True, slots=True)
class Suite:
    """One release of a distribution, by the name that our packages have for it."""

    name: str
    codename: str
    mirror: str
    components: str = "main"
    keyring: Keyring | None = None


UBUNTU = Keyring(
    "http://archive.ubuntu.com/ubuntu/pool/main/u/ubuntu-keyring/ubuntu-keyring_2021.03.26_all.deb",
    "0d0e7ed6b112f5d03eabf3c7eb01ebdacf9c57714b279e90495cfc58c8c4520f",
    "usr/share/keyrings/ubuntu-archive-keyring.gpg",
)
SUITES = {
    suite.name: suite
    for suite in (
        Suite("deb12", "bookworm", "http://deb.debian.org/debian"),
        Suite("deb13", "trixie", "http://deb.debian.org/debian"),
        Suite(
            "jammy", "jammy", "http://archive.ubuntu.com/ubuntu", "main,universe", UBUNTU
        ),
    )
}  # fmt: skip


def cache_folder() -> Path:
    """`$EDGE_CACHE/machine`, or `build/machine` of this checkout."""
    base = os.environ.get("EDGE_CACHE")
    return Path(base) / "machine" if base else ROOT / "build" / "machine"


def tree(name: str) -> Path:
    """The folder with the tree of a suite, made where it is not there yet (a minute or more).

    Raises:
        RuntimeError: mmdebstrap failed; with the end of what it said.
    """
    suite = SUITES[name]
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    words = [*PACKAGES, *LEFT_OUT, *NETWORK, suite.mirror, suite.components, str(FORM)]
    key = hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
    made = cache / f"{name}-{key}"
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            with tempfile.TemporaryDirectory(prefix=".new-", dir=cache) as place:
                new = Path(place) / "tree"
                _make(suite, new)
                new.rename(made)
    return made


def _make(suite: Suite, folder: Path) -> None:
    enable = " ".join(NETWORK)
    keyring = _unpacked(suite.keyring, folder.with_name("keyring")) if suite.keyring else None
    command = [
        # Mounts of its own: were it killed, those in the folder would stay, and be emptied with it.
        "unshare", "--mount", "--propagation", "private",
        "mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", "--format=directory",
        f"--include={','.join(PACKAGES)}", f"--components={suite.components}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
        *([f"--keyring={keyring}"] if keyring else []),
        f'--customize-hook=chroot "$1" systemctl enable {enable}',
        suite.codename, str(folder), suite.mirror,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env=host.environment(), check=False
    )
    if done.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        raise RuntimeError(f"mmdebstrap {suite.codename}: {done.stderr.strip()[-1500:]}")
    # Every machine is another one, and has names of its own.
    (folder / "etc" / "machine-id").write_text("")
    (folder / "etc" / "resolv.conf").unlink(missing_ok=True)


def _unpacked(keyring: Keyring, folder: Path) -> Path:
    """The file with the keys, in `folder`."""
    folder.mkdir()
    package = folder / "keyring.deb"
    try:
        with urllib.request.urlopen(keyring.url, timeout=DOWNLOAD_S) as answer:
            data = answer.read(MAX_KEYRING_BYTES)
    except OSError as reason:
        raise RuntimeError(f"{keyring.url}: {reason}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != keyring.sha256:
        raise RuntimeError(f"{keyring.url}: sha256 {found}, expected {keyring.sha256}")
    package.write_bytes(data)
    subprocess.run(["dpkg-deb", "--extract", str(package), str(folder)], check=True)
    return folder / keyring.path
