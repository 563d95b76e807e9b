"""Trusted time: what may raise it, what may lower it, what keeps it."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path

import pytest

from edge_runtime.errors import DeviceError
from edge_runtime.update import clock as clock_module
from edge_runtime.update.clock import BUILD_S, MAX_S, Clock, Machine
from tests.fakes.signed import DAY_S, FakeReadings

T0 = BUILD_S + 10 * DAY_S
KEYS = ["k1"]


@pytest.fixture
def readings() -> FakeReadings:
    """A board without a battery: 1970, and nothing has synchronised it."""
    return FakeReadings(0.0, synchronized=False)


def test_without_any_word_it_is_the_day_the_software_was_made(
    tmp_path: Path, readings: FakeReadings
) -> None:
    assert Clock(tmp_path / "floor", readings).now_s() == BUILD_S


def test_the_trusted_root_says_when_it_was_signed(tmp_path: Path, readings: FakeReadings) -> None:
    clock = Clock(tmp_path / "floor", readings)
    assert clock.now_s(T0) == T0
    assert clock.now_s(5.0) == BUILD_S


def test_a_verified_timestamp_is_remembered_over_restarts(
    tmp_path: Path, readings: FakeReadings
) -> None:
    Clock(tmp_path / "floor", readings).vouch(T0, KEYS)
    readings.reboot()
    assert Clock(tmp_path / "floor", readings).now_s(keys=KEYS) == T0


def test_uptime_carries_it_on_within_one_boot(tmp_path: Path, readings: FakeReadings) -> None:
    clock = Clock(tmp_path / "floor", readings)
    clock.vouch(T0, KEYS)
    readings.wait(3600)
    assert clock.now_s(keys=KEYS) == T0 + 3600
    assert Clock(tmp_path / "floor", readings).now_s(keys=KEYS) == T0 + 3600
    readings.reboot()
    readings.up_s = 1_000_000.0
    assert Clock(tmp_path / "floor", readings).now_s(keys=KEYS) == T0


def test_where_the_kernel_tells_no_boot_id_no_uptime_counts(
    tmp_path: Path, readings: FakeReadings
) -> None:
    readings.boot = ""
    clock = Clock(tmp_path / "floor", readings)
    clock.vouch(T0, KEYS)
    readings.wait(3600)
    assert clock.now_s(keys=KEYS) == T0


def test_uptime_that_goes_back_takes_nothing_away(tmp_path: Path, readings: FakeReadings) -> None:
    clock = Clock(tmp_path / "floor", readings)
    clock.vouch(T0, KEYS)
    readings.up_s -= 50
    assert clock.now_s(keys=KEYS) == T0


def test_an_older_timestamp_takes_nothing_away(tmp_path: Path, readings: FakeReadings) -> None:
    clock = Clock(tmp_path / "floor", readings)
    clock.vouch(T0, KEYS)
    clock.vouch(T0 - DAY_S, KEYS)
    assert clock.now_s(keys=KEYS) == T0


def test_what_uptime_has_passed_already_is_not_written_again(
    tmp_path: Path, readings: FakeReadings
) -> None:
    """Else each timestamp that is a little old would cost a write and lose the time since."""
    clock = Clock(tmp_path / "floor", readings)
    clock.vouch(T0, KEYS)
    before = (tmp_path / "floor").read_bytes()
    readings.wait(DAY_S)
    clock.vouch(T0 + DAY_S / 2, KEYS)
    assert (tmp_path / "floor").read_bytes() == before
    assert clock.now_s(keys=KEYS) == T0 + DAY_S


def test_other_timestamp_keys_end_what_the_old_ones_vouched_for(
    tmp_path: Path, readings: FakeReadings
) -> None:
    """Recovery from a stolen key that signed a time far ahead."""
    clock = Clock(tmp_path / "floor", readings)
    clock.vouch(T0 + 10_000 * DAY_S, KEYS)
    assert clock.now_s(T0, ["k2"]) == T0
    clock.vouch(T0 + DAY_S, ["k2"])
    assert clock.now_s(T0, ["k2"]) == T0 + DAY_S
    assert Clock(tmp_path / "floor", readings).now_s(T0, ["k2"]) == T0 + DAY_S


def test_the_order_of_keys_says_nothing(tmp_path: Path, readings: FakeReadings) -> None:
    clock = Clock(tmp_path / "floor", readings)
    clock.vouch(T0, ["b", "a"])
    assert clock.now_s(keys=["a", "b"]) == T0
    assert clock.now_s(keys=["a"]) == BUILD_S


def test_a_timestamp_that_does_not_say_when_changes_nothing(
    tmp_path: Path, readings: FakeReadings
) -> None:
    clock = Clock(tmp_path / "floor", readings)
    clock.vouch(T0, KEYS)
    clock.vouch(0.0, ["k2"])
    assert clock.now_s(keys=KEYS) == T0


def test_a_synchronised_clock_counts_and_is_not_kept(
    tmp_path: Path, readings: FakeReadings
) -> None:
    readings.wall_s = T0 + 100 * DAY_S
    clock = Clock(tmp_path / "floor", readings)
    clock.vouch(T0, KEYS)
    assert clock.now_s(keys=KEYS) == T0
    readings.is_synchronized = True
    assert clock.now_s(keys=KEYS) == T0 + 100 * DAY_S
    readings.reboot(0.0)
    assert Clock(tmp_path / "floor", readings).now_s(keys=KEYS) == T0


def test_a_synchronised_clock_does_not_go_below_the_floor(
    tmp_path: Path, readings: FakeReadings
) -> None:
    readings.is_synchronized = True
    readings.wall_s = -5.0
    clock = Clock(tmp_path / "floor", readings)
    clock.vouch(T0, KEYS)
    assert clock.now_s(keys=KEYS) == T0


def test_a_clock_beyond_all_dates_is_the_last_one(tmp_path: Path, readings: FakeReadings) -> None:
    readings.is_synchronized = True
    readings.wall_s = 1e18
    assert Clock(tmp_path / "floor", readings).now_s() == MAX_S


def test_whoever_tests_time_may_say_when_the_software_was_made(
    tmp_path: Path, readings: FakeReadings
) -> None:
    assert Clock(tmp_path / "floor", readings, made_s=7.0).now_s() == 7.0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"[]",
        b'{"format":2,"time_s":1,"keys":[],"boot_id":"","uptime_s":0}',
        b'{"format":1,"time_s":-1,"keys":[],"boot_id":"","uptime_s":0}',
        b'{"format":1,"time_s":1e200,"keys":["k1"],"boot_id":"","uptime_s":0}',
        b'{"format":1,"time_s":NaN,"keys":["k1"],"boot_id":"","uptime_s":0}',
        b'{"format":1,"time_s":1,"keys":[1],"boot_id":"","uptime_s":0}',
        b'{"format":1,"time_s":1,"keys":["k1"],"boot_id":"","uptime_s":0' + b" " * 20_000 + b"}",
    ],
)
def test_a_spoiled_floor_is_told_and_none(
    tmp_path: Path, readings: FakeReadings, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "floor").write_bytes(data)
    with caplog.at_level(logging.ERROR):
        clock = Clock(tmp_path / "floor", readings)
    assert clock.now_s(keys=KEYS) == BUILD_S
    assert "time floor is spoiled" in caplog.text
    clock.vouch(T0, KEYS)
    assert Clock(tmp_path / "floor", readings).now_s(keys=KEYS) == T0


def test_a_floor_that_cannot_be_read_is_told_and_none(
    tmp_path: Path, readings: FakeReadings, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "floor").mkdir()
    assert Clock(tmp_path / "floor", readings).now_s(keys=KEYS) == BUILD_S
    assert "cannot be read (is no regular file)" in caplog.text


def test_a_full_disk_is_told_and_the_old_floor_stays(
    tmp_path: Path, readings: FakeReadings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(tmp_path / "floor", readings)
    clock.vouch(T0, KEYS)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DeviceError, match="No space left"):
        clock.vouch(T0 + DAY_S, KEYS)
    monkeypatch.undo()
    assert clock.now_s(keys=KEYS) == T0
    assert Clock(tmp_path / "floor", readings).now_s(keys=KEYS) == T0
    assert [path.name for path in tmp_path.iterdir()] == ["floor"]


def test_the_floor_is_a_file_that_people_can_read(tmp_path: Path, readings: FakeReadings) -> None:
    Clock(tmp_path / "floor", readings).vouch(T0, KEYS)
    assert json.loads((tmp_path / "floor").read_text()) == {
        "format": 1,
        "time_s": T0,
        "keys": KEYS,
        "boot_id": "boot-1",
        "uptime_s": 100.0,
    }


def test_this_machine_has_a_clock() -> None:
    machine = Machine()
    assert machine.uptime_s() > 0
    assert machine.now_s() >= 0
    assert machine.synchronized() in (True, False)
    assert machine.boot_id() == machine.boot_id()


def test_a_synchronised_machine_is_one_that_systemd_says_so_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_module, "_kernel_synchronized", lambda: False)
    monkeypatch.setattr(clock_module, "SYNCHRONIZED", tmp_path / "synchronized")
    assert not Machine().synchronized()
    (tmp_path / "synchronized").touch()
    assert Machine().synchronized()


def test_a_machine_without_a_boot_id_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_module, "BOOT_ID", tmp_path / "nothing")
    assert Machine().boot_id() == ""
