"""A device installs a wheel, not a checkout: everything that it needs must be inside."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="only where wheels are built, not on a device")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_every_module_and_every_profile_is_in_the_wheel(wheel: Path) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in ("edge_runtime", "converters", "device_profiles")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "device_profiles/schema.json" in expected
    assert "device_profiles/generic-x86_64.toml" in expected
    missing = expected - set(zipfile.ZipFile(wheel).namelist())
    assert missing == set()


def test_tests_examples_and_benchmarks_stay_out_of_the_wheel(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "edge_runtime",
        "converters",
        "device_profiles",
    }


def test_every_command_of_the_wheel_can_be_called(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(archive.read(name).decode())
    commands = dict(parser["console_scripts"])
    assert set(commands) == {"edge-agent", "edge-convert", "edge-fleet"}
    for target in commands.values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))
