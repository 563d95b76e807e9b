"""A board measures itself at the places that its profile names."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.profile import Probes as Places
from edge_runtime.profile import load_profile, profile_names
from edge_runtime.telemetry.board import (
    flags_in_words,
    found,
    power_w,
    slowed,
    temperatures,
    throttling,
)
from edge_runtime.telemetry.probes import Probes
from tests.fakes.machines import put, zone

PI = "/sys/devices/platform/soc*/soc*:firmware/get_throttled"


def test_the_profiles_zones_come_first_and_past_the_bound(tmp_path: Path) -> None:
    for number in range(40):
        zone(tmp_path, number, f"core{number}", 40_000 + number)
    zone(tmp_path, 99, "NPU-thermal", 71_500)
    now = temperatures(tmp_path, ["NPU-thermal", "core39", "no-such"])
    assert list(now)[:3] == ["npu_thermal", "core39", "core0"]
    assert now["npu_thermal"] == 71.5
    assert len(now) == 32
    assert "npu_thermal" not in temperatures(tmp_path)  # Beyond the bound, were it not wanted.


@pytest.mark.parametrize(
    ("files", "pattern", "rails"),
    [
        (
            {"sys/class/hwmon/hwmon3/power1_input": "2500000",
             "sys/class/hwmon/hwmon3/power1_label": "VDD_CPU"},
            "/sys/class/hwmon/hwmon*/power1_input",
            {"vdd_cpu": 2.5},
        ),
        (
            {"sys/class/hwmon/hwmon0/curr1_input": "400",
             "sys/class/hwmon/hwmon0/in1_input": "5000",
             "sys/class/hwmon/hwmon0/in1_label": "VDD_IN"},
            "sys/class/hwmon/hwmon*/curr[12]_input",
            {"vdd_in": 2.0},
        ),
        (
            {"sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input": "1812",
             "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0": "POM_5V_IN"},
            "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device*/in_power0_input",
            {"pom_5v_in": 1.812},
        ),
        (
            {"sys/class/hwmon/hwmon1/power1_input": "300000",
             "sys/class/hwmon/hwmon1/name": "ina260"},
            "class/hwmon/hwmon*/power1_input",
            {"ina260_1": 0.3},
        ),
        ({"sys/class/hwmon/hwmon0/curr1_input": "400"}, "/sys/class/hwmon/*/curr1_input", {}),
        ({"sys/class/hwmon/hwmon0/power1_input": "N/A"}, "/sys/class/hwmon/*/power1_input", {}),
        ({"etc/power1_input": "1"}, "/sys/../etc/power1_input", {}),
    ],
    ids=["hwmon", "ina3221", "jetson-nano", "no label", "no voltage", "no number", "outside"],
)  # fmt: skip
def test_power_is_watts_whatever_the_driver_counts_in(
    tmp_path: Path, files: dict[str, str], pattern: str, rails: dict[str, float]
) -> None:
    for path, text in files.items():
        put(tmp_path, path, text)
    assert power_w([pattern], tmp_path) == rails


def test_the_raspberry_pis_flags_are_hexadecimal_and_told_in_words(tmp_path: Path) -> None:
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    assert throttling([PI], tmp_path) == {"get_throttled": 0x50005}
    now, ever = flags_in_words(0x50005)
    assert (now, ever) == (["under-voltage", "throttled"], ["under-voltage", "throttled"])
    assert flags_in_words(0xA0000) == ([], ["frequency capped", "soft temperature limit"])


def test_counters_of_all_cores_are_added_up(tmp_path: Path) -> None:
    for core, count in enumerate(["3", "0", "4", "-"]):
        put(
            tmp_path,
            f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count",
            count,
        )
    pattern = "/sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"
    assert throttling([pattern, pattern], tmp_path) == {"core_throttle_count": 7}


def test_what_cools_by_slowing_down_is_told_and_a_fan_is_not(tmp_path: Path) -> None:
    for number, (kind, step) in enumerate(
        [("cpufreq-cpu0", "2"), ("pwm-fan", "4"), ("Processor", "0")]
    ):
        put(tmp_path, f"sys/class/thermal/cooling_device{number}/type", kind)
        put(tmp_path, f"sys/class/thermal/cooling_device{number}/cur_state", step)
    assert slowed(tmp_path) == {"cpufreq-cpu0": 2}


def test_gauges_of_the_profiles_places_are_reported(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/hwmon/hwmon0/power1_input", "1500000")
    put(tmp_path, "sys/class/hwmon/hwmon0/power1_label", "soc")
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "0")
    zone(tmp_path, 0, "cpu-thermal", 51_000)
    places = Places(("cpu-thermal",), ("/sys/class/hwmon/hwmon*/power1_input",), (PI,))
    gauges = Probes(tmp_path, places, root=tmp_path).sample(0.0, {})
    assert {k: v for k, v in gauges.items() if not k.startswith("disk")} == {
        "temp_c_cpu_thermal": 51.0, "power_w_soc": 1.5, "throttling_get_throttled": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("pattern", ["", "/", "**/x", "/sys/**", "\0", "a" * 5000, "[", "/../x"])
def test_a_pattern_that_means_nothing_finds_nothing(tmp_path: Path, pattern: str) -> None:
    put(tmp_path, "sys/x", "1")
    assert [path for path in found(pattern, tmp_path) if path.is_file()] == []


@pytest.mark.parametrize("name", profile_names())
def test_every_place_of_a_shipped_profile_is_one_that_we_can_read(
    name: str, tmp_path: Path
) -> None:
    """Each pattern is made real, with the numbers that boot would give it."""
    places = load_profile(name).probes
    for pattern in (*places.power, *places.throttling):
        path = pattern.strip("/").replace("[01]", "0").replace("[123]", "1").replace("*", "0")
        put(tmp_path, path, "1000")
        if "/curr" in path:
            put(tmp_path, path.replace("/curr", "/in"), "5000")
    assert len(power_w(places.power, tmp_path)) == len(places.power)
    assert len(throttling(places.throttling, tmp_path)) == len(places.throttling)
