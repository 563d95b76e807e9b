"""Slots on disk: whole or known to be damaged, and pruned without touching what is needed."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import pytest

from edge_runtime.bundle.store import ChunkStore
from edge_runtime.errors import DeviceError
from edge_runtime.update.slots import Slots
from tests.fakes.bundles import BOARDS, noise
from tests.fakes.fleet import PI, PROFILE, Bundle, bundle, for_boards

V1 = bundle("1.0.0", size=150_000)
V2 = bundle("2.0.0", size=150_000)
V3 = bundle("3.0.0", size=150_000, backbone=7)


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "manifests", ChunkStore(tmp_path / "chunks"), PROFILE)


def installed(slots: Slots, *bundles: Bundle) -> None:
    store = ChunkStore(slots.root.parent / "chunks")
    for made in bundles:
        store.ingest(made, made.manifest.files)
        slots.put(made.bytes)


def held(slots: Slots) -> set[str]:
    return {path.name for path in (slots.root.parent / "chunks").glob("*/*")}


def needed(*bundles: Bundle) -> set[str]:
    return {c.sha256 for made in bundles for entry in made.manifest.files for c in entry.chunks}


def test_a_manifest_is_kept_under_its_digest(slots: Slots) -> None:
    assert slots.put(V1.bytes) == V1.digest
    assert slots.read(V1.digest) == V1.bytes
    assert slots.has(V1.digest)
    assert not slots.has(V2.digest)


def test_a_spoiled_manifest_is_never_handed_out_and_is_removed(slots: Slots) -> None:
    slots.put(V1.bytes)
    slots.path(V1.digest).write_bytes(V1.bytes.replace(b"1.0.0", b"6.6.6"))
    with pytest.raises(DeviceError, match="spoiled"):
        slots.read(V1.digest)
    assert not slots.path(V1.digest).exists()


def test_damage_says_what_is_missing(slots: Slots) -> None:
    assert "cannot be read" in (slots.damage(V1.digest) or "")
    slots.put(V1.bytes)
    assert "chunks are lost" in (slots.damage(V1.digest) or "")
    installed(slots, V1)
    assert slots.damage(V1.digest) is None


def test_whole_bundles_are_listed_the_latest_first(slots: Slots) -> None:
    installed(slots, V3, V1)
    slots.put(V2.bytes)  # its head is not here
    (slots.root / "notes.txt").write_text("not ours")
    (slots.root / f".{V2.digest}.json.tmp").write_text("torn")
    assert slots.whole() == [V1.release.ref, V3.release.ref]


@pytest.mark.parametrize("clock_s", [0, 1_000_000_000, 4_000_000_000], ids=["1970", "2001", "2096"])
def test_the_latest_is_told_whatever_the_clock_said_before(slots: Slots, clock_s: int) -> None:
    installed(slots, V1)
    os.utime(slots.path(V1.digest), (clock_s, clock_s))  # as an older release wrote it
    installed(slots, V3, V2)
    assert slots.whole() == [V2.release.ref, V3.release.ref, V1.release.ref]
    installed(slots, V3)
    assert slots.whole()[0] == V3.release.ref


def test_pruning_keeps_what_a_kept_slot_needs_and_nothing_else(slots: Slots) -> None:
    installed(slots, V1, V2, V3)
    freed = slots.prune([V2.digest, V3.digest])
    only = needed(V1) - needed(V2, V3)
    assert freed == sum(len(V1.chunks[digest]) for digest in only)
    assert held(slots) == needed(V2, V3)
    assert slots.whole() == [V3.release.ref, V2.release.ref]


def test_pruning_twice_frees_nothing(slots: Slots) -> None:
    installed(slots, V1, V2)
    slots.prune([V2.digest])
    assert slots.prune([V2.digest]) == 0


def test_nothing_is_pruned_where_a_kept_manifest_cannot_be_read(slots: Slots) -> None:
    installed(slots, V1, V2)
    before = held(slots)
    slots.path(V2.digest).unlink()
    with pytest.raises(DeviceError):
        slots.prune([V2.digest])
    assert held(slots) == before
    assert slots.has(V1.digest)


def test_pruning_removes_what_a_power_cut_left_of_a_manifest(slots: Slots) -> None:
    installed(slots, V1)
    torn = slots.root / f".{V2.digest}.json.tmp"
    torn.write_bytes(b"half")
    slots.prune([V1.digest])
    assert [path.name for path in slots.root.iterdir()] == [f"{V1.digest}.json"]


def test_a_folder_that_cannot_be_listed_is_an_error_where_something_hangs_on_it(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(slots, V1)
    before = held(slots)

    def fail(_folder: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", fail)
        with pytest.raises(DeviceError, match="cannot be listed"):
            slots.put(V2.bytes)
        with pytest.raises(DeviceError, match="cannot be pruned"):
            slots.prune([])
        assert slots.whole() == []
    assert held(slots) == before
    assert [ref.manifest_sha256 for ref in slots.whole()] == [V1.digest]


@pytest.mark.parametrize("name", ["", "../journal", "A" * 64, "1" * 63])
def test_what_is_no_digest_names_no_slot(slots: Slots, name: str) -> None:
    with pytest.raises(RuntimeError, match="not a digest"):
        slots.path(name)


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="cannot be made"):
        Slots(tmp_path / "file" / "manifests", ChunkStore(tmp_path / "chunks"), PROFILE)


# Several boards.

BOTH = for_boards("1.0.0", {file: noise(100_000, i) for i, (_, _, file) in
                            enumerate(BOARDS.values())})  # fmt: skip
LITERT, ORT, ON_PI = (file for _, _, file in BOARDS.values())


def put(slots: Slots, made: Bundle, *paths: str) -> None:
    """A bundle, without the variants' files that are not in `paths`."""
    store = ChunkStore(slots.root.parent / "chunks")
    variants = {file for _, _, file in BOARDS.values()} - set(paths)
    store.ingest(made, [entry for entry in made.manifest.files if entry.path not in variants])
    slots.put(made.bytes)


def test_a_slot_without_the_files_of_other_boards_is_whole(slots: Slots) -> None:
    put(slots, BOTH, LITERT, ORT)
    assert slots.damage(BOTH.digest) is slots.lacks(BOTH.digest) is None
    assert slots.whole() == [BOTH.release.ref]


@pytest.mark.parametrize("here", [LITERT, ORT])
def test_one_variant_is_enough_to_serve_and_what_the_other_lacks_is_told(
    slots: Slots, here: str
) -> None:
    put(slots, BOTH, here)
    assert slots.damage(BOTH.digest) is None
    assert "profile generic-x86_64 can run are not here" in (slots.lacks(BOTH.digest) or "")
    assert slots.whole() == [BOTH.release.ref]


def test_without_a_variant_or_a_shared_file_it_is_damaged(slots: Slots) -> None:
    put(slots, BOTH, ON_PI)
    assert "chunks are lost" in (slots.damage(BOTH.digest) or "")
    put(slots, BOTH, LITERT, ORT)
    assert slots.damage(BOTH.digest) is None
    (chunk,) = BOTH.manifest.file("tokenizer.json").chunks
    store = slots.root.parent / "chunks"
    (store / chunk.sha256[:2] / chunk.sha256).unlink()
    assert "1 chunks are lost" in (slots.damage(BOTH.digest) or "")


def test_a_bundle_for_other_boards_alone_is_damaged_and_keeps_nothing(
    slots: Slots, tmp_path: Path
) -> None:
    installed(slots, V1)
    on_pi = Slots(slots.root, ChunkStore(tmp_path / "chunks"), PI)
    assert "made for profile generic-x86_64" in (on_pi.damage(V1.digest) or "")
    assert on_pi.lacks(V1.digest) is None
    assert on_pi.whole() == []
    on_pi.prune([V1.digest])
    assert held(slots) == set()
    assert slots.path(V1.digest).exists()


def test_pruning_removes_what_only_other_boards_run(slots: Slots) -> None:
    put(slots, BOTH, LITERT, ORT, ON_PI)
    freed = slots.prune([BOTH.digest])
    assert freed == BOTH.manifest.file(ON_PI).size_bytes
    assert held(slots) == {
        c.sha256 for entry in BOTH.entries(PROFILE.name) for c in entry.chunks
    }  # fmt: skip


def test_a_task_that_is_no_longer_allowed_does_not_damage_what_serves(
    slots: Slots, tmp_path: Path
) -> None:
    installed(slots, V1)
    strict = dataclasses.replace(PROFILE, tasks=("regression",))
    assert Slots(slots.root, ChunkStore(tmp_path / "chunks"), strict).damage(V1.digest) is None
