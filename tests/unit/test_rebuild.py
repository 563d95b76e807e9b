"""New chunks out of old ones: what a delta may do for a device, and what it may not do to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.delta import INDEX_NAME, DeltaIndex, DeltaRef, Difference, Piece, join
from edge_runtime.bundle.files import Chunk, sha256_hex
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.errors import TransferError
from edge_runtime.fleet.deltas import Delta, Source, delta
from edge_runtime.messages.fleet import Progress
from edge_runtime.update.fetching import Fetcher
from edge_runtime.update.policy import Policy
from edge_runtime.update.rebuild import Rebuild, Slot
from tests.fakes import bundles
from tests.fakes.fleet import PI, PROFILE, Bundle, for_boards
from tests.unit.test_delta import stepped

POLICY = Policy(window=4, chunk_timeout_s=10.0, chunk_timeout_max_s=40.0, chunk_tries=3)


def version(name: str, model: bytes) -> Bundle:
    return Bundle(name, dict(bundles.FILES) | {"model.onnx": model, "head.txt": name.encode()})


def source(bundle: Bundle) -> Source:
    return Source(bundle.digest, bundle.manifest, lambda entry: bundle.files[entry.path])


OLD = version("1.0.0", bundles.noise(700_000, 11))
NEW = version("1.1.0", stepped(OLD.files["model.onnx"]))


def made(old: Bundle = OLD, new: Bundle = NEW) -> Delta:
    found = delta(source(old), source(new), PROFILE.name)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def way() -> Delta:
    return made()


class Repository:
    """The other side: answers what a fetcher asks for, and keeps book of it."""

    fault = ""

    def __init__(self, *blobs: dict[str, bytes]) -> None:
        self.blobs = {digest: data for some in blobs for digest, data in some.items()}
        self.asked: list[str] = []
        self.open: dict[str, None] = {}
        self.sent_bytes = 0

    def want(self, digests: Sequence[str]) -> None:
        self.asked += digests
        self.open.update(dict.fromkeys(digests))

    def drop(self, digests: Sequence[str]) -> None:
        for digest in digests:
            self.open.pop(digest, None)

    def arrived(self) -> None:
        pass

    def failed(self) -> bool:
        return False

    def answer(self, fetcher: Fetcher, now_s: float = 0.0) -> None:
        """Until nothing that is asked for is here."""
        while held := [digest for digest in self.open if digest in self.blobs]:
            self.sent_bytes += len(self.blobs[held[0]])
            before = len(self.asked)
            fetcher.chunk(held[0], self.blobs[held[0]], now_s)
            if held[0] in self.open and len(self.asked) == before:
                return  # Spoiled: it would be sent for ever.


class Board:
    """A device with OLD in its store, about to fetch NEW."""

    def __init__(self, folder: Path, way: Delta, *blobs: dict[str, bytes]) -> None:
        self.store = ChunkStore(folder / "chunks")
        self.store.ingest(OLD, OLD.manifest.files)
        self.repository = Repository(*blobs)
        self.way = way
        self.fetcher = Fetcher(self.store, self.repository, POLICY, Random(0))
        self.fetcher.connected(True, 0.0)

    def begin(self, now_s: float = 0.0) -> None:
        old, new = Slot(OLD.digest, OLD.manifest), Slot(NEW.digest, NEW.manifest)
        rebuild = Rebuild(self.store, old, new, self.way.ref, new.manifest.files)
        self.fetcher.begin(NEW.manifest.files, now_s, rebuild)
        self.repository.answer(self.fetcher, now_s)

    def wait(self, until_s: float) -> None:
        """Time passes up to `until_s` or the end of the fetch."""
        while not self.fetcher.done:
            due_s = self.fetcher.deadline_s()
            if due_s is None or due_s > until_s:
                return
            self.fetcher.tick(due_s)
            self.repository.answer(self.fetcher, due_s)

    def whole(self) -> bool:
        """Whether every byte of NEW is here."""
        for entry in NEW.manifest.files:
            self.store.prove(entry, "test")
        return self.fetcher.done


def blobs(way: Delta) -> dict[str, bytes]:
    return {chunk.sha256: data for chunk, data in way.blobs}


def pieces(way: Delta) -> list[str]:
    """Digests of the pieces; the index comes last."""
    return [chunk.sha256 for chunk, _ in way.blobs if chunk not in way.ref.index.chunks]


def test_a_retrained_model_travels_as_its_delta(tmp_path: Path, way: Delta) -> None:
    board = Board(tmp_path, way, blobs(way), NEW.chunks)
    board.begin()
    assert board.whole()
    assert board.fetcher.fetched_bytes == board.repository.sent_bytes == way.wire_bytes
    assert way.wire_bytes < 0.3 * way.plain_bytes


def test_without_a_delta_the_chunks_are_fetched_and_nothing_else(tmp_path: Path) -> None:
    board = Board(tmp_path, made(), NEW.chunks)
    board.fetcher.begin(NEW.manifest.files, 0.0)
    board.repository.answer(board.fetcher)
    assert board.whole()
    assert set(board.repository.asked) <= set(NEW.chunks)


def test_what_is_held_needs_no_delta(tmp_path: Path, way: Delta) -> None:
    board = Board(tmp_path, way, blobs(way), NEW.chunks)
    board.store.ingest(NEW, NEW.manifest.files)
    board.begin()
    assert board.fetcher.done
    assert board.repository.asked == []


def test_progress_counts_chunks_that_were_rebuilt(tmp_path: Path, way: Delta) -> None:
    board = Board(tmp_path, way, {c: d for c, d in blobs(way).items() if c != pieces(way)[0]})
    board.begin()
    progress = board.fetcher.progress
    assert progress is not None
    needed = {chunk for entry in NEW.manifest.files for chunk in entry.chunks}
    missing = board.store.missing(NEW.manifest.files)
    assert 0 < len(missing) < len(needed)
    assert progress == Progress(
        len(needed) - len(missing), len(needed), board.repository.sent_bytes
    )


def test_after_a_restart_only_the_pieces_that_are_needed_are_fetched(
    tmp_path: Path, way: Delta
) -> None:
    first, *others = pieces(way)
    kept = [chunk.sha256 for chunk in way.ref.index.chunks]
    Board(tmp_path, way, {digest: blobs(way)[digest] for digest in [first, *kept]}).begin()
    board = Board(tmp_path, way, blobs(way), NEW.chunks)
    board.begin()
    assert board.whole()
    assert set(others) <= set(board.repository.asked)
    assert not {first, *kept} & set(board.repository.asked)


def lost_index(way: Delta) -> dict[str, bytes]:
    return {digest: blobs(way)[digest] for digest in pieces(way)}


def spoiled_index(way: Delta) -> dict[str, bytes]:
    return lost_index(way) | {chunk.sha256: b"spoiled" for chunk in way.ref.index.chunks}


def lost_piece(way: Delta) -> dict[str, bytes]:
    return {c: d for c, d in blobs(way).items() if c != pieces(way)[-1]}


def spoiled_piece(way: Delta) -> dict[str, bytes]:
    return blobs(way) | {pieces(way)[0]: b"spoiled"}


def spoiled_pieces(way: Delta) -> dict[str, bytes]:
    return blobs(way) | dict.fromkeys(pieces(way), b"spoiled")


@pytest.mark.parametrize(
    "held", [lost_index, spoiled_index, lost_piece, spoiled_piece, spoiled_pieces, lambda _: {}]
)
def test_a_delta_that_is_lost_or_damaged_costs_half_a_minute_and_no_more(
    tmp_path: Path, way: Delta, held: object
) -> None:
    assert callable(held)
    board = Board(tmp_path, way, held(way), NEW.chunks)
    board.begin()
    assert not board.fetcher.done
    board.wait(40.0)
    assert board.whole()


def test_a_delta_that_was_let_go_of_is_not_asked_for_again_in_this_update(
    tmp_path: Path, way: Delta
) -> None:
    board = Board(tmp_path, way, lost_index(way))
    board.begin()
    with pytest.raises(TransferError):
        board.wait(1000.0)
    board.repository.blobs |= NEW.chunks
    board.repository.asked.clear()
    board.begin(1000.0)
    assert board.whole()
    assert set(board.repository.asked) <= set(NEW.chunks)
    board.fetcher.forget()
    board.begin(2000.0)
    assert board.fetcher.done


def liar(
    way: Delta, *lies: tuple[bytes, int, int], base: str = OLD.digest, new: str = NEW.digest
) -> tuple[Delta, dict[str, bytes]]:
    """A delta with these (blob, first, count) as its pieces, and what it consists of."""
    named = [Piece(Chunk(sha256_hex(data), len(data)), *place) for data, *place in lies]
    data = DeltaIndex(base, new, tuple(named)).to_bytes()
    entry = file_entry(INDEX_NAME, data)
    found = {chunk.sha256: bytes(piece) for chunk, piece in entry.cut(data)}
    found |= {sha256_hex(lie): lie for lie, *_ in lies}
    return dataclasses.replace(way, ref=DeltaRef(OLD.digest, entry)), found


def honest(way: Delta) -> list[tuple[bytes, int, int]]:
    index = b"".join(blobs(way)[chunk.sha256] for chunk in way.ref.index.chunks)
    return [
        (blobs(way)[piece.blob.sha256], piece.first, piece.count)
        for piece in DeltaIndex.from_bytes(index).pieces
    ]


@pytest.mark.parametrize(
    "lies",
    [
        [(b"x", 0, 1)],
        [(join([Difference(0, 0, b"x")]), 0, 1)],
        [(join([Difference(0, 0, b"x")]), 0, 16)],
        [(join([Difference(60_000, 0, b"x")]), 0, 1)],
        [(join([Difference(0, 1 << 63, b"x")]), 0, 1)],
        [(join([Difference()]), 0, 1)],
        [(b"x", 0, 1), (b"x", 1, 1)],
        [(b"x", 100_000, 1)],
        [(bytes(131_072), n, 1) for n in range(3)],
    ],
)
def test_a_lying_delta_changes_nothing_of_what_is_stored(
    tmp_path: Path, way: Delta, lies: list[tuple[bytes, int, int]]
) -> None:
    lie, found = liar(way, *lies)
    board = Board(tmp_path, lie, found, NEW.chunks)
    board.begin()
    assert board.whole()


def test_pieces_in_each_others_place_make_nothing_and_are_done_without(
    tmp_path: Path, way: Delta
) -> None:
    true = honest(way)
    assert len(true) > 1
    swapped = [(data, true[-1 - n][1], true[-1 - n][2]) for n, (data, *_) in enumerate(true)]
    lie, found = liar(way, *swapped)
    board = Board(tmp_path, lie, found, NEW.chunks)
    board.begin()
    assert board.whole()
    assert board.fetcher.counters.useless > 0


def test_two_pieces_that_make_the_same_chunks_end_the_fetch_once(
    tmp_path: Path, way: Delta
) -> None:
    """The second one may never come: with nothing missing, nobody waits for it."""
    spare = honest(way)[0][0] + b"x"
    lie, found = liar(way, *honest(way), (spare, *honest(way)[0][1:]))
    del found[sha256_hex(spare)]
    board = Board(tmp_path, lie, found)
    (head,) = NEW.manifest.file("head.txt").chunks  # Too small to gain anything by a difference.
    board.store.put(head, NEW.files["head.txt"])
    board.begin()
    assert board.whole()


@pytest.mark.parametrize("name", ["base", "new"])
def test_the_index_of_other_bundles_is_not_followed(tmp_path: Path, way: Delta, name: str) -> None:
    lie, found = liar(way, *honest(way), **{name: bundles.DIGEST})
    board = Board(tmp_path, lie, found, NEW.chunks)
    board.begin()
    assert board.whole()
    assert not set(pieces(way)) & set(board.repository.asked)


def test_a_delta_as_large_as_the_chunks_is_not_fetched(tmp_path: Path, way: Delta) -> None:
    large = [(bundles.noise(131_072, n), 0, 16) for n in range(12)]
    lie, found = liar(way, *large)
    board = Board(tmp_path, lie, found, NEW.chunks)
    board.begin()
    assert board.whole()
    assert set(board.repository.asked) <= set(NEW.chunks) | {
        chunk.sha256 for chunk in lie.ref.index.chunks
    }


def test_an_old_chunk_that_the_disk_lost_or_spoiled_is_no_base_and_stays_as_it_is(
    tmp_path: Path, way: Delta
) -> None:
    board = Board(tmp_path, way, blobs(way), NEW.chunks)
    lost, spoiled = (
        tmp_path / "chunks" / chunk.sha256[:2] / chunk.sha256
        for chunk in OLD.manifest.file("model.onnx").chunks[2:6:3]
    )
    lost.unlink()
    spoiled.write_bytes(bytes(spoiled.stat().st_size))
    board.begin()
    assert board.whole()
    assert spoiled.exists()
    assert set(board.repository.asked) & set(NEW.chunks)


def test_the_link_may_go_down_in_every_stage(tmp_path: Path, way: Delta) -> None:
    board = Board(tmp_path, way)
    board.begin()
    rounds = 0
    everything = blobs(way) | NEW.chunks
    while not board.fetcher.done:
        rounds += 1
        digest = next(iter(board.repository.open))
        board.fetcher.connected(False, rounds)
        board.fetcher.connected(True, rounds)
        board.fetcher.chunk(digest, everything[digest], rounds)
    assert board.whole()
    assert rounds >= len(way.blobs)


def test_pieces_for_files_of_another_board_are_neither_asked_for_nor_applied(
    tmp_path: Path,
) -> None:
    """Whoever writes to the broker may name a delta that is for another board's release."""
    models = {file: bundles.noise(250_000, i) for i, (_, _, file) in
              enumerate(bundles.BOARDS.values())}  # fmt: skip
    old = for_boards("1.0.0", models)
    new = for_boards("1.1.0", {file: stepped(data) for file, data in models.items()})
    found = delta(source(old), source(new), PROFILE.name)
    assert found is not None
    store = ChunkStore(tmp_path)
    store.ingest(old, old.entries(PI.name))
    slots = (Slot(old.digest, old.manifest), Slot(new.digest, new.manifest))
    blobs = {chunk.sha256: data for chunk, data in found.blobs}
    index = b"".join(blobs[chunk.sha256] for chunk in found.ref.index.chunks)
    assert Rebuild(store, *slots, found.ref, new.entries(PI.name)).pieces(index) == ()
    store.ingest(old, old.manifest.files)
    rebuild = Rebuild(store, *slots, found.ref, new.entries(PROFILE.name))
    wanted = rebuild.pieces(index)
    made = {one for blob in wanted for one in rebuild.apply(blob.sha256, blobs[blob.sha256])}
    needed = {c.sha256 for entry in new.entries(PROFILE.name) for c in entry.chunks}
    assert made
    assert made <= needed
