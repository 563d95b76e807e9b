"""A board says what it has; what it lacks is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.telemetry.board import temperatures
from edge_runtime.telemetry.probes import Probes, process_usage

PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")


def write(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def process(root: Path, pid: int, *, pages: int, cpu_s: float) -> None:
    write(root, f"proc/{pid}/statm", f"9000 {pages} 100 1 0 200 0\n")
    ticks = int(cpu_s * TICK)
    write(root, f"proc/{pid}/stat", f"{pid} (a ) b) S 1 1 1 0 -1 0 1 2 3 4 {ticks} 0 0 0 20 0\n")


def test_usage_is_read_past_a_name_with_spaces_and_parentheses(tmp_path: Path) -> None:
    process(tmp_path, 7, pages=10, cpu_s=1.5)
    usage = process_usage(7, tmp_path)
    assert usage is not None
    assert (usage.rss_bytes, usage.cpu_s) == (10 * PAGE, 1.5)


def test_usage_of_this_very_process_is_plausible() -> None:
    usage = process_usage(os.getpid())
    assert usage is not None
    assert 5 << 20 < usage.rss_bytes < 8 << 30
    assert usage.cpu_s > 0


def test_process_that_is_gone_has_no_usage(tmp_path: Path) -> None:
    assert process_usage(7, tmp_path) is None


@pytest.mark.parametrize("text", ["", "x", "7 (a) S", "7 (a) S 1 1 1 0 -1 0 1 2 3 4 x y"])
def test_unreadable_process_file_means_no_usage(tmp_path: Path, text: str) -> None:
    process(tmp_path, 7, pages=10, cpu_s=1)
    write(tmp_path, "proc/7/stat", text)
    assert process_usage(7, tmp_path) is None


def test_cpu_percent_is_measured_between_two_samples(tmp_path: Path) -> None:
    probes = Probes(tmp_path, root=tmp_path)
    process(tmp_path, 7, pages=10, cpu_s=1.0)
    assert "worker_cpu_percent" not in probes.sample(100.0, {"worker": 7})
    process(tmp_path, 7, pages=10, cpu_s=3.0)
    gauges = probes.sample(110.0, {"worker": 7})
    assert gauges["worker_cpu_percent"] == 20.0
    assert gauges["worker_rss_bytes"] == 10 * PAGE


def test_new_process_in_the_same_role_starts_a_new_measurement(tmp_path: Path) -> None:
    probes = Probes(tmp_path, root=tmp_path)
    process(tmp_path, 7, pages=10, cpu_s=50.0)
    process(tmp_path, 8, pages=10, cpu_s=0.1)
    probes.sample(100.0, {"worker": 7})
    assert "worker_cpu_percent" not in probes.sample(101.0, {"worker": 8})


def test_process_id_used_again_never_gives_a_negative_percentage(tmp_path: Path) -> None:
    probes = Probes(tmp_path, root=tmp_path)
    process(tmp_path, 7, pages=10, cpu_s=50.0)
    probes.sample(100.0, {"worker": 7})
    process(tmp_path, 7, pages=10, cpu_s=0.1)
    assert probes.sample(101.0, {"worker": 7})["worker_cpu_percent"] == 0.0


def test_temperatures_are_named_by_zone_type_and_the_hottest_wins(tmp_path: Path) -> None:
    for number, (kind, temp) in enumerate(
        [("cpu-thermal", "51000"), ("cpu-thermal", "55500"), ("GPU Therm!", "40000")]
    ):
        write(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", f"{kind}\n")
        write(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", f"{temp}\n")
    assert temperatures(tmp_path) == {"cpu_thermal": 55.5, "gpu_therm_": 40.0}


@pytest.mark.parametrize("temp", ["-274000", "2147483647", "", "warm"])
def test_sensor_that_is_off_is_left_out(tmp_path: Path, temp: str) -> None:
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "npu\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", temp)
    assert temperatures(tmp_path) == {}


def test_bare_board_gives_only_what_it_has(tmp_path: Path) -> None:
    gauges = Probes(tmp_path / "missing", root=tmp_path).sample(0.0, {"worker": 7})
    assert gauges == {}


def test_board_gauges_carry_their_units(tmp_path: Path) -> None:
    write(tmp_path, "proc/loadavg", "0.52 0.58 0.59 1/100 1\n")
    write(tmp_path, "proc/meminfo", "MemTotal: 8 kB\nMemAvailable:    2048 kB\n")
    gauges = Probes(tmp_path, root=tmp_path).sample(0.0, {})
    assert gauges["load_1m"] == 0.52
    assert gauges["memory_available_bytes"] == 2048 * 1024
    assert gauges["disk_free_bytes"] > 0
