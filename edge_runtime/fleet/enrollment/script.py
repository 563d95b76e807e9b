"""What the enrolment server hands to boards that have nothing yet: a script, and packages.

The script is `setup.sh` with the server's pin and the packages' digests put in. It came over a
connection that was held to the pin, so a package that has the digest is the operator's, however it
came. Only a package that is whole, and what its file name promises, is offered; what else is called
.deb is passed over with a warning, and nothing else of the folder is looked at.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import logging
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle.agent_package import MACHINES
from edge_runtime.errors import EdgeError, InputError
from edge_runtime.fleet.agent_publish import look
from edge_runtime.fleet.enrollment.place import Place
from edge_runtime.fleet.package_order import order
from edge_runtime.messages.enrollment import Address

log = logging.getLogger(__name__)

NAME = re.compile(
    r"edge-agent_(?P<version>[0-9][A-Za-z0-9.~]*(?:-[A-Za-z0-9.~]+)*\+(?P<suite>[a-z0-9]+))"
    r"_(?P<arch>arm64|amd64)\.deb"
)
SUITES = "Debian 12 and 13 (Raspberry Pi OS, too) and Ubuntu 22.04 (JetPack 6)"
EXAMPLE = "edge-agent_0.2.0+deb12_arm64.deb"
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
    """The newest whole package for each suite and architecture in a folder; None: there are none.

    The folder may change while boards ask: it is looked at each time, and a package is proved and
    hashed when it changed. What is passed over is warned of, once.

    Raises:
        InputError: the folder cannot be read, or holds no whole package.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[tuple[str, int, int], Package | None] = {}
        self._lock = threading.Lock()
        if folder is not None and not self.all():
            raise InputError(
                f"{folder}: holds no whole package such as {EXAMPLE}; make some with `make deb`"
            )

    def all(self) -> tuple[Package, ...]:
        """By suite and architecture. Raises InputError: the folder cannot be read."""
        newest: dict[tuple[str, str], Package] = {}
        if self._folder is None:
            return ()
        try:
            names = [name for name in os.listdir(self._folder) if name.endswith(".deb")]
        except OSError as reason:
            raise InputError(f"{self._folder}: cannot be read ({reason.strerror})") from None
        with self._lock:
            for name in sorted(names, key=_order_of, reverse=True):
                match = NAME.fullmatch(name)
                if match is not None and (match["suite"], match["arch"]) in newest:
                    continue
                found = self._package(self._folder / name)
                if found is not None:
                    newest[found.suite, found.arch] = found
        return tuple(newest[key] for key in sorted(newest))

    def find(self, name: str) -> Package | None:
        """The one that is offered under this name."""
        return next((one for one in self.all() if one.path.name == name), None)

    def _package(self, path: Path) -> Package | None:
        """None: it is passed over."""
        try:
            found = path.stat()
            key = (path.name, found.st_mtime_ns, found.st_size)
        except OSError:
            key = (path.name, 0, 0)
        if key not in self._known:
            try:
                self._known[key] = _proved(path)
            except (EdgeError, OSError) as reason:
                log.warning("package passed over", extra={"reason": str(reason)})
                self._known[key] = None
        return self._known[key]


def _proved(path: Path) -> Package:
    """What is in `path`, all of which was read. Raises EdgeError, OSError: no good."""
    match = NAME.fullmatch(path.name)
    if match is None:
        raise InputError(f"{path}: expected a name such as {EXAMPLE}")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no plain file")
    said, _ = look(path)
    machine = said.platform.rpartition("-")[2]
    if (said.package, machine) != (match["version"], MACHINES[match["arch"]]):
        raise InputError(f"{path}: expected what its name says, found {said.package} for {machine}")
    size_bytes, digest = _measured(path)
    return Package(path, match["version"], match["suite"], match["arch"], size_bytes, digest)


def _order_of(name: str) -> tuple[tuple[int, int, str], ...]:
    match = NAME.fullmatch(name)
    return order(match["version"]) if match is not None else ()


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


def _measured(path: Path) -> tuple[int, str]:
    """Its bytes' number, and their SHA-256."""
    digest, size_bytes = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while piece := file.read(_READ):
            digest.update(piece)
            size_bytes += len(piece)
    return size_bytes, digest.hexdigest()
