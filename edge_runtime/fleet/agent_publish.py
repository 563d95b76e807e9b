"""Packages of the agent as one bundle, so that they are signed and published like any other.

`open_given` takes what `edge-fleet publish` was given and finds out by content what it is. Of
several packages, one for each platform, comes one manifest: the same packages give the same bytes.
What a package says of itself is believed here: the operator made it, and is about to sign it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from edge_runtime.bundle.agent_package import (
    AGENT,
    BACKEND,
    LISTED,
    MAX_PACKAGE_BYTES,
    SITE,
    TASK,
    About,
    about,
    package_file,
)
from edge_runtime.bundle.archive import Reader, open_bundle
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.deb import MAGIC, Deb
from edge_runtime.bundle.files import FileEntry, sha256_hex
from edge_runtime.bundle.manifest import (
    MANIFEST_NAME,
    UNKNOWN,
    Golden,
    Manifest,
    Needs,
    Placement,
    Provenance,
    TensorSpec,
    Tolerance,
    Variant,
)
from edge_runtime.errors import DeviceError, InputError, UntrustedError
from edge_runtime.fields import encode_json

PACKED = b"PK"
"""What an .edge file begins with; a bundle may have any name."""


def open_given(paths: Sequence[Path]) -> Reader:
    """A reader for one bundle, or for packages of the agent.

    Raises:
        InputError, UntrustedError, IncompatibleError: there is neither, both, or what cannot be
            one release.
    """
    packages = [path for path in paths if _is_package(path)]
    if not packages and len(paths) == 1:
        return open_bundle(paths[0])
    others = [path for path in paths if path not in packages]
    if others:
        raise InputError(
            f"{others[0]}: expected one bundle, or nothing but packages of the agent (.deb)"
        )
    return PackageReader(packages)


def _is_package(path: Path) -> bool:
    """By its content. Raises InputError: there is nothing, or a .deb that is neither."""
    if path.is_dir():
        return False
    with _opened(path) as file:
        head = file.read(len(MAGIC))
    if path.suffix == ".deb" and head != MAGIC and not head.startswith(PACKED):
        raise InputError(f"{path}: is no Debian package")
    return head == MAGIC


class PackageReader:
    """Packages of one version, a platform each, as a bundle.

    Raises:
        InputError, UntrustedError, IncompatibleError: one is no package of the agent, or they do
            not go together.
    """

    def __init__(self, packages: Sequence[Path]) -> None:
        found: dict[str, tuple[Path, About, float]] = {}
        for path in packages:
            said, made_s = look(path)
            if said.platform in found:
                raise InputError(f"{path}: is for {said.platform}, as {found[said.platform][0]} is")
            found[said.platform] = (path, said, made_s)
        versions = {said.version for _, said, _ in found.values()}
        if len(versions) != 1:
            raise InputError(
                f"{packages[0].parent}: packages of one release expected, found versions "
                f"{', '.join(sorted(versions))}"
            )
        self._paths = {package_file(of): found[of][0] for of in sorted(found)}
        version = versions.pop()
        self.where = f"{AGENT} {version} for {', '.join(sorted(found))}"
        self._listed = encode_json({of: found[of][1].package for of in sorted(found)})
        self._manifest = self._made(version, max(made_s for _, _, made_s in found.values()))

    def _made(self, version: str, made_s: float) -> bytes:
        files = [file_entry(LISTED, self._listed)]
        files += [file_entry(name, _bytes(path)) for name, path in self._paths.items()]
        platforms = [name.removesuffix(".deb") for name in self._paths]
        created = datetime.datetime.fromtimestamp(made_s, datetime.timezone.utc)
        package = TensorSpec("package", "bytes", (1,))
        return Manifest(
            name=AGENT,
            version=version,
            created=f"{created:%Y-%m-%dT%H:%M:%SZ}",
            task=TASK,
            profile=platforms[0],
            profile_sha256=sha256_hex(platforms[0].encode()),
            inputs=(package,),
            outputs=(package,),
            preprocess=(),
            postprocess=(),
            variants=tuple(_variant(of) for of in platforms),
            golden=Golden(LISTED, 1),
            quality=None,
            files=tuple(files),
            provenance=Provenance(
                source="Debian packages of edge-agent",
                source_sha256=sha256_hex(self._listed),
                licence="Apache-2.0",
                recipe_sha256=sha256_hex(b""),
                tools={},
            ),
        ).to_bytes()

    def names(self) -> tuple[str, ...]:
        """The manifest, the list, the packages."""
        return (MANIFEST_NAME, LISTED, *self._paths)

    def read(self, path: str, max_bytes: int) -> bytes:
        """One of them, whole."""
        held = {MANIFEST_NAME: self._manifest, LISTED: self._listed}.get(path)
        if held is None and path not in self._paths:
            raise UntrustedError(f"{self.where}: {path!r} is missing")
        data = held if held is not None else _bytes(self._paths[path])
        if len(data) > max_bytes:
            raise UntrustedError(
                f"{self.where}: {path!r} has {len(data)} bytes, at most {max_bytes} expected"
            )
        return data

    def pieces(self, entry: FileEntry) -> Iterator[bytes]:
        """One of them, cut as `entry` says."""
        data = self.read(entry.path, entry.size_bytes)
        return (bytes(piece) for _, piece in entry.cut(data))


def _variant(of: str) -> Variant:
    return Variant(
        id=f"agent-{of}",
        backend=BACKEND,
        file=package_file(of),
        precision="none",
        providers=(),
        options={},
        signatures=(),
        needs=Needs(),
        latency_ms=UNKNOWN,
        memory_bytes=UNKNOWN,
        placement=Placement("cpu", UNKNOWN),
        tolerance=Tolerance("cosine", 1.0),
        profiles=(of,),
    )


def look(path: Path) -> tuple[About, float]:
    """What a package is, and when it was made; all of it is looked through, as a device does.

    Raises:
        InputError: it is missing, or no package of the agent.
        UntrustedError: it is damaged, or larger than a package may be.
        IncompatibleError: it is compressed in a way that this software does not read.
        DeviceError: it cannot be read.
    """
    with _opened(path) as file:
        deb = Deb(file, str(path))
        said = about(deb)
        # A sum, for `any` would stop at the first file, and damage may lie behind it.
        if not sum(entry.size_bytes for entry, _ in deb.walk(SITE)):
            raise InputError(f"{path}: has nothing in {SITE}")
        return said, deb.made_s


def _bytes(path: Path) -> bytes:
    with _opened(path) as file:
        data = file.read(MAX_PACKAGE_BYTES + 1)
    if len(data) > MAX_PACKAGE_BYTES:
        raise InputError(f"{path}: larger than {MAX_PACKAGE_BYTES} bytes")
    return data


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder") from None
    except OSError as reason:
        raise DeviceError(f"{path}: cannot be read ({reason.strerror})") from None
