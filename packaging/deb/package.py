"""One package: which files it has, in which order, and what dpkg is told about it.

The order in the archive is a promise to updates over the air: first the vendored wheels, whose
bytes and times do not change from release to release, then everything of ours.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packaging.version import InvalidVersion, Version

import archive
import depends
import documents
import licences
import sbom
import wheels
import xz
from archive import File
from suites import PackagingError, Target

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
UNITS = ROOT / "packaging" / "systemd"

NAME = "edge-agent"
SITE = PurePosixPath("usr/lib/edge-agent")
UNIT_FOLDER = PurePosixPath("usr/lib/systemd/system")
UNIT_KINDS = (".service", ".socket", ".path", ".timer", ".target")

# Of our own packages a device gets these; the operator's half stays out.
OWN = ("edge_runtime", "device_profiles")
NOT_OWN = ("edge_runtime/fleet",)
OWN_KINDS = (".py", ".toml", ".json")

# Units that run only on a board that is enrolled; others with an [Install] section always.
OF_ENROLLED = ("edge-agent.service", "edge-agent.socket")

# What lies in packaging/deb/files: where it goes, and whether it is executable.
PLACES = {
    "edge-agent": ("usr/bin/edge-agent", True),
    "python": ("usr/libexec/edge-agent/python", True),
    "lintian-overrides": ("usr/share/lintian/overrides/edge-agent", False),
}

DESCRIPTION = """\
Description: agent of edge-runtime: runs a model on a small Linux device
 It proves a bundle on the device's real engine before it serves it, serves it
 over HTTP on the loopback interface, reports over MQTT, and takes signed
 updates over MQTT without dropping a request.
 .
 Python packages and both engines (ONNX Runtime, LiteRT) are inside, in a
 folder of their own: nothing else on the system sees them. Neither reports to
 its vendor.
"""


@dataclass(frozen=True, slots=True)
class Built:
    """A finished package and its bill of materials, as bytes."""

    file_name: str
    deb: bytes
    sbom_name: str
    sbom: str
    installed_kib: int


@dataclass(frozen=True, slots=True)
class Release:
    """Which version is built, and the one time that everything of ours carries."""

    version: Version
    epoch: int

    @staticmethod
    def parse(version: str, epoch: int) -> Release:
        """Raises PackagingError: it is no version as PEP 440 has it."""
        try:
            return Release(Version(version), epoch)
        except InvalidVersion:
            raise PackagingError(
                f"version {version!r}: expected one like 0.2.0 or 0.2.0rc1"
            ) from None

    def debian(self, target: Target) -> str:
        """As 0.2.0+deb12; a pre-release (0.2.0~rc1+deb12) sorts before its release."""
        marked = re.sub(r"(a|b|rc|\.dev)(\d+)", r"~\1\2", str(self.version)).replace("~.", "~")
        return f"{marked}+{target.suite.name}"


def build(
    target: Target,
    release: Release,
    vendored: Sequence[wheels.Wheel],
    cache: Path,
    say: Callable[[str], None] = lambda line: None,
) -> Built:
    """The package of one target.

    Args:
        vendored: its wheels, from `wheels.download`.
        cache: for compressed segments.
        say: told one line for each step.
    """
    version = release.debian(target)
    base = f"{NAME}_{version}_{target.arch.name}"
    own = list(own_files(release))
    bill = sbom.document(NAME, version, target, vendored, _digest(own), release.epoch)
    groups = [list(vendor_files(wheel)) for wheel in vendored]
    groups.append([*own, *unit_files(release), *_papers(release, version, target, vendored, bill)])
    files = [file for group in groups for file in group]
    say(f"{len(files)} files, {sum(len(f.data) for f in files) / 1e6:.0f} MB")

    control = control_files(files, version, target)
    data = archive.segments(groups, wheels.OLDEST)
    titles = [*(wheel.name for wheel in vendored), "edge-runtime"]
    packed = xz.compress(
        data, cache, lambda number: say(f"compressed {number + 1}/{len(data)}: {titles[number]}")
    )
    control_tar = archive.segments([control], release.epoch)
    members = (
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", xz.compress(control_tar, cache)),
        ("data.tar.xz", packed),
    )
    deb = archive.ar(members, release.epoch)
    return Built(f"{base}.deb", deb, f"{base}.spdx.json", bill, archive.installed_kib([files]))


def vendor_files(wheel: wheels.Wheel) -> Iterator[File]:
    """A wheel in the site folder."""
    for member in wheels.members(wheel):
        yield File(SITE / member.path, member.data, member.mtime)


def own_files(release: Release) -> Iterator[File]:
    """Our own packages in the site folder, metadata to read the version from, the launcher."""
    for package in OWN:
        for path in sorted((ROOT / package).rglob("*")):
            relative = path.relative_to(ROOT)
            hidden = any(part.startswith((".", "__pycache__")) for part in relative.parts)
            outside = any(relative.is_relative_to(folder) for folder in NOT_OWN)
            if path.is_file() and path.suffix in OWN_KINDS and not hidden and not outside:
                yield File(SITE / relative.as_posix(), path.read_bytes(), release.epoch)
    folder = SITE / f"edge_runtime-{release.version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: edge-runtime\nVersion: {release.version}\n"
    yield File(folder / "METADATA", about.encode(), release.epoch)
    for name, (place, executable) in PLACES.items():
        data = (HERE / "files" / name).read_bytes()
        yield File(PurePosixPath(place), data, release.epoch, executable)


def unit_files(release: Release) -> Iterator[File]:
    """The units that lie in packaging/systemd."""
    for path in units():
        yield File(UNIT_FOLDER / path.name, path.read_bytes(), release.epoch)


def units() -> list[Path]:
    """The sources of the units, by name.

    Raises:
        PackagingError: there are none.
    """
    found = sorted(path for path in UNITS.iterdir() if path.suffix in UNIT_KINDS)
    if not found:
        raise PackagingError(f"{UNITS}: expected systemd units, found none")
    return found


def control_files(files: Sequence[File], version: str, target: Target) -> list[File]:
    """control, md5sums and the maintainer scripts."""
    fields = {
        "Package": NAME,
        "Version": version,
        "Architecture": target.arch.name,
        "Maintainer": documents.MAINTAINER,
        "Installed-Size": str(archive.installed_kib([files])),
        "Depends": depends.depends(files, target),
        "Recommends": "ca-certificates",
        "Section": "misc",
        "Priority": "optional",
    }
    control = "".join(f"{name}: {value}\n" for name, value in fields.items()) + DESCRIPTION
    sums = "".join(
        f"{hashlib.md5(file.data, usedforsecurity=False).hexdigest()}  {file.path}\n"
        for file in files
    )
    mtime = max(file.mtime for file in files)
    found = [File(PurePosixPath("control"), control.encode(), mtime)]
    found.append(File(PurePosixPath("md5sums"), sums.encode(), mtime))
    for script in ("postinst", "postrm", "prerm"):
        text = (HERE / "scripts" / script).read_text()
        for word, names in _unit_lists().items():
            text = text.replace(f"@{word}@", " ".join(names))
        if left := re.findall(r"@[A-Z_]+@", text):
            raise PackagingError(f"scripts/{script}: unknown words {left}")
        found.append(File(PurePosixPath(script), text.encode(), mtime, executable=True))
    return sorted(found, key=lambda file: file.path)


def _unit_lists() -> dict[str, list[str]]:
    """What the maintainer scripts say of which units."""
    names = [path.name for path in units()]
    installable = [path.name for path in units() if "[Install]" in path.read_text()]
    always = [name for name in installable if name not in OF_ENROLLED]
    return {
        "ALWAYS": always,
        # A service among them is started by its path, timer or socket, or at boot.
        "ALWAYS_STARTED": [name for name in always if not name.endswith(".service")],
        "ENROLLED": [name for name in OF_ENROLLED if name in installable],
        "INSTALLED": installable,
        # What starts others ends first.
        "STOPPED": sorted(names, key=lambda name: (name.endswith(".service"), name)),
    }


def _papers(
    release: Release, version: str, target: Target, vendored: Sequence[wheels.Wheel], bill: str
) -> Iterator[File]:
    sys.path.insert(0, str(ROOT))
    try:
        from edge_runtime.agent.options import parser
    finally:
        sys.path.remove(str(ROOT))
    texts = {
        "changelog.gz": documents.changelog(version, target.suite.name, release.epoch),
        "copyright": licences.copyright_file(vendored),
        "README.Debian": documents.readme(),
        "sbom.spdx.json": bill,
        **{f"{name}.gz": text for name, text in licences.notices(vendored).items()},
    }
    yield from documents.document_files(texts, release.epoch)
    page = documents.man_page(parser(), version, release.epoch)
    path = PurePosixPath("usr/share/man/man1/edge-agent.1.gz")
    yield File(path, documents.gzipped(page), release.epoch)


def _digest(files: Iterable[File]) -> str:
    """Over path, length and bytes of every file, sorted."""
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda each: each.path):
        whole.update(f"{file.path}\0{len(file.data)}\0".encode() + file.data)
    return whole.hexdigest()
