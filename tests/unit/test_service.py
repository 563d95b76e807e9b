"""What each board adds to the unit: what it may spend, what its accelerator needs, nothing more."""

from __future__ import annotations

import grp
from dataclasses import replace

import pytest

from edge_runtime.agent.hardware import HARDWARE
from edge_runtime.agent.proving import PEAK
from edge_runtime.agent.service import ACCESS, OWN_BYTES, SHARE, drop_in
from edge_runtime.profile import DeviceProfile, load_profile, profile_names
from edge_runtime.profile.engine import CPU

OPENS = ("PrivateDevices", "DevicePolicy", "DeviceAllow", "SupplementaryGroups",
         "MemoryDenyWriteExecute", "SystemCallFilter", "RestrictAddressFamilies")  # fmt: skip
PI = load_profile("raspberry-pi-5")
MIB = 1 << 20


def settings(profile: DeviceProfile, groups: tuple[str, ...] = ("video", "render")) -> list[str]:
    lines = drop_in(profile, groups).splitlines()
    assert lines.count("[Service]") == 1
    return [line for line in lines if line and line[0] not in "#["]


@pytest.mark.parametrize("name", profile_names())
def test_a_board_without_accelerator_keeps_the_whole_sandbox(name: str) -> None:
    profile = load_profile(name)
    opened = [line for line in settings(profile) if line.startswith(OPENS)]
    bare = all(e.accelerator not in ACCESS and not e.affinity for e in profile.engines)
    assert bool(opened) is not bare


@pytest.mark.parametrize("name", profile_names())
def test_memory_is_a_worker_and_a_proof_beside_it_and_never_more_than_the_units_share(
    name: str,
) -> None:
    profile = load_profile(name)
    limits = [line for line in settings(profile) if line.startswith("MemoryMax=")]
    needed = profile.budget.ram_bytes * (1 + PEAK) + OWN_BYTES
    if needed > SHARE * profile.ram_bytes:
        assert not limits, "the unit's share of the board stands"
    else:
        assert limits == [f"MemoryMax={-(-needed // MIB)}M"]


def test_without_a_budget_the_units_share_stands() -> None:
    unbounded = replace(PI, budget=replace(PI.budget, ram_bytes=0))
    assert not any(line.startswith("MemoryMax") for line in settings(unbounded))


def test_every_accelerator_that_the_doctor_looks_for_is_let_in() -> None:
    assert set(HARDWARE) <= set(ACCESS)
    for name, access in ACCESS.items():
        nodes = HARDWARE[name].nodes if name in HARDWARE else ()
        assert bool(nodes) is bool(access.devices or access.groups), name
        assert all(word.startswith(("char-", "/dev/")) for word in access.devices), name


def test_only_groups_that_are_here_are_asked_for() -> None:
    jetson = load_profile("jetson-orin-nano")
    assert "SupplementaryGroups=video" in settings(jetson, ("video", "staff"))
    assert not any(line.startswith("SupplementaryGroups") for line in settings(jetson, ()))
    here = {entry.gr_name for entry in grp.getgrall()}
    asked = [line for line in drop_in(jetson).splitlines() if line.startswith("Supplementary")]
    assert all(set(line.partition("=")[2].split()) <= here for line in asked)


def test_devices_are_named_where_their_names_are_known() -> None:
    rockchip = settings(load_profile("rk3588"))
    assert {"PrivateDevices=no", "DeviceAllow=/dev/rknpu rw", "DeviceAllow=char-drm rw",
            "SupplementaryGroups=video render"} & set(rockchip)  # fmt: skip
    assert "DevicePolicy=auto" not in rockchip
    assert "MemoryDenyWriteExecute=no" not in rockchip
    assert "SystemCallFilter=sched_setaffinity" in rockchip, "its NPU's threads run on big cores"


def test_memory_to_write_and_execute_is_for_those_who_make_code() -> None:
    makers = {
        name
        for name in profile_names()
        if "MemoryDenyWriteExecute=no" in settings(load_profile(name))
    }
    assert makers == {"jetson-agx-orin", "jetson-nano", "jetson-orin-nano", "openvino-x86_64"}


def test_more_threads_may_run_where_a_driver_starts_some() -> None:
    def tasks(profile: DeviceProfile) -> int:
        (line,) = [line for line in settings(profile) if line.startswith("TasksMax=")]
        return int(line.partition("=")[2])

    assert all(engine.accelerator == CPU for engine in PI.engines)
    assert 256 <= tasks(PI) < tasks(load_profile("jetson-orin-nano"))
