from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.agent.drivers import Drivers
from edge_runtime.agent.hardware import HARDWARE
from edge_runtime.profile import DeviceProfile, load_profile
from tests.fakes import delegates

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a device runs Linux")


class Machine:
    """A root of a system with drivers, packages and a library of the profile's."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.packages = folder / "packages"
        for path in ("dev/dri", "sys/module/apex", "usr/lib/aarch64-linux-gnu"):
            (self.root / path).mkdir(parents=True)
        self.packages.mkdir()
        self.library = folder / "libnpu.so"
        self.library.write_bytes(b"one")
        self.named = self.root / "usr/lib/aarch64-linux-gnu" / "libedgetpu.so.1"
        self.named.write_bytes(b"one")
        self.module = self.root / "sys/module/apex/version"
        self.module.write_text("1.0\n")
        self.told = self.root / "etc/nv_tegra_release"
        self.told.parent.mkdir()
        self.told.write_text("# R36, 4.3\n")
        (self.root / "dev/apex_0").touch()
        (self.root / "dev/tty0").touch()
        options = (self.library, Path("libedgetpu.so.1"))
        files = [
            delegates.ENGINE.format(accelerator=f"a{at}", coverage=0, library=name, options="")
            for at, name in enumerate(options)
        ]
        profile = folder / "board.toml"
        files.append(delegates.CPU_ENGINE)
        profile.write_text(delegates.PROFILE.format(engines="".join(files), ram_bytes=0))
        self.profile: DeviceProfile = load_profile(str(profile))

    def drivers(self) -> Drivers:
        return Drivers(self.profile, 60.0, 0.0, self.root, [str(self.packages)])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def replaced(file: Path) -> None:
    fresh = file.with_name("fresh")
    fresh.write_bytes(file.read_bytes())
    os.utime(fresh, ns=(1, 1))
    fresh.rename(file)


CHANGES: dict[str, Callable[[Machine], object]] = {
    "a library": lambda m: replaced(m.library),
    "a library that is gone": lambda m: m.library.unlink(),
    "a library known by its name": lambda m: replaced(m.named),
    "a module's version": lambda m: m.module.write_text("1.1\n"),
    "a module that is gone": lambda m: shutil.rmtree(m.module.parent),
    "a device that is gone": lambda m: (m.root / "dev/apex_0").unlink(),
    "another device": lambda m: (m.root / "dev/dri/renderD128").touch(),
    "a driver that tells its version in a file": lambda m: m.told.write_text("# R36, 4.4\n"),
    "a plug-in": lambda m: (m.packages / "onnxruntime_qnn-2.7.0.dist-info").mkdir(),
    "an engine": lambda m: (m.packages / "onnxruntime_openvino-1.24.1.dist-info").mkdir(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen_once(machine: Machine, change: Callable[[Machine], object]) -> None:
    drivers = machine.drivers()
    assert not drivers.changed(60.0)
    change(machine)
    assert drivers.changed(120.0)
    assert not drivers.changed(180.0)


@pytest.mark.parametrize("name", HARDWARE)
def test_every_device_that_the_doctor_knows_counts(machine: Machine, name: str) -> None:
    drivers = machine.drivers()
    node = machine.root / "dev" / HARDWARE[name].nodes[0].replace("*", "0")
    if name == "edgetpu":
        node = node.with_name("apex_1")  # The other one is there.
    node.parent.mkdir(parents=True, exist_ok=True)
    node.touch()
    assert drivers.changed(60.0)
    module = machine.root / "sys/module" / HARDWARE[name].drivers[-1]
    module.mkdir()
    assert drivers.changed(120.0)


def test_what_has_nothing_to_do_with_it_is_no_change(machine: Machine) -> None:
    drivers = machine.drivers()
    (machine.root / "dev/tty1").touch()
    (machine.packages / "requests-2.0.dist-info").mkdir()
    (machine.root / "dev/apex_0").write_text("used")
    assert not drivers.changed(60.0)


def test_it_looks_only_when_that_is_due(machine: Machine) -> None:
    drivers = machine.drivers()
    machine.library.unlink()
    assert not drivers.changed(59.0)
    assert drivers.due_s == 60.0
    assert drivers.changed(61.0)
    assert drivers.due_s == 121.0
