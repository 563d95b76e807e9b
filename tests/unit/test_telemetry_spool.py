"""What waits on disk is bounded, in order, and survives what happens to boards."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edge_runtime.errors import DeviceError
from edge_runtime.telemetry.spool import Spool


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


def test_full_disk_costs_lines_not_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: Path, mode: str) -> None:
        raise OSError(28, "No space left on device")

    spool = Spool(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        assert [spool.append(line(n), 0) for n in range(3)] == [False] * 3
    assert spool.dropped == 3
    assert len(caplog.records) == 1
    assert spool.append(line(3), 0)
    assert drained(spool) == [3]


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
