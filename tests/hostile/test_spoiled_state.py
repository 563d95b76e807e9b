"""Whatever stands in the state folder, the agent starts, and nothing outside it is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.agent.state_folder import LOCK, Hold
from edge_runtime.bundle import durable
from edge_runtime.bundle.files import Chunk, sha256_hex
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.errors import EdgeError
from edge_runtime.profile import load_profile
from edge_runtime.telemetry.spool import Spool
from edge_runtime.update.clock import Clock
from edge_runtime.update.journal import Journal
from edge_runtime.update.record import Record
from edge_runtime.update.slots import Slots
from tests.fakes.bundles import manifest
from tests.fakes.signed import FakeReadings
from tests.hostile.sound import SMALL
from tests.hostile.state import PLANTED, Planted

MANIFEST = manifest(SMALL).to_bytes()
DIGEST = sha256_hex(MANIFEST)
CHUNK = Chunk(sha256_hex(b"chunk"), 5)


def _journal(state: Path) -> None:
    journal = Journal(state / "journal.json")
    assert journal.load() is None
    with contextlib.suppress(EdgeError):  # A folder in its place stays there, and is told.
        journal.save(Record(boots=1))
        assert journal.load() == Record(boots=1)


def _floor(state: Path) -> None:
    readings = FakeReadings(synchronized=False)
    clock = Clock(state / "time.json", readings)
    before_s = clock.now_s(0.0, ["a"])
    with contextlib.suppress(EdgeError):
        clock.vouch(before_s + 10, ["a"])
        assert Clock(state / "time.json", readings).now_s(0.0, ["a"]) >= before_s + 10


def _spool(state: Path) -> None:
    spool = Spool(state, max_bytes=8192)
    assert spool.append(b'{"n":1}', 0)
    assert spool.read(9) == [b'{"n":1}']
    assert spool.size_bytes <= 8192


def _slots(state: Path) -> None:
    slots = Slots(state, ChunkStore(state / "chunks"), load_profile("generic-x86_64"))
    assert slots.whole() == []
    assert slots.damage(DIGEST)
    with contextlib.suppress(EdgeError):
        slots.put(MANIFEST)
        assert slots.read(DIGEST) == MANIFEST
    with contextlib.suppress(EdgeError):
        slots.prune([])


def _chunks(state: Path) -> None:
    store = ChunkStore(state)
    with contextlib.suppress(EdgeError):
        store.get(CHUNK)
    with contextlib.suppress(EdgeError):
        store.put(CHUNK, b"chunk")
        assert store.get(CHUNK) == b"chunk"
    with contextlib.suppress(EdgeError):
        store.prune(())


def _lock(state: Path) -> None:
    Hold(state).close()


def _temporary(state: Path) -> None:
    with contextlib.suppress(EdgeError):
        durable.replace(state / "x", b"data")
        assert (state / "x").read_bytes() == b"data"
        assert not (state / "x").is_symlink()


PLACES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "journal": ("journal.json", _journal),
    "time floor": ("time.json", _floor),
    "segment of telemetry": ("000000000001.jsonl", _spool),
    "manifest": (f"{DIGEST}.json", _slots),
    "chunk": (f"{CHUNK.sha256[:2]}/{CHUNK.sha256}", _chunks),
    "lock": (LOCK, _lock),
    "temporary file": (".x.tmp", _temporary),
}
"""What is read or written under a name that is known in advance, and by whom."""
WAITS = ("journal", "time floor", "manifest", "chunk")
"""A pipe there would be waited for; nobody but the agent may write there, see the threat model."""


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
@pytest.mark.parametrize("place", PLACES)
def test_the_agent_lives_with_what_it_finds(place: str, planted: Planted, tmp_path: Path) -> None:
    if planted.name == "a pipe" and place in WAITS:
        return
    name, use = PLACES[place]
    path = tmp_path / "state" / name
    path.parent.mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"mine")
    planted.plant(path)
    outside = (tmp_path / "outside").read_bytes()
    use(tmp_path / "state")
    assert (tmp_path / "outside").read_bytes() == outside
    assert {item.name for item in tmp_path.iterdir()} == {"outside", "state"}


def test_a_segment_that_the_disk_does_not_give_back_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        (tmp_path / f"{number:012}.jsonl").write_bytes(b'{"n":%d}\n' % number)
    read = Path.read_bytes

    def spoiled(path: Path) -> bytes:
        if path.name.startswith("000000000001"):
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", spoiled)
    spool = Spool(tmp_path)
    assert spool.append(b'{"n":3}', 0)
    assert spool.read(1) == [b'{"n":2}']


def test_the_highest_number_of_a_segment_leaves_room_for_the_next(tmp_path: Path) -> None:
    (tmp_path / "099999999999.jsonl").write_bytes(b'{"n":1}\n')
    (tmp_path / "999999999999.jsonl").write_bytes(b'{"n":"a stranger\'s"}\n')
    first = Spool(tmp_path)
    assert first.append(b'{"n":2}', 0)
    first.close()
    assert len(Spool(tmp_path)) == 1
