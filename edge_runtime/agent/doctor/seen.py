"""Which bundle the doctor looks at, and where its bytes are; the state folder stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.agent.doctor.integrity import READ_S, Files, looked_through
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.bundle import durable
from edge_runtime.bundle.archive import Reader, open_bundle
from edge_runtime.bundle.files import FileEntry
from edge_runtime.bundle.manifest import MAX_MANIFEST_BYTES, Manifest
from edge_runtime.bundle.store import ChunkStore, StoreReader
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import DeviceError, EdgeError, InputError
from edge_runtime.profile import DeviceProfile
from edge_runtime.text import plain
from edge_runtime.update.journal import MAX_JOURNAL_BYTES, from_bytes
from edge_runtime.update.record import Record


class UnreadableRecord(DeviceError):
    """The journal is there and does not say which bundle is active."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A bundle's manifest. `store` has its files where it is installed already."""

    manifest: Manifest
    what: str
    reader: Reader
    store: ChunkStore | None = None

    @property
    def installed(self) -> bool:
        """Whether its files are in the state folder."""
        return self.store is not None

    def files(self, profile: DeviceProfile | None) -> Files:
        """What its files are worth: those that this board needs, in order of preference first.

        Of one that is installed, others are never there.
        """
        m = self.manifest
        misfits: Mapping[str, str | None] = profile.misfits(m) if profile is not None else {}
        needed = [e for v in m.variants if not misfits.get(v.id) for e in m.files_of((v,))]
        wanted: dict[str, FileEntry] = {entry.path: entry for entry in needed}
        if not self.installed:
            wanted |= {entry.path: entry for entry in m.files}
        return looked_through(self.reader, wanted.values(), self.store, READ_S)

    def size_bytes(self, profile: DeviceProfile | None) -> int:
        """Of what this board needs of it."""
        m = self.manifest
        variants = m.variants_for(profile.name) if profile is not None else ()
        return sum(entry.size_bytes for entry in m.files_of(variants or m.variants))


def record(scene: Scene) -> Record | None:
    """The journal, where there is one. Raises UnreadableRecord."""
    folder = scene.state_dir
    if folder is None:
        return None
    path = folder / "journal.json"
    try:
        return from_bytes(durable.read(path, MAX_JOURNAL_BYTES + 1), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as reason:
        raise UnreadableRecord(f"{path}: cannot be read ({reason.strerror})") from None
    except EdgeError as reason:
        raise UnreadableRecord(f"the record of what is installed is spoiled: {reason}") from None


def seen(scene: Scene) -> Seen | None:
    """The bundle that was given, or the active one, or the configured first one.

    Raises:
        EdgeError: it is none, or is spoiled.
        OSError: it cannot be read.
    """
    if scene.bundle is not None:
        return _given(scene.bundle, "given")
    if scene.config is None:
        return None
    found = record(scene)
    if found is not None and found.active is not None:
        what = "active" if found.good else "active, on trial"
        return _stored(scene.config.state_dir, found.active.manifest_sha256, what)
    first = scene.config.first_bundle
    return _given(first, "the first bundle, not installed yet") if first is not None else None


def _stored(state: Path, digest: str, what: str) -> Seen:
    path = state / "manifests" / f"{digest}.json"
    try:
        data = durable.read(path, MAX_MANIFEST_BYTES + 1)
    except OSError as reason:
        raise DeviceError(f"manifest {path}: cannot be read ({reason.strerror})") from None
    store = ChunkStore(state / "chunks")
    reader = StoreReader(store, data)
    bundle = verify(reader, manifest_sha256=digest, files=False)
    return Seen(bundle.manifest, what, reader, store)


def _given(path: Path, what: str) -> Seen:
    try:
        reader = open_bundle(path)
        return Seen(verify(reader, files=False).manifest, what, reader)
    except ValueError as reason:  # A name that no file can have.
        raise InputError(f"{plain(str(path))}: {reason}") from None
