"""The doctor on boards that are folders: what it finds, what it advises, what it never does."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from edge_runtime.agent.config import AgentConfig, ApiConfig
from edge_runtime.agent.doctor import (
    accelerators,
    boards,
    clocks,
    examine,
    heat,
    itself,
    machine,
    storage,
)
from edge_runtime.agent.doctor.bounded import Overdue, Running
from edge_runtime.agent.doctor.finding import Finding, Level, exit_code, obstacle, ok, warning
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.agent.doctor.show import Page, summary
from edge_runtime.agent.state_folder import Hold
from edge_runtime.profile import Engine, Probes, load_profile, profile_names
from edge_runtime.update.clock import BUILD_S, Clock
from tests.fakes.machines import link, mounted, put, raspberry_pi_5, zone
from tests.fakes.operators import ESCAPES, clean
from tests.fakes.signed import FakeReadings

DAY_S = 86_400.0
NOW_S = BUILD_S + 30 * DAY_S


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def pi(tmp_path: Path, state: Path) -> Scene:
    root = raspberry_pi_5(tmp_path / "root", state)
    config = AgentConfig("d", "raspberry-pi-5", state, "none", api=ApiConfig(port=0))
    return Scene(
        root=root,
        config=config,
        profile=load_profile("raspberry-pi-5"),
        architecture="aarch64",
        python=(3, 11),
        readings=FakeReadings(NOW_S),
    )


Look = Callable[[Scene], Iterable[Finding]]


def one(look: Look, scene: Scene) -> Finding:
    (finding,) = look(scene)
    return finding


def level(look: Look, scene: Scene) -> Level:
    return one(look, scene).level


def test_a_healthy_raspberry_pi_has_nothing_amiss(pi: Scene) -> None:
    looks = [look for id, look in examine.LOOKS.items() if not id.startswith("agent.version")]
    found = [finding for look in looks for finding in look(pi)]
    # Trust "none" is always told, and this test's own disk is smaller or larger as it likes.
    amiss = {f.id for f in found if f.level is not Level.OK} - {"identity.root", "storage.size"}
    assert amiss == set()
    texts = {f.id: f.text for f in found}
    assert texts["machine.model"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert texts["machine.memory"] == "4.2 GB, the profile counts on 4.3 GB"
    assert texts["probe.thermal"] == "cpu_thermal 51 °C"
    assert texts["storage.health"] == "mmcblk0: 10 to 20 % of its life used, no errors counted"
    assert texts["storage.filesystem"].startswith("ext4 on /dev/mmcblk0p2 at ")


# The machine.


@pytest.mark.parametrize(
    ("compatible", "device", "name"),
    [
        ("raspberrypi,5-model-b\0brcm,bcm2712", "", "raspberry-pi-5"),
        ("raspberrypi,5-model-b\0brcm,bcm2712", "dev/hailo0", "raspberry-pi-5-hailo8l"),
        ("raspberrypi,model-zero-2-w\0brcm,bcm2837", "", "raspberry-pi-zero-2w"),
        (
            "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234",
            "",
            "jetson-orin-nano",
        ),
        ("nvidia,p3737-0000+p3701-0000\0nvidia,p3701-0000\0nvidia,tegra234", "", "jetson-agx-orin"),
        ("fsl,imx93-11x11-evk\0fsl,imx93", "", "imx93"),
        ("radxa,rock-5b\0rockchip,rk3588", "", "rk3588"),
        ("acme,toaster", "", "generic-aarch64"),
    ],
)
def test_the_profile_that_fits_is_found_by_the_device_tree(
    tmp_path: Path, compatible: str, device: str, name: str
) -> None:
    put(tmp_path, "proc/device-tree/compatible", compatible + "\0")
    if device:
        put(tmp_path, device, "")
    found = boards.suggested(Scene(root=tmp_path, architecture="aarch64"))
    assert found is not None
    assert found[0] == name
    text = one(machine.profile, Scene(root=tmp_path, architecture="aarch64")).text
    assert f"edge-agent doctor --profile {name}" in text


def test_every_board_of_the_table_has_a_profile() -> None:
    named = {name for _, name in boards.BOARDS} | {other for _, _, other in boards.WITH_DEVICE}
    assert named <= set(profile_names())


def test_without_any_fitting_profile_it_says_how_to_write_one(tmp_path: Path) -> None:
    finding = one(machine.profile, Scene(root=tmp_path, architecture="riscv64"))
    assert (finding.level, "--profile FILE.toml" in finding.advice) == (Level.WARNING, True)


def test_a_smaller_board_than_the_profiles_is_told(pi: Scene) -> None:
    put(pi.root, "proc/meminfo", "MemTotal: 1900000 kB\n")
    put(pi.root, "proc/cpuinfo", "Features : asimd fphp\nFeatures : asimd asimddp fphp\n")
    scene = dataclasses.replace(pi, architecture="armv7l", python=(3, 9))
    assert level(machine.memory, scene) is Level.WARNING
    assert level(machine.architecture, scene) is Level.WARNING
    assert level(machine.python, scene) is Level.WARNING
    missing = one(machine.cpu_features, pi)  # One core of two lacks it: a thread may run there.
    assert (missing.level, "asimddp" in missing.text) == (Level.WARNING, True)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max",
          "sys/fs/cgroup/a/memory.max": "100000000"}, "100.0 MB for this process"),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "900000000"},
         "900.0 MB for this process"),
        ({"proc/self/cgroup": "7:cpu:/x\n4:memory:/docker/y\n",
          "sys/fs/cgroup/memory/docker/y/memory.limit_in_bytes": "200000000"},
         "200.0 MB for this process"),
        ({"proc/self/cgroup": "4:memory:/\n",
          "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, "none for"),
    ],
    ids=["of a parent", "enough", "v1", "v1 unlimited"],
)  # fmt: skip
def test_the_least_limit_of_memory_counts(pi: Scene, files: dict[str, str], says: str) -> None:
    for path, text in files.items():
        put(pi.root, path, text)
    finding = one(machine.memory_limit, pi)
    assert finding.text.startswith(says)
    small = says.startswith(("100", "200"))  # The profile's budget is 315 MB.
    assert finding.level is (Level.WARNING if small else Level.OK)


# Accelerators.


def accelerated(scene: Scene, name: str) -> Scene:
    assert scene.profile is not None
    engine = Engine("litert", "w8", (), 1, {}, accelerator=name)
    return dataclasses.replace(scene, profile=dataclasses.replace(scene.profile, engines=(engine,)))


def test_an_accelerator_that_is_not_there_names_its_nodes_and_driver(pi: Scene) -> None:
    finding = one(accelerators.devices, accelerated(pi, "edgetpu"))
    assert (finding.level, finding.subject) == (Level.WARNING, "edgetpu")
    assert finding.text == "no Edge TPU: there is no /dev/apex_*"
    assert "apex" in finding.advice


def test_a_device_and_its_drivers_version_are_told(pi: Scene) -> None:
    put(pi.root, "dev/apex_0", "")
    put(pi.root, "sys/module/apex/version", "1.2\n")
    put(pi.root, "sys/module/gasket/srcversion", "x")
    device, driver = accelerators.devices(accelerated(pi, "edgetpu"))
    assert (device.text, driver.text) == ("Edge TPU at /dev/apex_0", "apex 1.2, gasket")


def test_an_edge_tpu_on_usb_is_a_device(pi: Scene) -> None:
    put(pi.root, "sys/bus/usb/devices/1-1/idVendor", "1a6e\n")
    put(pi.root, "sys/bus/usb/devices/1-1/idProduct", "089a\n")
    assert level(accelerators.devices, accelerated(pi, "edgetpu")) is Level.OK


def test_a_render_node_is_an_npu_only_by_its_driver(pi: Scene) -> None:
    scene = accelerated(pi, "rknpu")
    for number, driver in ((128, "panthor"), (129, "RKNPU")):
        put(pi.root, f"dev/dri/renderD{number}", "")
        link(pi.root, f"sys/class/drm/renderD{number}/device/driver", f"sys/bus/drivers/{driver}")
    finding = next(iter(accelerators.devices(scene)))
    assert finding.text == "Rockchip NPU at /dev/dri/renderD129"
    (pi.root / "dev/dri/renderD129").unlink()
    assert level(accelerators.devices, scene) is Level.WARNING


@pytest.mark.parametrize(("mode", "says"), [(0o660, "usermod -aG"), (0o600, "udev rule")])
def test_a_device_that_we_may_not_open_names_the_way_in(
    pi: Scene, mode: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = put(pi.root, "dev/apex_0", "")
    node.chmod(mode)
    if os.geteuid() == 0:
        os.chown(node, -1, 1)
    monkeypatch.setattr(os, "access", lambda *_: False)  # Root may open everything.
    finding = one(accelerators.devices, accelerated(pi, "edgetpu"))
    assert finding.level is Level.WARNING
    assert f"mode {mode:04o}" in finding.text
    assert says in finding.advice


def test_one_gpu_under_several_engines_is_told_once(pi: Scene) -> None:
    put(pi.root, "dev/nvhost-gpu", "")
    scene = dataclasses.replace(pi, profile=load_profile("jetson-orin-nano"))
    assert [f.id for f in accelerators.devices(scene)] == ["accelerator.device"]


def test_without_a_profile_whatever_is_there_is_told(pi: Scene) -> None:
    scene = dataclasses.replace(pi, profile=None)
    assert list(accelerators.devices(scene)) == []
    put(pi.root, "dev/hailo0", "")
    assert one(accelerators.devices, scene).subject == "hailo8l"


# Heat.


def test_heat_and_throttling_are_told_in_words(pi: Scene) -> None:
    zone(pi.root, 0, "cpu-thermal", 84_000)
    flags = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
    put(pi.root, flags, "50004\n")
    assert level(heat.thermal, pi) is Level.WARNING
    finding = one(heat.throttled, pi)
    assert finding.level is Level.WARNING
    assert finding.text == "now: throttled; since it was started: under-voltage"
    assert finding.values["get_throttled"] == 0x50004


def test_a_place_of_the_profile_that_is_not_there_is_told(pi: Scene) -> None:
    assert pi.profile is not None
    places = Probes(("npu-thermal",), ("/sys/class/hwmon/*/power1_input",), ("/sys/x/flags",))
    scene = dataclasses.replace(pi, profile=dataclasses.replace(pi.profile, probes=places))
    for look, says in (
        (heat.thermal, "no zone npu-thermal here; there are cpu_thermal 51 °C"),
        (heat.power, "/sys/class/hwmon/*/power1_input cannot be read"),
        (heat.throttled, "/sys/x/flags cannot be read"),
    ):
        finding = one(look, scene)
        assert (finding.level, finding.text) == (Level.WARNING, says)


@pytest.mark.parametrize(
    ("driver", "expected"), [("cpufreq-dt", Level.WARNING), ("intel_pstate", Level.OK)]
)
def test_powersave_is_slow_but_for_drivers_that_mean_something_else_by_it(
    pi: Scene, driver: str, expected: Level
) -> None:
    policy = "sys/devices/system/cpu/cpufreq/policy0"
    put(pi.root, f"{policy}/scaling_governor", "powersave\n")
    put(pi.root, f"{policy}/scaling_driver", driver)
    assert level(heat.governor, pi) is expected


# Time.


def test_a_clock_of_1970_that_nothing_keeps_is_told(pi: Scene) -> None:
    put(pi.root, "sys/class/rtc/rtc0/since_epoch", "40\n")
    scene = dataclasses.replace(pi, readings=FakeReadings(40.0, synchronized=False))
    assert [level(look, scene) for look in (clocks.synchronized, clocks.plausible, clocks.rtc)] == [
        Level.WARNING
    ] * 3
    assert one(clocks.plausible, scene).text.startswith("1970-01-01 00:00:40 UTC")


def test_the_time_that_metadata_vouched_for_is_told_and_doubted(pi: Scene) -> None:
    assert pi.config is not None
    scene = dataclasses.replace(pi, config=dataclasses.replace(pi.config, trust="tuf"))
    assert "no signed metadata" in one(clocks.floor, scene).text
    assert list(clocks.floor(pi)) == []  # Trust "none" has no metadata to believe.
    for ahead_days, expected in ((0, Level.OK), (400, Level.WARNING)):
        (pi.config.state_dir / "trust").mkdir(exist_ok=True)
        clock = Clock(pi.config.state_dir / "trust/time.json", FakeReadings(NOW_S))
        clock.vouch(NOW_S + ahead_days * DAY_S, ["key"])
        assert level(clocks.floor, scene) is expected


# Storage.


def test_a_disk_that_became_read_only_is_an_obstacle(pi: Scene, state: Path) -> None:
    mounted(pi.root, state, "ext4", "/dev/mmcblk0p2", "ro")
    finding = one(storage.state, pi)
    assert (finding.level, "mounted read-only" in finding.text) == (Level.OBSTACLE, True)


@pytest.mark.parametrize("kind", ["tmpfs", "vfat", "nfs4"])
def test_file_systems_that_forget_or_tear_are_told(pi: Scene, state: Path, kind: str) -> None:
    mounted(pi.root, state, kind, "x")
    assert level(storage.filesystem, pi) is Level.WARNING


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("sys/devices/platform/mmc0/block/mmcblk0/device/life_time", "0x01 0x0a", "90 to 100 %"),
        ("sys/devices/platform/mmc0/block/mmcblk0/device/life_time", "0x0b 0x01", "more than 100"),
        ("sys/devices/platform/mmc0/block/mmcblk0/device/pre_eol_info", "0x03", "spare blocks"),
        ("sys/fs/ext4/mmcblk0p2/errors_count", "17", "17 errors of the file system"),
    ],
)
def test_a_worn_or_failing_card_is_told(pi: Scene, path: str, text: str, says: str) -> None:
    put(pi.root, path, text)
    finding = one(storage.health, pi)
    assert (finding.level, says in finding.text) == (Level.WARNING, True)


def test_a_disk_that_does_not_tell_is_unknown(pi: Scene) -> None:
    (pi.root / "sys/dev/block/179:2").unlink()
    assert level(storage.health, pi) is Level.UNKNOWN


def test_a_mount_point_with_a_space_is_found(pi: Scene, tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    mounted(pi.root, folder, "xfs", "/dev/sda1")
    found = storage.mount_of(folder / "deeper", pi)
    assert found is not None
    assert (found.kind, found.point) == ("xfs", str(folder))


def test_the_write_that_is_timed_leaves_nothing_behind(pi: Scene, state: Path) -> None:
    before = state.stat().st_mtime_ns
    assert [f.id for f in storage.sync(pi)] == ["storage.sync"]
    assert (list(state.iterdir()), state.stat().st_mtime_ns) == ([], before)


# The agent.


def test_an_agent_that_runs_is_no_obstacle(pi: Scene, state: Path) -> None:
    assert one(itself.running, pi).text == "no; nothing serves"
    hold = Hold(state)
    assert one(itself.running, pi).values == {"pid": os.getpid()}
    assert "the agent has it" in one(itself.api, pi).text
    hold.close()


def test_a_unit_must_be_there_and_enabled(pi: Scene) -> None:
    assert level(itself.service, pi) is Level.OK  # No systemd.
    (pi.root / "run/systemd/system").mkdir(parents=True)
    assert level(itself.service, pi) is Level.WARNING
    put(pi.root, "usr/lib/systemd/system/edge-agent.service", "")
    assert "systemctl enable" in one(itself.service, pi).advice
    put(pi.root, "etc/systemd/system/multi-user.target.wants/edge-agent.service", "")
    assert level(itself.service, pi) is Level.OK


# All of it.


def test_on_a_bare_machine_nothing_fails(tmp_path: Path) -> None:
    bare = Scene(root=tmp_path, architecture="aarch64", readings=FakeReadings(NOW_S))
    for id, look in examine.LOOKS.items():
        assert {f.level for f in look(bare)} <= {Level.OK, Level.UNKNOWN}, id


@pytest.mark.parametrize("garbage", ["", "\0", "\xff" * 5000, "9" * 400, "- - -\n" * 50, ESCAPES])
def test_whatever_a_driver_says_is_no_crash_and_reaches_no_terminal(
    pi: Scene, garbage: str
) -> None:
    for path in [p for p in pi.root.rglob("*") if p.is_file()]:
        path.write_text(garbage)
    found = [finding for look in examine.LOOKS.values() for finding in look(pi)]
    assert clean(Page(colour=False).text(found))
    assert not any("Traceback" in finding.text for finding in found)


def test_a_look_that_hangs_or_fails_is_unknown_and_the_others_are_told(
    pi: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(_scene: Scene) -> Iterable[Finding]:
        time.sleep(60)
        return []

    def fails(_scene: Scene) -> Iterable[Finding]:
        raise KeyError("surprise")

    monkeypatch.setitem(examine.LOOKS, "probe.power", hangs)
    monkeypatch.setitem(examine.LOOKS, "machine.kernel", fails)
    monkeypatch.setattr(examine, "LOOK_S", 0.5)
    begin_s = time.monotonic()
    found = {f.id: f for f in examine.examine(pi)}
    assert time.monotonic() - begin_s < 10
    assert found["probe.power"].text == "not told within 0.5 s"
    assert "surprise" in found["machine.kernel"].text
    assert {found[id].level for id in ("probe.power", "machine.kernel")} == {Level.UNKNOWN}
    assert found["machine.model"].level is Level.OK


def test_a_look_in_time_gives_what_it_found_and_one_too_late_nothing() -> None:
    assert Running(lambda: 5, 5.0).result() == 5
    with pytest.raises(Overdue, match=r"within 0\.1 s"):
        Running(lambda: time.sleep(5), 0.1).result()


# For people.


FINDINGS = [
    ok("machine.kernel", "Linux 6"),
    warning("engine.profile", f"gone {ESCAPES}", "install it", subject=f"x{ESCAPES}"),
    obstacle("storage.state", "read-only " * 20, "mount it"),
    warning("bundle.variant", "no: too large", "convert", subject="npu-int8",
            values={"rank": 1, "engine": "litert on vx"}),
    ok("bundle.variant", "yes, by litert", subject="cpu", values={"rank": 2, "engine": "litert"}),
]  # fmt: skip


def test_people_read_groups_signs_words_and_a_table_of_variants() -> None:
    text = Page().text(FINDINGS)
    lines = text.splitlines()
    assert clean(text)
    assert lines[0] == "Machine"
    assert lines[1].startswith("  ✓ ok       kernel")
    assert any(line.startswith("  ✗ obstacle state folder") for line in lines)
    assert any(line.strip() == "→ mount it" for line in lines)
    table = lines[lines.index("Bundle") :]
    assert table[1].split() == ["#", "variant", "engine", "runs", "here?"]
    assert table[2].split()[:4] == ["!", "warning", "1", "npu-int8"]
    assert table[1].index("engine") == table[2].index("litert") == table[4].index("litert")
    assert lines[-1] == "1 obstacle, 2 warnings; 2 ok" == summary(FINDINGS)


def test_a_terminal_gets_colours_and_broken_lines_and_a_poor_one_ascii() -> None:
    wide = Page(colour=True, wide=70).text(FINDINGS[2:3])
    assert "\x1b[31m✗ obstacle" in wide
    assert len([line for line in wide.splitlines() if "read-only" in line]) > 3
    assert Page(unicode=False).text(FINDINGS[:3]).isascii()


def test_only_an_obstacle_fails_the_command() -> None:
    assert (exit_code(FINDINGS[:2]), exit_code(FINDINGS)) == (0, 1)


def test_a_finding_without_advice_or_outside_the_catalogue_is_our_own_fault() -> None:
    with pytest.raises(RuntimeError, match="without advice"):
        warning("machine.kernel", "old", "")
    with pytest.raises(RuntimeError, match="catalogue"):
        ok("machine.shoe-size", "46")
