"""The agent's .deb: the newest one that fits the image, or the one that was named, looked into.

A package is an `ar` archive; its control file says for which machine it is, and its version for
which suite. One of another suite would install and then find no Python of its own on the board.

Source: deb(5), deb-control(5).
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edge_runtime.errors import InputError
from edge_runtime.text import plain

NAME = "edge-agent"
DIST = Path("dist")
MAX_PACKAGE_BYTES = 512 << 20
_MAX_CONTROL_BYTES = 1 << 20
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
        InputError: there is none, or the one that was named is another one.
    """
    if named is not None:
        package = read_package(named)
        if package.arch not in (arch, "all") or _suite(package.version) not in (suite, ""):
            raise InputError(
                f"package {plain(str(named))}: is {package.version} for {package.arch}, the image "
                f"needs one for {suite} and {arch}"
            )
        return package
    found = [
        read_package(path)
        for path in sorted(dist.glob(f"{NAME}_*_{arch}.deb"))
        if _FILE.fullmatch(path.name) and _suite(path.name.split("_")[1]) == suite
    ]
    fitting = [package for package in found if package.arch == arch]
    if not fitting:
        raise InputError(
            f"no package {NAME}_*+{suite}_{arch}.deb for this image in {dist}/; {_HOW}"
        )
    return max(fitting, key=lambda package: (_order(package.version), package.path.name))


def read_package(path: Path) -> Package:
    """What a package says of itself.

    Raises:
        InputError: no package, damaged, or another program's.
    """
    where = f"package {plain(str(path))}"
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_PACKAGE_BYTES:
            raise InputError(f"{where}: has {size_bytes} bytes, at most {MAX_PACKAGE_BYTES}")
        with path.open("rb") as file:
            fields = _fields(_control(file, where), where)
    except OSError as reason:
        raise InputError(f"{where}: cannot be read ({reason.strerror})") from None
    name, version, arch = (fields.get(key, "") for key in ("Package", "Version", "Architecture"))
    if name != NAME:
        raise InputError(f"{where}: is {plain(name) or 'nameless'}, expected {NAME}")
    if not re.fullmatch(r"[A-Za-z0-9.+~-]{1,100}", version) or not re.fullmatch(r"\w+", arch):
        raise InputError(f"{where}: has no version or architecture that can be read")
    kib = fields.get("Installed-Size", "")
    installed = int(kib) << 10 if re.fullmatch(r"[0-9]{1,8}", kib) else 4 * size_bytes
    return Package(path, version, arch, size_bytes, installed)


def _control(file: BinaryIO, where: str) -> bytes:
    if file.read(8) != b"!<arch>\n":
        raise InputError(f"{where}: is no Debian package")
    for name, data in _members(file, where):
        try:
            if name == "control.tar.xz":
                decoder = lzma.LZMADecompressor(memlimit=64 << 20)
                data = decoder.decompress(data, _MAX_CONTROL_BYTES)
            elif name == "control.tar.gz":
                data = zlib.decompressobj(31).decompress(data, _MAX_CONTROL_BYTES)
            elif name != "control.tar":
                continue
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                for member in archive:
                    if member.name in ("control", "./control") and member.isreg():
                        stream = archive.extractfile(member)
                        return stream.read(_MAX_CONTROL_BYTES) if stream else b""
        except (lzma.LZMAError, zlib.error, tarfile.TarError, ValueError) as reason:
            raise InputError(f"{where}: is damaged ({reason})") from None
    raise InputError(f"{where}: has no control file that can be read here (xz, gz or plain)")


def _members(file: BinaryIO, where: str) -> Iterator[tuple[str, bytes]]:
    """The small members in front; the large one, with the files, comes last."""
    while len(head := file.read(60)) == 60:
        name, length = head[:16].decode("ascii", "replace").strip().rstrip("/"), head[48:58]
        if head[58:] != b"`\n" or not re.fullmatch(rb"[0-9]+ *", length):
            raise InputError(f"{where}: is damaged")
        size = int(length)
        if size > _MAX_CONTROL_BYTES:
            return
        yield name, file.read(size)
        file.seek(size % 2, 1)


def _fields(control: bytes, where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in control.decode("utf-8", "replace").splitlines():
        key, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            found[key] = value.strip()
    if not found:
        raise InputError(f"{where}: its control file is empty")
    return found


def _suite(version: str) -> str:
    """`deb12` of 1.2.0+deb12."""
    found = re.search(r"\+(deb[0-9]+|[a-z]+)", version)
    return found[1] if found else ""


def _order(version: str) -> list[tuple[int, int, str]]:
    """1.9 before 1.10, and 1.0~rc1 before 1.0, as dpkg sorts versions like ours."""
    words = [*re.findall(r"[0-9]+|~|[^0-9~]+", version.partition("+")[0]), ""]
    return [
        (-1, 0, "") if word == "~" else (1, int(word), "") if word.isdigit() else (0, 0, word)
        for word in words
    ]
