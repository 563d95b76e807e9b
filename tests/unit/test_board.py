"""The parts of the power-cut harness that need no board: the log, the plan, the words, the page."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from random import Random

from edge_runtime.messages.fleet import Reported
from tests.board import console, moments, page
from tests.board.case import Cut
from tests.board.cpio import initramfs
from tests.board.evidence import Evidence, Trust
from tests.board.modules import in_order
from tests.board.moments import BOOT, ORDER, Moment
from tests.board.writelog import (
    DISCARD,
    FLUSH,
    MAGIC,
    PIECE,
    SECTOR,
    Left,
    last_flush,
    pieces,
    read_entries,
    settle,
)

BLOCKS = 16


def write(block: int, text: bytes, size: int = PIECE) -> tuple[int, int, bytes]:
    """A request: where, flags, bytes."""
    return block * PIECE, 0, (text * size)[:size]


FLUSHED = (0, FLUSH, b"")


def log_of(path: Path, requests: Sequence[tuple[int, int, bytes]], *, torn: int = 0) -> Path:
    """A log as the emulator writes it, its last `torn` bytes missing."""
    parts = [struct.pack("<QQQI", MAGIC, 1, 0, SECTOR).ljust(SECTOR, b"\0")]
    for offset, flags, data in requests:
        head = struct.pack("<QQQQ", offset // SECTOR, len(data) // SECTOR, flags, 0)
        parts += [head.ljust(SECTOR, b"\0"), b"" if flags & DISCARD else data]
    whole = b"".join(parts)
    path.write_bytes(whole[: len(whole) - torn])
    return path


def disk(path: Path) -> Path:
    path.write_bytes(b"." * (BLOCKS * PIECE))
    return path


def blocks(path: Path) -> str:
    """The first byte of every block."""
    return path.read_bytes()[::PIECE].decode()


def test_what_was_flushed_is_there_and_what_was_not_may_be_lost(tmp_path: Path) -> None:
    requests = [write(1, b"a"), write(2, b"b"), FLUSHED, write(1, b"x"), write(3, b"y")]
    log, image = log_of(tmp_path / "log", requests), disk(tmp_path / "disk")
    assert settle(log, image, None) == Left(flushed=2, survived=0, lost=2)
    assert blocks(image) == ".ab" + "." * 13


def test_every_part_of_what_was_not_flushed_can_survive_without_the_others(tmp_path: Path) -> None:
    requests = [write(0, b"a"), FLUSHED, write(4, b"x", 2 * PIECE), write(8, b"y")]
    log = log_of(tmp_path / "log", requests)
    found = set()
    for seed in range(60):
        image = disk(tmp_path / "disk")
        left = settle(log, image, Random(seed))
        assert left.survived + left.lost == 3
        found.add(blocks(image))
    assert {"a" + "." * 15, "a...xx..y" + "." * 7, "a....x..." + "." * 7} <= found
    assert all(text[0] == "a" for text in found)


def test_an_earlier_moment_of_the_log_knows_nothing_of_what_came_later(tmp_path: Path) -> None:
    requests = [write(1, b"a"), FLUSHED, write(1, b"b"), FLUSHED]
    log, image = log_of(tmp_path / "log", requests), disk(tmp_path / "disk")
    settle(log, image, None, upto=3)
    assert blocks(image)[1] == "a"


def test_a_log_ends_where_the_emulator_was_killed(tmp_path: Path) -> None:
    requests = [write(1, b"a"), FLUSHED, write(2, b"b"), write(3, b"c")]
    with log_of(tmp_path / "torn", requests, torn=100).open("rb") as log:
        assert len(read_entries(log)) == 3
    hole = log_of(tmp_path / "hole", requests[:3])
    hole.write_bytes(hole.read_bytes() + bytes(8 * SECTOR))
    with hole.open("rb") as log:
        assert len(read_entries(log)) == 3
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as log:
        assert read_entries(log) == []


def test_what_was_discarded_reads_as_nothing(tmp_path: Path) -> None:
    requests = [write(1, b"a"), (PIECE, DISCARD, bytes(PIECE)), FLUSHED, write(2, b"z")]
    log, image = log_of(tmp_path / "log", requests), disk(tmp_path / "disk")
    settle(log, image, None)
    assert blocks(image)[:3] == ".\0."


def test_a_write_that_begins_within_a_piece_is_cut_at_the_disks_pieces(tmp_path: Path) -> None:
    request = (PIECE - SECTOR, 0, bytes(PIECE + 2 * SECTOR))
    with log_of(tmp_path / "log", [request]).open("rb") as log:
        entries = read_entries(log)
    assert last_flush(entries) == 0
    assert list(pieces(entries[0])) == [(0, SECTOR), (SECTOR, PIECE), (SECTOR + PIECE, SECTOR)]


def test_a_plan_has_as_many_cuts_as_asked_for_and_falls_into_every_state() -> None:
    for cuts in (1, 2, 5, 6, 7, 20, 23):
        assert sum(map(len, moments.plan(cuts, 1))) == cuts
    states = {moment.state for update in moments.plan(20, 1) for moment in update}
    assert states == {*ORDER, BOOT}
    assert moments.plan(20, 1) == moments.plan(20, 1) != moments.plan(20, 2)


def test_a_cut_falls_within_its_state_or_close_behind_its_beginning() -> None:
    assert moments.delay_s(Moment("fetching", 0.5), {"fetching": 4.0}) == 2.0
    assert 0 < moments.delay_s(Moment("verifying", 0.5), {}) <= moments.SHORTEST_S


def test_a_disk_that_has_less_than_the_board_had_said_is_found_out() -> None:
    fetching = Evidence("fetching", held=12, needed=30)
    assert fetching.less_than("fetching", reported("fetching", held=12)) == []
    assert fetching.less_than("", None) == []
    assert fetching.less_than("verifying", None) == ["it had said verifying, the disk has fetching"]
    assert Evidence("before", 0, 30).less_than("authenticating", None) != []
    (fault,) = fetching.less_than("fetching", reported("fetching", held=13))
    assert fault == "it had reported 13 chunks, the disk has 12"


def reported(state: str, *, held: int) -> Reported:
    progress = {"chunks_held": held, "chunks_needed": 30, "fetched_bytes": 0}
    return Reported.from_bytes(
        json.dumps({"format": 1, "revision": 1, "state": state, "progress": progress}).encode()
    )


def test_trusted_metadata_that_goes_back_or_cannot_be_read_is_found_out(tmp_path: Path) -> None:
    trust = Trust()
    assert trust.older(tmp_path) == []

    def keep(version: int, time_s: float) -> None:
        text = json.dumps({"signed": {"version": version}})
        (tmp_path / "timestamp.json").write_text(text)
        (tmp_path / "time.json").write_text(json.dumps({"time_s": time_s}))

    keep(4, 1000.0)
    assert trust.older(tmp_path) == []
    assert (trust.behind(4), len(trust.behind(5))) == ([], 1)
    keep(3, 1000.0)
    assert trust.older(tmp_path) == ["timestamp went back from 4 to 3"]
    keep(4, 999.0)
    assert trust.older(tmp_path) == ["time floor went back from 1000 to 999"]
    (tmp_path / "timestamp.json").write_text('{"signed": {"vers')
    assert "timestamp.json is spoiled" in trust.older(tmp_path)
    (tmp_path / "timestamp.json").unlink()
    assert "timestamp went back from 4 to 0" in trust.older(tmp_path)


CONSOLE = (
    "2026-11-24T18:41:24Z info supervisor: update: Wanted bundle='tiny 1.0.2' "
    "state=authenticating\r\n"
    "2026-11-24T18:41:24Z info supervisor: update: ChunksHeld bundle='tiny 1.0.2' "
    "state=verifying\r\n"
    "2026-11-24T18:41:25Z info supervisor: update: Stalled bundle='tiny 1.0.2' state=waiting\r\n"
    "2026-11-24T18:41:25Z info supervisor: update: TrialPassed bundle='tiny 1.0.1' state=idle\r\n"
    "2026-11-24T18:41:27Z info supervisor: update: Verified bundle='tiny 1.0.2' state=tes"
)


def test_the_console_tells_how_far_an_update_is_and_half_a_line_tells_nothing() -> None:
    assert console.stage(CONSOLE, "1.0.2") == "verifying"
    assert console.stage(CONSOLE, "1.0.1") == "idle"
    assert console.stage(CONSOLE, "9.9.9") == ""
    assert console.trouble(CONSOLE) == []
    assert console.trouble(CONSOLE + "\nTraceback (most recent call last):\n") != []


def test_modules_are_loaded_after_those_that_they_depend_on(tmp_path: Path) -> None:
    for name, depends in (("virtio-net", "net_failover,virtio"), ("net_failover", ""),
                          ("virtio", "virtio_ring"), ("virtio_ring", "")):  # fmt: skip
        path = tmp_path / "drivers" / f"{name}.ko"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0")
    names = [path.stem for path in in_order(tmp_path, ["virtio_net", "ext4"])]
    assert names == ["net_failover", "virtio_ring", "virtio", "virtio-net"]


def test_the_first_file_system_is_an_archive_that_a_kernel_can_walk() -> None:
    files = {"init": (0o755, b"#!/bin/sh\n"), "bin/busybox": (0o755, b"elf")}
    data = gzip.decompress(initramfs(files, ["bin", "proc"], {"bin/sh": "busybox"}))
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        begin = (at + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            break
        found[name] = (mode, data[begin : begin + size])
        at = (begin + size + 3) // 4 * 4
    assert list(found) == ["bin", "proc", "init", "bin/busybox", "bin/sh"]
    assert found["init"] == (0o100755, b"#!/bin/sh\n")
    assert found["bin/sh"] == (0o120777, b"busybox")


def result(*broken: str) -> page.Result:
    cut = Cut(1, "fetching", "fetching", 3, 9, Left(10, 0, 2), False, "old", 20.0, broken)
    return page.Result(seed=1, cuts=[cut], others=[("it serves on", [])])


def test_the_section_takes_its_own_place_in_the_page_and_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "reliability.md"
    path.write_text("# Reliability\n\nwords\n")
    page.write(path, page.section(result()))
    first = path.read_text()
    assert first.startswith("# Reliability\n\nwords\n\n<!-- board: begin -->\n")
    assert "| fetching | 1 | 1 | 0 | 0 | 1 | 0 |" in first
    path.write_text(first + "\nmore\n")
    page.write(path, page.section(result("nobody answers after the cut")))
    again = path.read_text()
    assert again.count(page.BEGIN) == again.count(page.END) == 1
    assert again.endswith("\nmore\n")
    assert "| fetching | 1 | 1 | 0 | 0 | 1 | 1 |" in again
    assert page.kept(again) == "\n" + page.section(result("nobody answers after the cut"))
    assert page.kept("nothing") == ""


def test_whatever_was_broken_is_told_with_its_case() -> None:
    assert result("nobody answers").broken == ["cut 1: nobody answers"]
    assert result().broken == []
