"""What the enrolment server hands to boards that have nothing yet: a script, and packages.

The script is `setup.sh` with the server's pin and the packages' digests put in. It came over a
connection that was held to the pin, so a package that has the digest is the operator's, however it
came. Only what a file name promises by its form is offered, and nothing else of the folder.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import re
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import InputError
from edge_runtime.fleet.enrollment.place import Place
from edge_runtime.messages.enrollment import Address

NAME = re.compile(
    r"edge-agent_(?P<version>[0-9][A-Za-z0-9.~]*(?:-[A-Za-z0-9.~]+)*\+(?P<suite>[a-z0-9]+))"
    r"_(?P<arch>arm64|amd64)\.deb"
)
SUITES = "Debian 12 and 13 (Raspberry Pi OS, too) and Ubuntu 22.04 (JetPack 6)"
MAX_PACKAGE_BYTES = 1 << 30
_READ = 1 << 20


@dataclass(frozen=True, slots=True)
class Package:
    """One .deb."""

    path: Path
    version: str
    suite: str
    arch: str
    size_bytes: int
    sha256: str


class Packages:
    """The newest package for each suite and architecture in a folder; None: there are none.

    The folder may change while boards ask: it is looked at each time, and hashed when it changed.

    Raises:
        InputError: the folder cannot be read, or holds no package.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[tuple[str, int, int], str] = {}
        self._lock = threading.Lock()
        if folder is not None and not self.all():
            raise InputError(
                f"{folder}: holds no package such as edge-agent_0.2.0+deb12_arm64.deb; "
                "make some with `make deb`"
            )

    def all(self) -> tuple[Package, ...]:
        """By suite and architecture. Raises InputError: the folder cannot be read."""
        newest: dict[tuple[str, str], Package] = {}
        if self._folder is None:
            return ()
        try:
            names = sorted(os.listdir(self._folder))
        except OSError as reason:
            raise InputError(f"{self._folder}: cannot be read ({reason.strerror})") from None
        with self._lock:
            for name in names:
                found = self._package(name)
                if found is None:
                    continue
                other = newest.get((found.suite, found.arch))
                if other is None or order(other.version) < order(found.version):
                    newest[found.suite, found.arch] = found
        return tuple(newest[key] for key in sorted(newest))

    def find(self, name: str) -> Package | None:
        """The one that is offered under this name."""
        return next((one for one in self.all() if one.path.name == name), None)

    def _package(self, name: str) -> Package | None:
        assert self._folder is not None
        match = NAME.fullmatch(name)
        path = self._folder / name
        if match is None:
            return None
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_PACKAGE_BYTES:
                return None
            key = (name, found.st_mtime_ns, found.st_size)
            if key not in self._known:
                self._known[key] = _sha256(path)
        except OSError:
            return None
        digest = self._known[key]
        return Package(path, match["version"], match["suite"], match["arch"], found.st_size, digest)


def order(version: str) -> tuple[tuple[int, int, str], ...]:
    """To compare versions as dpkg does, for what our names may hold: 0.2.0~rc1 before 0.2.0."""
    parts = re.findall(r"[0-9]+|~|[^0-9~]+", version)
    ranked = [
        (2, int(part), "") if part.isdigit() else (-1 if part == "~" else 1, 0, part)
        for part in parts
    ]
    return (*ranked, (0, 0, ""))


def script(host: str, place: Place, packages: Packages) -> str:
    """The script for a board that calls this server `host`, as its Host header says."""
    text = (importlib.resources.files("edge_runtime.fleet.enrollment") / "setup.sh").read_text(
        "utf-8"
    )
    rows = [
        f"{one.suite} {one.arch} {one.version} {one.sha256} {one.path.name}"
        for one in packages.all()
    ]
    words = {
        "@SERVER@": f"https://{_called(host, place)}",
        "@PIN@": place.curl_pin,
        "@VERSIONS@": SUITES,
        "@PACKAGES@\n": "".join(f"{row}\n" for row in rows),
    }
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _called(host: str, place: Place) -> Address:
    """What the board came by is what it can reach; whatever is no address never gets in."""
    try:
        return Address.parse(host, 443)
    except InputError:
        return place.addresses[0]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_READ):
            digest.update(piece)
    return digest.hexdigest()
