"""The agent's .deb: the newest one that fits the image, or the one that was named, looked into.

Its control file says for which machine it is, and its version for which suite. One of another suite
would install and then find no Python of its own on the board.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.bundle.agent_package import AGENT, SITE
from edge_runtime.bundle.deb import Deb
from edge_runtime.bundle.durable import demand_regular
from edge_runtime.errors import IncompatibleError, InputError, UntrustedError
from edge_runtime.fleet.package_order import order
from edge_runtime.text import plain

NAME = AGENT
DIST = Path("dist")
_FILE = re.compile(rf"{NAME}_[A-Za-z0-9.+~-]+_[a-z0-9]+\.deb")
_HOW = (
    "make one with `make deb` in a checkout of edge-runtime, or name one that you have with "
    "--package FILE.deb"
)


@dataclass(frozen=True, slots=True)
class Package:
    """A package of the agent. `installed_bytes` is what it takes once it is installed."""

    path: Path
    version: str
    arch: str
    size_bytes: int
    installed_bytes: int

    @property
    def file(self) -> str:
        """What it is called on the board."""
        return f"{NAME}_{self.version}_{self.arch}.deb"


def find_package(named: Path | None, suite: str, arch: str, dist: Path = DIST) -> Package:
    """The package for a board of `suite` and `arch`.

    Raises:
        InputError: there is none, or the one that was named is another one, or damaged.
    """
    package = read_package(named if named is not None else _newest(suite, arch, dist))
    if package.arch not in (arch, "all") or _suite(package.version) not in (suite, ""):
        raise InputError(
            f"package {plain(str(package.path))}: is {package.version} for {package.arch}, the "
            f"image needs one for {suite} and {arch}"
        )
    return package


def _newest(suite: str, arch: str, dist: Path) -> Path:
    found = [
        path
        for path in dist.glob(f"{NAME}_*_{arch}.deb")
        if _FILE.fullmatch(path.name) and _suite(path.name.split("_")[1]) == suite
    ]
    if not found:
        raise InputError(
            f"no package {NAME}_*+{suite}_{arch}.deb for this image in {dist}/; {_HOW}"
        )
    return max(
        found, key=lambda path: (order(path.name.split("_")[1].partition("+")[0]), path.name)
    )


def read_package(path: Path) -> Package:
    """What a package says of itself, all of which was looked through.

    Raises:
        InputError: no package, damaged, cut off, or another program's.
    """
    where = f"package {plain(str(path))}"
    try:
        demand_regular(path)
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            package = Deb(file, where)
            # What is damaged behind the control file, dpkg would refuse at every boot.
            for _ in package.walk(SITE):
                pass
    except OSError as reason:
        raise InputError(f"{where}: cannot be read ({reason.strerror})") from None
    except (UntrustedError, IncompatibleError) as reason:  # It is the operator's own.
        raise InputError(str(reason)) from None
    fields = package.control
    name, version, arch = (fields.get(key, "") for key in ("package", "version", "architecture"))
    if name != NAME:
        raise InputError(f"{where}: is {plain(name) or 'nameless'}, expected {NAME}")
    if not re.fullmatch(r"[A-Za-z0-9.+~-]{1,100}", version) or not re.fullmatch(r"\w+", arch):
        raise InputError(f"{where}: has no version or architecture that can be read")
    kib = fields.get("installed-size", "")
    installed = int(kib) << 10 if re.fullmatch(r"[0-9]{1,8}", kib) else 4 * size_bytes
    return Package(path, version, arch, size_bytes, installed)


def _suite(version: str) -> str:
    """`deb12` of 1.2.0+deb12."""
    found = re.search(r"\+(deb[0-9]+|[a-z]+)", version)
    return found[1] if found else ""
