"""Slots: the manifests of the bundles on this device, `<root>/<sha256>.json`.

A slot is nothing but a manifest; its files are chunks in the store, shared between slots. Which
slot is active, previous or candidate stands in the journal. This module keeps manifests, says
whether a slot can be used, and removes what no slot needs.

A bundle may have variants for several boards. A slot needs the files of the variants that fit this
board's profile, and those that belong to no variant; the others are never looked for. It can be
used with one fitting variant; where files of another are missing, it lacks something, which is
worth a fetch and no reason to stop serving. So it is after an update of the agent whose profile has
a new engine.

Which manifest came last is told by the files' times, which count instead of telling a time: each
one put here is a second later than the latest, whatever the clock of a board without one says.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from edge_runtime.bundle import durable
from edge_runtime.bundle.files import SHA256, FileEntry, sha256_hex
from edge_runtime.bundle.manifest import MAX_MANIFEST_BYTES, Manifest
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.errors import DeviceError, EdgeError, IncompatibleError
from edge_runtime.messages.fleet import BundleRef
from edge_runtime.profile import DeviceProfile

log = logging.getLogger(__name__)


class _Passing(DeviceError):
    """It cannot be read now, which says nothing about it."""


class Slots:
    """The folder of manifests, made if need be.

    Args:
        profile: the board. Which tasks are allowed is asked before a bundle is fetched, not here.

    Raises:
        DeviceError: the folder cannot be made.
    """

    def __init__(self, root: Path, store: ChunkStore, profile: DeviceProfile) -> None:
        self.root = root
        self._store = store
        self._profile = replace(profile, tasks=())
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as reason:
            raise DeviceError(f"slots {root}: cannot be made ({reason.strerror})") from None

    def path(self, manifest_sha256: str) -> Path:
        """Where the manifest of that digest stands, or would."""
        if not re.fullmatch(SHA256, manifest_sha256):
            raise RuntimeError(f"{manifest_sha256[:80]!r} is not a digest")
        return self.root / f"{manifest_sha256}.json"

    def put(self, manifest_bytes: bytes) -> str:
        """Keep a manifest durably; its digest.

        Raises:
            DeviceError: disk full, read-only or failing.
        """
        digest = sha256_hex(manifest_bytes)
        try:
            last = max((last for last, _ in self._listed()), default=0)
        except OSError as reason:
            raise self._error("listed", reason) from None
        with durable.replacing(self.path(digest)) as file:
            file.write(manifest_bytes)
            file.flush()
            os.utime(file.fileno(), (last + 1, last + 1))
        return digest

    def read(self, manifest_sha256: str) -> bytes:
        """The manifest's bytes, their digest checked now.

        Raises:
            DeviceError: not here, unreadable, or spoiled; a spoiled one is removed.
        """
        path = self.path(manifest_sha256)
        try:
            data = durable.read(path, MAX_MANIFEST_BYTES + 1)
        except OSError as reason:
            kind = _Passing if reason.errno in durable.PASSING else DeviceError
            raise kind(f"manifest {path}: cannot be read ({reason.strerror})") from None
        if sha256_hex(data) != manifest_sha256:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise DeviceError(f"manifest {path}: spoiled on disk; removed, to be fetched again")
        return data

    def has(self, manifest_sha256: str) -> bool:
        """Whether the manifest is here, readable and unspoiled."""
        try:
            self.read(manifest_sha256)
        except DeviceError:
            return False
        return True

    def damage(self, manifest_sha256: str) -> str | None:
        """What keeps the slot from being used, or None where a variant of it can run.

        Chunks are looked for, not read: whoever loads the bundle checks every digest. What cannot
        be read for a passing reason is no damage: a good bundle must not be given up for it.
        """
        try:
            manifest = Manifest.from_bytes(self.read(manifest_sha256))
            variants = self._profile.fits(manifest)
        except _Passing:
            return None
        except EdgeError as reason:
            return str(reason)
        if any(not self._store.missing(manifest.files_of((v,))) for v in variants):
            return None
        missing = self._store.missing(manifest.files_of(variants))
        return f"bundle {manifest.name} {manifest.version}: {len(missing)} chunks are lost"

    def lacks(self, manifest_sha256: str) -> str | None:
        """What is missing of a slot that can be used all the same, or None where nothing is.

        What cannot be read, or has no variant for this board, lacks nothing: see `damage`.
        """
        try:
            manifest = Manifest.from_bytes(self.read(manifest_sha256))
            missing = self._store.missing(self._needed(manifest))
        except EdgeError:
            return None
        if not missing:
            return None
        return (
            f"bundle {manifest.name} {manifest.version}: {len(missing)} chunks of what profile "
            f"{self._profile.name} can run are not here"
        )

    def _needed(self, manifest: Manifest) -> tuple[FileEntry, ...]:
        """Raises IncompatibleError: no variant is for this board."""
        return manifest.files_of(self._profile.fits(manifest))

    def whole(self) -> list[BundleRef]:
        """Every bundle that can be used, the latest installed first."""
        found = []
        try:
            listed = self._listed()
        except OSError as reason:
            log.error("%s", self._error("listed", reason))
            return []
        for _, digest in listed:
            if self.damage(digest) is None:
                try:
                    manifest = Manifest.from_bytes(self.read(digest))
                except DeviceError:
                    continue
                found.append(BundleRef(manifest.name, manifest.version, digest))
        return found

    def prune(self, keep: Iterable[str]) -> int:
        """Remove the manifests that are not in `keep`, then the chunks that those do not need.

        Returns the bytes freed in the store. What a power cut left of a manifest that was being put
        goes as well. Manifests go first: one whose chunks are gone must
        not look like a bundle.

        Raises:
            DeviceError: a manifest that is to be kept cannot be read (nothing is removed, for it
                is not known which chunks it needs), or the disk is read-only or failing.
        """
        kept = set(keep)
        chunks: set[str] = set()
        for digest in kept:
            manifest = Manifest.from_bytes(self.read(digest))
            try:
                needed = self._needed(manifest)
            except IncompatibleError:  # It cannot run here any more: it needs nothing.
                continue
            chunks.update(chunk.sha256 for entry in needed for chunk in entry.chunks)
        try:
            for _, digest in self._listed():
                if digest not in kept:
                    os.unlink(self.path(digest))
            for path in durable.torn(self.root):
                os.unlink(path)
            durable.sync_folder(self.root)
        except OSError as reason:
            raise self._error("pruned", reason) from None
        return self._store.prune(chunks)

    def _error(self, what: str, reason: OSError) -> DeviceError:
        return DeviceError(f"slots {self.root}: cannot be {what} ({reason.strerror})")

    def _listed(self) -> list[tuple[int, str]]:
        """(its number, digest) of every manifest file, the latest put first. Raises OSError."""

        def look() -> list[tuple[int, str]]:
            return [
                (int(item.stat().st_mtime), item.name[: -len(".json")])
                for item in list(os.scandir(self.root))
                if re.fullmatch(SHA256 + r"\.json", item.name)
            ]

        return sorted(durable.insist(look), reverse=True)
