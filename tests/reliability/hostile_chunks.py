"""Chunks that are not what they are called: spoiled, cut, swapped, replayed; or too many of them.

Somebody with the right to publish puts other bytes under the names of a bundle's chunks, before it
is asked for or while it is fetched. Where the right ones are lost, the operator publishes again in
the end. Nothing wrong is ever stored, nothing is refused for it, and a client notices nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.files import MAX_CHUNK_BYTES
from edge_runtime.bundle.manifest import MAX_MANIFEST_BYTES
from tests.fakes.agents import wait_for
from tests.fakes.brokers import mosquitto
from tests.fakes.bundles import noise
from tests.flows.world import Made
from tests.reliability.board import Board, asking, with_client
from tests.reliability.case import Case, Kind, Setting

SIZE = 600_000
RATE_BYTES_S = 300_000
Chunks = dict[str, bytes]
Spoil = Callable[[Chunks, Chunks, Random], Chunks]
"""What is put under which names, of the new chunks, given those of the bundle before."""


def _one(of: Chunks, random: Random) -> str:
    return random.choice(sorted(of))


def a_bit_of_one(new: Chunks, old: Chunks, random: Random) -> Chunks:
    name = _one(new, random)
    data = bytearray(new[name])
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return {name: bytes(data)}


def a_bit_of_each(new: Chunks, old: Chunks, random: Random) -> Chunks:
    return {name: bytes([data[0] ^ 1]) + data[1:] for name, data in new.items()}


def one_cut_short(new: Chunks, old: Chunks, random: Random) -> Chunks:
    name = _one(new, random)
    return {name: new[name][: len(new[name]) // 2]}


def one_byte_more(new: Chunks, old: Chunks, random: Random) -> Chunks:
    name = _one(new, random)
    return {name: new[name] + b"\0"}


def larger_than_a_chunk_may_be(new: Chunks, old: Chunks, random: Random) -> Chunks:
    return {_one(new, random): noise(MAX_CHUNK_BYTES + 1)}


def zeros(new: Chunks, old: Chunks, random: Random) -> Chunks:
    name = _one(new, random)
    return {name: bytes(len(new[name]))}


def two_swapped(new: Chunks, old: Chunks, random: Random) -> Chunks:
    one, other = random.sample(sorted(new), 2)
    return {one: new[other], other: new[one]}


def all_in_another_order(new: Chunks, old: Chunks, random: Random) -> Chunks:
    names = sorted(new)
    return {name: new[names[at - 1]] for at, name in enumerate(names)}


def old_ones_replayed(new: Chunks, old: Chunks, random: Random) -> Chunks:
    bytes_of_old = sorted(old.values())
    return {name: bytes_of_old[at % len(old)] for at, name in enumerate(sorted(new))}


def none_at_all(new: Chunks, old: Chunks, random: Random) -> Chunks:
    return dict.fromkeys(new, b"")


SPOILS: tuple[Spoil, ...] = (
    a_bit_of_one, a_bit_of_each, one_cut_short, one_byte_more, larger_than_a_chunk_may_be, zeros,
    two_swapped, all_in_another_order, old_ones_replayed, none_at_all,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Live:
    """Chunks sent while they are fetched, not retained, round after round.

    `retained` says whether the broker has them as well; if not, they come in no order but this.
    """

    what: str
    retained: bool
    ordered: Callable[[list[str], Random], list[str]]


def _doubled(names: list[str], random: Random) -> list[str]:
    return [name for name in names for _ in range(3)]


def _backwards(names: list[str], random: Random) -> list[str]:
    return names[::-1]


def _shuffled(names: list[str], random: Random) -> list[str]:
    return random.sample(names, len(names))


LIVE = (
    Live("each chunk three times over", True, _doubled),
    Live("chunks in the wrong order, again and again", True, _backwards),
    Live("chunks in the wrong order, and in no other way", False, _backwards),
    Live("chunks in no order, each round in another, and in no other way", False, _shuffled),
    Live("each chunk three times over, and in no other way", False, _doubled),
)


def hostile(setting: Setting) -> Iterator[Case]:
    """One case for each spoil, with and without the manifest, and for each live stream."""
    moments = [(spoil, late) for spoil in SPOILS for late in (False, True)]
    sweep: list[tuple[Spoil, bool] | Live] = [*moments, *LIVE]
    chosen = setting.some(sweep)
    setting.expect(len(chosen))
    random = Random(setting.seed)
    with mosquitto() as broker, Board(setting.folder, broker, "chunks") as board:
        board.begin(board.sized("1.0.0", SIZE))
        with asking(board) as asker:
            for number, each in enumerate(chosen, start=2):
                made = board.sized(f"{number}.0.0", SIZE)
                if isinstance(each, Live):
                    case = _live(board, made, each, random)
                else:
                    case = _spoiled(board, made, *each, random)
                yield with_client(case, asker)
                if board.before is None:
                    return


def _spoiled(board: Board, made: Made, spoil: Spoil, late: bool, random: Random) -> Case:
    """`late`: while they are fetched, else before; then they are mended."""
    assert board.before is not None
    old = _chunks(board.before)
    new = {name: data for name, data in _chunks(made).items() if name not in old}
    board.sign(made)
    spoiled = spoil(new, old, random)
    begin = board.proxy.to_client_bytes
    if late:
        board.proxy.rate_bytes_s = RATE_BYTES_S
        board.ask(made)
        wait_for("it fetches", lambda: board.proxy.to_client_bytes > begin + SIZE // 4)
    for name, data in spoiled.items():
        board.spoil(name, data)
    if not late:
        board.ask(made)
        told = len(board.told("update-stalled"))
        board.until("it gives up for now", lambda: len(board.told("update-stalled")) > told)
    board.proxy.rate_bytes_s = 0.0
    for name in spoiled:
        board.spoil(name, new[name])
    name = spoil.__name__.replace("_", " ")
    return board.conclude(f"{name}, {'while it is fetched' if late else 'before'}, then mended")


def _live(board: Board, made: Made, live: Live, random: Random) -> Case:
    assert board.before is not None
    chunks = _chunks(made)
    fresh = made.without(board.before)
    board.sign(made)
    if not live.retained:
        board.withhold(fresh)
    board.proxy.rate_bytes_s = RATE_BYTES_S if live.retained else 0.0
    board.ask(made)

    def done() -> bool:
        for name in live.ordered(sorted(fresh), random):
            board.throw(name, chunks[name])
        r = board.reported
        return r is not None and r.active == made.release.ref

    with suppress(AssertionError):  # `conclude` says what became of it.
        wait_for("it has everything", done)
    board.proxy.rate_bytes_s = 0.0
    return board.conclude(live.what)


def _chunks(made: Made) -> Chunks:
    """Every chunk's bytes, the manifest's included."""
    reader = FolderReader(made.folder)
    found: Chunks = {}
    for entry in (made.release.manifest, *made.manifest.files):
        data = reader.read(entry.path, max(entry.size_bytes, MAX_MANIFEST_BYTES))
        found |= {chunk.sha256: bytes(piece) for chunk, piece in entry.cut(data)}
    return found


KINDS = (Kind("chunks", "Chunks spoiled, cut, swapped, replayed, doubled, reordered", hostile),)
