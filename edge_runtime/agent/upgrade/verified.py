"""From a request that anybody may have written to a tree that the fleet's key holders signed.

The helper's own verification, as root, in a folder of its own. Nothing that the agent has checked
counts. The steps, in order: 1. the release is called as the agent's, for this very platform; 2. its
manifest is in signed metadata, which is followed from the root in `/etc` and from what was seen
before; 3. the manifest has the digest that is signed, and names a package for this platform; 4. it
is not older than the package that is installed; 5. the package is put together from the agent's
chunks into a file of our own, every chunk and the whole held to its digest; 6. the package says
that it is that version for that platform; 7. all of it is looked through, and there is room for
it; 8. only then it is unpacked, and nothing of it was run.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

from edge_runtime.agent.upgrade.choice import factory_version, version_key
from edge_runtime.agent.upgrade.places import DRIVER, Places, tree_name
from edge_runtime.agent.upgrade.record import MAX_REASON
from edge_runtime.agent.upgrade.releases import Releases
from edge_runtime.bundle.agent_package import (
    AGENT,
    SITE,
    About,
    about,
    own_platform,
    package_in,
)
from edge_runtime.bundle.deb import Deb
from edge_runtime.bundle.files import MAX_CHUNK_BYTES, Chunk, FileEntry
from edge_runtime.bundle.manifest import MAX_MANIFEST_BYTES, Manifest
from edge_runtime.errors import (
    DeviceError,
    EdgeError,
    IncompatibleError,
    InputError,
    TransferError,
    UntrustedError,
)
from edge_runtime.link.folder import FolderPlace
from edge_runtime.messages.fleet import Release
from edge_runtime.text import plain
from edge_runtime.update.clock import Clock
from edge_runtime.update.trust.client import MAX_ROOT_BYTES, Client

INCOMING = ".incoming.deb"
TRUST = "trust"


class Metadata:
    """The metadata that the agent follows, as a source for a client of our own."""

    def __init__(self, place: FolderPlace) -> None:
        self._place = place

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """By its name in a repository; the agent keeps all but roots without their version."""
        if re.fullmatch(r"[1-9][0-9]{0,9}\.root\.json", name):
            return self._place.get(f"{TRUST}/root_history/{name}", max_bytes)
        kept = re.fullmatch(r"(?:[0-9]{1,10}\.)?([A-Za-z0-9%_-]{1,200}\.json)", name)
        return self._place.get(f"{TRUST}/{kept[1]}", max_bytes) if kept is not None else None


def install(release: Release, places: Places, releases: Releases) -> str:
    """Verify `release` and unpack it; the name of its tree.

    Raises:
        UntrustedError, IncompatibleError: it is not to be believed, or not for this board.
        MetadataError, TransferError, DeviceError: it cannot be had now; no fault of its own.
    """
    where = f"release {release.name}=={release.version}"
    of = own_platform()
    if (release.name, release.profile) != (AGENT, of):  # 1
        raise UntrustedError(
            f"{where} for {release.profile}: expected {AGENT} for {of}, which this board is"
        )
    handed = FolderPlace(places.state)
    root = _root(places.root)
    kept = places.releases / TRUST
    client = Client(kept, root, Metadata(handed), Clock(kept / "time.json"))
    client.refresh()
    client.check(release)  # 2
    entry = package_in(_manifest(release, handed, where), of)  # 3
    _demand_not_older(release.version, places.factory, where)  # 4
    name = tree_name(release.version, release.manifest.sha256)
    if releases.is_whole(name):
        return name
    incoming = places.releases / INCOMING
    try:
        with open(incoming, "w+b") as file:
            _join(entry, handed, file, where)  # 5
            said = _look_through(file, releases, where)
            if (said.version, said.platform) != (release.version, of):  # 6
                raise UntrustedError(
                    f"{where} for {of}: its package is {said.version} for {said.platform}"
                )
            file.seek(0)
            releases.put(  # 8
                name,
                Deb(file, where).walk(SITE),
                {
                    "format": 1,
                    "version": release.version,
                    "manifest_sha256": release.manifest.sha256,
                    "platform": of,
                    "package": said.package,
                },
                like=(*filter(None, (releases.current_folder,)), places.factory),
            )
    except OSError as reason:
        raise DeviceError(f"{incoming}: cannot be used ({reason.strerror or reason})") from None
    except InputError as reason:
        raise UntrustedError(str(reason)) from None
    finally:
        incoming.unlink(missing_ok=True)
    return name


def _root(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_ROOT_BYTES + 1)
    except OSError as reason:
        raise DeviceError(
            f"trusted root {path}: cannot be read ({reason.strerror}); only a board that was "
            "enrolled can believe a new agent"
        ) from None


def _manifest(release: Release, handed: FolderPlace, where: str) -> Manifest:
    path = f"{DRIVER}/manifests/{release.manifest.sha256}.json"
    data = handed.get(path, MAX_MANIFEST_BYTES)
    if data is None:
        raise TransferError(f"{where}: the agent has no {path}")
    release.manifest.check(data, where)
    return Manifest.from_bytes(data, where=where)


def _demand_not_older(version: str, factory: Path, where: str) -> None:
    try:
        installed = factory_version(str(factory))
        older = version_key(version) < version_key(installed)
    except (OSError, ValueError) as reason:
        raise DeviceError(f"{factory}: says no version ({reason})") from None
    if older:
        raise IncompatibleError(f"{where}: the package that is installed here is {installed}")


def _join(entry: FileEntry, handed: FolderPlace, file: BinaryIO, where: str) -> None:
    """`entry` out of the agent's chunks, each copied before it is looked at."""

    def read(chunk: Chunk) -> bytes:
        path = f"{DRIVER}/chunks/{chunk.sha256[:2]}/{chunk.sha256}"
        data = handed.get(path, MAX_CHUNK_BYTES)
        if data is None:
            raise TransferError(f"{where}: the agent has no chunk {chunk.sha256[:12]}…")
        return data

    try:
        for _, piece in entry.checked(map(read, entry.chunks), where):
            file.write(piece)
    except UntrustedError as reason:
        # What is signed is the digest; that the agent holds other bytes is not the release's fault.
        raise TransferError(str(reason)) from None
    file.flush()
    os.fsync(file.fileno())


def _look_through(file: BinaryIO, releases: Releases, where: str) -> About:
    """Every entry once, so that nothing is written of a package that is no good."""
    file.seek(0)
    deb = Deb(file, where)
    said = about(deb)
    total = sum(entry.size_bytes for entry, _ in deb.walk(SITE))  # 7
    if total == 0:
        raise UntrustedError(f"{where}: its package has nothing in {SITE}")
    lacking = releases.lacking_bytes(total)
    if lacking:
        raise DeviceError(f"{where}: {total} bytes to unpack; the disk lacks {lacking}")
    return said


def is_final(error: EdgeError) -> bool:
    """Whether `error` is the release's own fault: then it is refused, else tried again."""
    return isinstance(error, UntrustedError | IncompatibleError)


def sentence(error: EdgeError) -> str:
    """For the journal."""
    return plain(str(error), MAX_REASON)
