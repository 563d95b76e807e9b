"""The intake: from a release that is wanted to a candidate whose every byte is on disk, verified.

The steps, in order, each resumable because the store is the progress: 1. `fetch_manifest`;
2. `keep_manifest`, held to the digest that the desired state names; 3. `fetch`, if the bundle is
for this device and the disk has room; 4. `verify`. Of a bundle for several boards only the files of
the variants that fit this one are fetched, verified and kept. Errors say which kind of failure it
is and go up: the lifecycle knows what they mean.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from edge_runtime.bundle.archive import Reader
from edge_runtime.bundle.delta import DeltaRef
from edge_runtime.bundle.files import MAX_CHUNK_BYTES, Chunk, FileEntry, sha256_hex
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from edge_runtime.bundle.store import ChunkStore, StoreReader
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import DeviceError, EdgeError, TransferError, UntrustedError
from edge_runtime.messages.fleet import BundleRef, Release
from edge_runtime.profile import DeviceProfile
from edge_runtime.update.fetching import Fetcher
from edge_runtime.update.rebuild import Rebuild, Slot
from edge_runtime.update.slots import Slots


@contextlib.contextmanager
def _its_list_lies(release: Release) -> Iterator[None]:
    """A manifest's chunk list stands in the desired state, which nobody signed: blame no bundle.

    Blamed for it, a good bundle could be had refused by whoever may write to the broker.
    """
    try:
        yield
    except UntrustedError as reason:
        where = f"release {release.name}=={release.version}"
        raise TransferError(f"{where}: its chunk list is not of its manifest ({reason})") from None


class Intake:
    """Brings one candidate in at a time.

    Args:
        make_room: asked with the bytes that are to be fetched; the bytes that the disk lacks for
            them after tidying up, 0 where there is room.
    """

    def __init__(
        self,
        store: ChunkStore,
        slots: Slots,
        fetcher: Fetcher,
        profile: DeviceProfile,
        make_room: Callable[[int], int],
    ) -> None:
        self._store = store
        self._slots = slots
        self._fetcher = fetcher
        self._profile = profile
        self._make_room = make_room

    def fetch_manifest(self, release: Release, now_s: float) -> bool:
        """Step 1; True where the manifest is here already.

        Raises:
            TransferError: a chunk list that cannot be.
        """
        if self._slots.has(release.manifest.sha256):
            return True
        with _its_list_lies(release):
            self._fetcher.begin((release.manifest,), now_s)
        return False

    def keep_manifest(self, release: Release) -> None:
        """Step 2, once the manifest's chunks are held.

        Raises:
            TransferError: they do not add up to the manifest that is wanted.
            DeviceError: the disk failed.
        """
        data = b"".join(self._store.get(chunk) for chunk in release.manifest.chunks)
        with _its_list_lies(release):
            release.manifest.check(data, "desired state")
        self._slots.put(data)

    def fetch(self, candidate: BundleRef, now_s: float, deltas: Sequence[DeltaRef] = ()) -> None:
        """Step 3; by the first of `deltas` whose old bundle is here whole, if there is one.

        Raises:
            UntrustedError: the manifest is malformed, or not what the desired state calls it.
            IncompatibleError: the bundle is not for this device.
            DeviceError: the manifest is lost, or the disk has no room.
        """
        manifest = Manifest.from_bytes(self._slots.read(candidate.manifest_sha256))
        if (manifest.name, manifest.version) != (candidate.name, candidate.version):
            raise UntrustedError(
                f"manifest {candidate.manifest_sha256}: is of {manifest.name} {manifest.version}, "
                f"the desired state calls it {candidate.name} {candidate.version}"
            )
        entries = self._needed(manifest)
        needed = sum(chunk.size_bytes for chunk in self._store.missing(entries))
        lacking = self._make_room(needed) if needed else 0
        if lacking:
            raise DeviceError(
                f"bundle {manifest.name} {manifest.version}: {needed} bytes to fetch; with a "
                f"margin kept, the disk lacks {lacking}"
            )
        new = Slot(candidate.manifest_sha256, manifest)
        rebuild = self._rebuild(new, entries, deltas) if needed else None
        self._fetcher.begin(entries, now_s, rebuild)

    def _needed(self, manifest: Manifest) -> tuple[FileEntry, ...]:
        """The files that this device needs. Raises IncompatibleError: the bundle is not for it."""
        return manifest.files_of(self._profile.fits(manifest))

    def _rebuild(
        self, new: Slot, entries: Sequence[FileEntry], deltas: Sequence[DeltaRef]
    ) -> Rebuild | None:
        for ref in deltas:
            try:
                if self._slots.damage(ref.base_sha256) is None:
                    old = Manifest.from_bytes(self._slots.read(ref.base_sha256))
                    return Rebuild(self._store, Slot(ref.base_sha256, old), new, ref, entries)
            except EdgeError:  # Unreadable just now: then there is no way from it.
                continue
        return None

    def verify(self, candidate: BundleRef) -> None:
        """Step 4, a chunk in memory at a time: whole files would stay in this process's heap.

        Raises:
            UntrustedError: the manifest is at odds with itself.
            IncompatibleError: the bundle is not for this device any more.
            DeviceError: a chunk was lost or spoiled; it is removed, to be fetched again.
        """
        digest = candidate.manifest_sha256
        reader = StoreReader(self._store, self._slots.read(digest))
        bundle = verify(reader, manifest_sha256=digest, files=False)
        for entry in self._needed(bundle.manifest):
            self._store.prove(entry, bundle.where)

    def release_of(self, reader: Reader) -> Release:
        """What a desired state would name, had the bundle behind `reader` been published.

        The manifest is cut at fixed sizes: nobody else will ask for its chunks, and finding
        content boundaries needs numpy, which this process does not load.

        Raises:
            UntrustedError, IncompatibleError: no manifest that we read, or not for this device.
        """
        data = reader.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
        manifest = Manifest.from_bytes(data, where=f"{reader.where}: {MANIFEST_NAME}")
        self._profile.fits(manifest)
        pieces = (
            data[start : start + MAX_CHUNK_BYTES] for start in range(0, len(data), MAX_CHUNK_BYTES)
        )
        chunks = tuple(Chunk(sha256_hex(piece), len(piece)) for piece in pieces)
        entry = FileEntry(MANIFEST_NAME, len(data), sha256_hex(data), chunks)
        m = manifest
        files = m.files_of(m.variants_for(self._profile.name))
        size_bytes = sum(file.size_bytes for file in files)
        return Release(m.name, m.version, self._profile.name, size_bytes, entry)

    def ingest(self, reader: Reader, release: Release) -> None:
        """Put what is needed of a local bundle into the store, so that nothing need be fetched.

        Raises:
            UntrustedError: it changed, or differs from its manifest.
            IncompatibleError: it is not for this device.
            DeviceError: the disk is full or failing.
        """
        data = reader.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
        release.manifest.check(data, reader.where)
        manifest = Manifest.from_bytes(data)
        entries = self._needed(manifest)
        lacking = self._make_room(sum(entry.size_bytes for entry in entries))
        if lacking:
            raise DeviceError(f"{reader.where}: the disk lacks {lacking} bytes to install it")
        self._store.ingest(reader, entries)
        self._slots.put(data)
