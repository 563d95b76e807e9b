"""Deltas for a release: what is published so that devices fetch differences instead of chunks.

For each older bundle that devices may hold, the chunks that are new are coded as differences from
what stood at the same place of the file of the same path. Where that file had another length, the
same distance from its end is tried as well, since headers grow and weights do not. A delta is only
worth publishing if it spares devices enough; a chunk that gains nothing stays out of it. A bundle
for several boards has a release, and deltas, for each: of files that the board needs, from files
that it needed before.

Pieces and index are blobs like chunks: they go where chunks go, before the release file whose
`deltas` names them, and they are kept as long as the release is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.delta import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    MAX_PIECE_CHUNKS,
    DeltaIndex,
    DeltaRef,
    Difference,
    Piece,
    coded_size,
    difference,
    join,
    news,
)
from edge_runtime.bundle.files import MAX_CHUNK_BYTES, Chunk, FileEntry, sha256_hex
from edge_runtime.bundle.manifest import Manifest
from edge_runtime.bundle.verify import VerifiedBundle
from edge_runtime.errors import EdgeError, TransferError
from edge_runtime.messages.fleet import Release

BASES = 2
"""Older releases that deltas are made from: not every device has followed."""
WORTH = 0.7
"""What comes over the wire with a delta must be at most this share of what comes without."""
SPARED_BYTES = 128 << 10
"""And it must spare so much: asking for an index costs a round trip."""
GAIN = 0.9
"""A difference must be at most this share of its chunk."""


@dataclass(frozen=True, slots=True)
class Source:
    """A bundle whose files can be read. `sha256` is its manifest's."""

    sha256: str
    manifest: Manifest
    read: Callable[[FileEntry], bytes]

    @classmethod
    def of(cls, bundle: VerifiedBundle) -> Source:
        """A bundle at hand."""
        return cls(bundle.manifest_sha256, bundle.manifest, lambda entry: bundle.read(entry.path))

    @classmethod
    def from_chunks(
        cls,
        sha256: str,
        manifest: Manifest,
        get: Callable[[Iterable[Chunk]], Mapping[str, bytes]],
    ) -> Source:
        """A published bundle; `get` gives the chunks that the repository has, by digest."""

        def read(entry: FileEntry) -> bytes:
            where = f"release {manifest.name}=={manifest.version}"
            got = get(entry.chunks)
            missing = sum(chunk.sha256 not in got for chunk in entry.chunks)
            if missing:
                raise TransferError(f"{where}: {missing} chunks of {entry.path} are lost")
            data = b"".join(got[chunk.sha256] for chunk in entry.chunks)
            entry.check(data, where)
            return data

        return cls(sha256, manifest, read)


@dataclass(frozen=True, slots=True)
class Delta:
    """What the release names, and the blobs to publish before it.

    `plain_bytes` is what a device that has the old bundle fetches without the delta,
    `wire_bytes` with it: pieces, index, and the chunks that no piece makes.
    """

    ref: DeltaRef
    blobs: tuple[tuple[Chunk, bytes], ...]
    plain_bytes: int
    wire_bytes: int


@dataclass(frozen=True, slots=True)
class Offer:
    """What a release has for devices that hold an older one: references, and their blobs."""

    refs: tuple[DeltaRef, ...] = ()
    blobs: Mapping[Chunk, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, made: Iterable[Delta]) -> Offer:
        """Deltas that were made just now."""
        made = tuple(made)
        return cls(tuple(one.ref for one in made), dict(b for one in made for b in one.blobs))

    @classmethod
    def kept(
        cls, refs: Iterable[DeltaRef], get: Callable[[Iterable[Chunk]], Mapping[str, bytes]]
    ) -> Offer:
        """Those of the deltas `refs` that are whole where `get` reads."""
        whole: list[DeltaRef] = []
        blobs: dict[Chunk, bytes] = {}
        for ref in refs:
            try:
                chunks = [*ref.index.chunks, *(p.blob for p in _index(ref, get).pieces)]
            except EdgeError:
                continue
            got = get(chunks)
            if all(chunk.sha256 in got for chunk in chunks):
                whole.append(ref)
                blobs.update({chunk: got[chunk.sha256] for chunk in chunks})
        return cls(tuple(whole), blobs)


def bases(found: Sequence[Release], release: Release) -> list[Release]:
    """Of the releases `found`, oldest first, those to make deltas from, the newest first."""
    alike = [
        other
        for other in found
        if (other.name, other.profile) == (release.name, release.profile)
        and other.manifest.sha256 != release.manifest.sha256
    ]
    return alike[::-1][:BASES]


def delta(old: Source, new: Source, profile: str) -> Delta | None:
    """The delta from `old` to `new` for boards of `profile`; None where it would not be worth it.

    One file of each is in memory at a time, and every piece.

    Raises:
        EdgeError: of reading either.
    """
    chunks = news(old.manifest, new.manifest)
    needed = {chunk for entry in files_for(new.manifest, profile) for chunk in entry.chunks}
    plain_bytes = sum(chunk.size_bytes for chunk in chunks if chunk in needed)
    bound = min(WORTH * plain_bytes, plain_bytes - SPARED_BYTES)
    if bound <= 0:  # A new head: no need to read anything.
        return None
    pieces: list[Piece] = []
    blobs: list[tuple[Chunk, bytes]] = []
    made_bytes = 0
    for first, run in _runs(_differences(old, new, chunks, profile)):
        data = join(run)
        blob = Chunk(sha256_hex(data), len(data))
        pieces.append(Piece(blob, first, len(run)))
        blobs.append((blob, data))
        made_bytes += sum(chunk.size_bytes for chunk in chunks[first : first + len(run)])
    data = DeltaIndex(old.sha256, new.sha256, tuple(pieces)).to_bytes()
    index = file_entry(INDEX_NAME, data)
    blobs += [(chunk, bytes(piece)) for chunk, piece in index.cut(data)]
    wire_bytes = plain_bytes - made_bytes + sum(chunk.size_bytes for chunk, _ in blobs)
    if not pieces or len(data) > MAX_INDEX_BYTES or wire_bytes > bound:
        return None
    return Delta(DeltaRef(old.sha256, index), tuple(blobs), plain_bytes, wire_bytes)


def files_for(manifest: Manifest, profile: str) -> tuple[FileEntry, ...]:
    """The files that boards of `profile` need."""
    return manifest.files_of(manifest.variants_for(profile))


def _differences(
    old: Source, new: Source, chunks: Sequence[Chunk], profile: str
) -> Iterator[Difference]:
    """One for each of `chunks`, in their order; an empty one where nothing is gained."""
    left = {chunk.sha256 for chunk in chunks}
    held = {entry.path for entry in files_for(old.manifest, profile)}
    needed = {entry.path for entry in files_for(new.manifest, profile)}
    numbers = {
        entry.path: number for number, entry in enumerate(old.manifest.files) if entry.path in held
    }
    for entry in new.manifest.files:
        here = dict.fromkeys(chunk.sha256 for chunk in entry.chunks if chunk.sha256 in left)
        if not here:
            continue
        if entry.path not in needed:  # Another board's; nothing of it is read.
            left -= here.keys()
            yield from (Difference() for _ in here)
            continue
        number = numbers.get(entry.path)
        before = old.read(old.manifest.files[number]) if number is not None else b""
        start = 0
        for chunk, piece in entry.cut(new.read(entry)):
            if chunk.sha256 in left:
                left.remove(chunk.sha256)
                yield _best(piece, before, number or 0, start, entry.size_bytes)
            start += chunk.size_bytes


def _best(piece: memoryview, before: bytes, number: int, start: int, new_bytes: int) -> Difference:
    """The smaller one of the same place from the start and from the end of the old file."""
    places = {start, max(start + len(before) - new_bytes, 0)} if before else set()
    made = [
        Difference(number, place, difference(piece, before[place : place + len(piece)]))
        for place in sorted(places)
    ]
    best = min(made, key=lambda one: len(one.coded), default=Difference())
    return best if len(best.coded) <= GAIN * len(piece) else Difference()


def _runs(differences: Iterable[Difference]) -> Iterator[tuple[int, list[Difference]]]:
    """(number of the first, those that share a piece): neighbours, none of them empty."""
    first, run = 0, list[Difference]()
    for number, one in enumerate(differences):
        full = len(run) == MAX_PIECE_CHUNKS or coded_size([*run, one]) > MAX_CHUNK_BYTES
        if run and (full or not one.coded):
            yield first, run
            run = []
        if one.coded:
            first = first if run else number
            run.append(one)
    if run:
        yield first, run


def from_bases(
    new: Source,
    release: Release,
    found: Sequence[Release],
    manifest_of: Callable[[Release], Manifest],
    get: Callable[[Iterable[Chunk]], Mapping[str, bytes]],
) -> list[Delta]:
    """The deltas to publish with `release`; an old one that is not whole is passed over."""
    made: list[Delta] = []
    for other in bases(found, release):
        try:
            old = Source.from_chunks(other.manifest.sha256, manifest_of(other), get)
            one = delta(old, new, release.profile)
        except EdgeError:
            continue
        if one is not None:
            made.append(one)
    return made


def blobs_of(
    refs: Iterable[DeltaRef], get: Callable[[Iterable[Chunk]], Mapping[str, bytes]]
) -> set[str]:
    """Digests of all that the deltas of a release consist of; they go when the release goes.

    Raises:
        EdgeError: an index is lost or cannot be read.
    """
    digests: set[str] = set()
    for ref in refs:
        digests |= {chunk.sha256 for chunk in ref.index.chunks}
        digests |= {piece.blob.sha256 for piece in _index(ref, get).pieces}
    return digests


def _index(ref: DeltaRef, get: Callable[[Iterable[Chunk]], Mapping[str, bytes]]) -> DeltaIndex:
    got = get(ref.index.chunks)
    data = b"".join(got.get(chunk.sha256, b"") for chunk in ref.index.chunks)
    ref.index.check(data, "release")
    return DeltaIndex.from_bytes(data)
