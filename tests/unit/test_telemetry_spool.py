"""What waits on disk is bounded, in order, and survives what happens to boards."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.errors import DeviceError
from edge_runtime.telemetry.spool import Spool

ROOT = Path(__file__).parents[2]


def line(number: int, size: int = 40) -> bytes:
    return json.dumps({"n": number, "pad": "x" * size}).encode()


def numbers(lines: list[bytes]) -> list[int]:
    return [json.loads(item)["n"] for item in lines]


def drained(spool: Spool, batch: int = 7) -> list[int]:
    found: list[int] = []
    while lines := spool.read(batch):
        found += numbers(lines)
        spool.done(len(lines))
    return found


def test_lines_come_back_in_order_and_only_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number in range(100):
        assert spool.append(line(number), now_s=number)
    assert len(spool) == 100
    assert drained(spool) == list(range(100))
    assert len(spool) == 0
    assert list(tmp_path.iterdir()) == []


def test_line_that_was_read_but_not_done_comes_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(line(1), 0)
    spool.append(line(2), 0)
    assert numbers(spool.read(10)) == [1, 2]
    spool.done(1)
    assert numbers(spool.read(10)) == [2]


def test_reading_and_appending_may_alternate(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    found = []
    for number in range(300):
        spool.append(line(number), number)
        if number % 3 == 0:
            lines = spool.read(2)
            found += numbers(lines)
            spool.done(len(lines))
    assert found + drained(spool) == list(range(300))


def test_oldest_lines_go_when_the_bound_is_reached_and_are_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=8192)
    for number in range(1000):
        assert spool.append(line(number), number)
        assert spool.size_bytes <= 8192
        assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= 8192
    left = drained(spool)
    assert left == list(range(1000 - len(left), 1000))
    assert len(left) > 60
    assert spool.dropped == 1000 - len(left)


def test_spool_survives_a_restart(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    for number in range(50):
        first.append(line(number), 0)
    first.close()
    second = Spool(tmp_path)
    assert len(second) == 50
    second.append(line(50), 0)
    assert drained(second) == list(range(51))


def test_spool_survives_a_restart_without_a_goodbye(tmp_path: Path) -> None:
    Spool(tmp_path).append(line(1), 0)
    assert drained(Spool(tmp_path)) == [1]


@pytest.mark.parametrize(
    "tail", [b'{"n": 7, "pa', b"\0" * 100, b'{"n": 7}\0\0\0', b"\n\n", b"\xff"]
)
def test_torn_last_line_costs_only_itself(tmp_path: Path, tail: bytes) -> None:
    spool = Spool(tmp_path)
    for number in range(3):
        spool.append(line(number), 0)
    spool.close()
    (path,) = tmp_path.iterdir()
    with path.open("ab") as file:
        file.write(tail)
    again = Spool(tmp_path)
    again.append(line(3), 0)
    assert drained(again) == [0, 1, 2, 3]


def test_bound_holds_over_a_restart_with_a_smaller_one(tmp_path: Path) -> None:
    large = Spool(tmp_path, max_bytes=1 << 20)
    for number in range(2000):
        large.append(line(number), 0)
    large.close()
    small = Spool(tmp_path, max_bytes=8192)
    small.append(line(2000), 0)
    assert small.size_bytes <= 8192
    assert drained(small)[-1] == 2000


def test_disk_is_synced_at_most_once_in_the_given_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    spool = Spool(tmp_path, sync_s=30)
    for second in range(301):
        spool.append(line(second), now_s=1000.0 + second)
    assert len(synced) == 10


FULL = """
import logging, pathlib, sys
from edge_runtime.telemetry.spool import Spool
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
folder = pathlib.Path(sys.argv[1])
spool = Spool(folder, sync_s=0.0)
begin, end = disk(folder)
line = b'{"pad": "' + b"x" * 80 + b'"}'
kept = sum(spool.append(line, n) for n in range(5))
begin()
full = [spool.append(line, n) for n in range(200)]
assert not any(full[-100:]), full
assert len(list(folder.glob("*.jsonl"))) <= 2, list(folder.iterdir())
end()
kept += sum(full) + sum(spool.append(line, n) for n in range(5))
assert spool.dropped == full.count(False)
assert len(spool) == kept == 10 + sum(full), (len(spool), kept)
spool.close()
again = Spool(folder)
found = 0
while lines := again.read(7):
    assert set(lines) == {line}
    found += len(lines)
    again.done(len(lines))
assert found == kept
"""
LIMIT = """
import resource
def disk(folder):
    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return lambda: limit(LEFT), lambda: limit(resource.RLIM_INFINITY)
"""
BALLAST = """
def disk(folder):
    ballast = folder / "ballast"
    def fill():
        with open(ballast, "wb", buffering=0) as file:
            try:
                while file.write(bytes(512)):
                    pass
            except OSError:
                pass
    return fill, ballast.unlink
"""


def on_a_full_disk(folder: Path, disk: str) -> list[str]:
    """What a spool logs whose disk is full for a while, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", disk + FULL, str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("left", [0, 50], ids=["nothing fits", "half a line fits"])
def test_a_disk_that_takes_no_more_costs_lines_and_is_told_once(tmp_path: Path, left: int) -> None:
    told = on_a_full_disk(tmp_path, LIMIT.replace("LEFT", str(left)))
    assert told == ["spool cannot be written", "spool can be written again"]


def test_a_disk_that_is_full_costs_lines_and_is_told_once(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only who may mount has a disk to fill")
    try:
        told = on_a_full_disk(tmp_path, BALLAST)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert told == ["spool cannot be written", "spool can be written again"]


def test_an_empty_segment_that_a_power_cut_left_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "000000000001.jsonl").touch()
    spool = Spool(tmp_path)
    spool.append(line(1), 0)
    assert drained(spool) == [1]
    assert list(tmp_path.iterdir()) == []


def test_lines_that_the_disk_does_not_sync_are_kept_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    spool = Spool(tmp_path, sync_s=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        assert all(spool.append(line(n), n) for n in range(20))
    assert len(caplog.records) == 1
    assert (drained(spool), spool.dropped) == (list(range(20)), 0)


def test_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "spool"
    blocked.write_text("")
    with pytest.raises(DeviceError, match="spool"):
        Spool(blocked)


@pytest.mark.parametrize("bad", [b"", b"x", b'{"a":1}\n{"b":2}', b"{" + b"x" * (1 << 20) + b"}"])
def test_what_is_no_line_is_our_own_mistake(tmp_path: Path, bad: bytes) -> None:
    with pytest.raises(RuntimeError):
        Spool(tmp_path).append(bad, 0)


def test_strangers_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text('{"n": 1}\n')
    assert Spool(tmp_path).read(1) == []
    assert (tmp_path / "notes.jsonl").exists()
