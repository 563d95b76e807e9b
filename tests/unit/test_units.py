"""The units as systemd reads them: nothing unknown, nothing ignored, exposed no more than said."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_runtime.agent.cli import main
from edge_runtime.agent.config import WorkerConfig
from edge_runtime.agent.service import SHARE, UNIT, drop_in
from edge_runtime.agent.supervisor import STOP_SLACK_S
from edge_runtime.agent.workers import MAX_ORPHANS
from edge_runtime.profile import load_profile, profile_names

FOLDER = Path(__file__).parents[2] / "packaging" / "systemd"
OURS = ("edge-agent.service", "edge-agent.socket", "edge-agent-clock.service")
EXPOSURE = 1.5
NEWER = {
    # Not known to systemd 249 of Ubuntu 22.04, which would say so at every load.
    "RestartSteps", "RestartMaxDelaySec", "RestartMode", "FileDescriptorStorePreserve",
    "LoadCredentialEncrypted", "SetCredentialEncrypted", "ImportCredential", "MemoryPressureWatch",
    "OpenFile", "ExitType", "RestrictFileSystems", "StartupAllowedCPUs", "MemoryZSwapMax",
    "PollLimitIntervalSec", "DeferReactivation", "PrivatePIDs", "ProtectHostnameEx",
}  # fmt: skip

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def settings(name: str) -> list[tuple[str, str]]:
    """Key and value of every line."""
    lines = (FOLDER / name).read_text().splitlines()
    return [
        (key, value)
        for key, sign, value in (line.partition("=") for line in lines if line[:1] not in "#[")
        if sign
    ]


def one(name: str, key: str) -> str:
    """The value of a key that stands once."""
    (value,) = [v for k, v in settings(name) if k == key]
    return value


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Copies whose programs are here, for what is checked is the rest."""
    for name in OURS:
        text = (FOLDER / name).read_text()
        assert text.count("/usr/bin/edge-agent ") == name.endswith(".service")
        (tmp_path / name).write_text(
            text.replace("/usr/bin/edge-agent", shutil.which("true") or "")
        )
    return tmp_path


def judged(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *command], capture_output=True, text=True, timeout=60, check=False
    )


def complaints(folder: Path) -> str:
    """What systemd says of our files; it ends with 0 whatever it finds."""
    done = judged("verify", *(str(folder / name) for name in OURS))
    return "\n".join(line for line in done.stderr.splitlines() if "edge-agent" in line)


@analyze
def test_systemd_understands_every_line(units: Path) -> None:
    assert complaints(units) == ""
    (units / UNIT).write_text((units / UNIT).read_text().replace("UMask=", "UMusk="))
    assert "UMusk" in complaints(units), "a slip would be seen"


@analyze
def test_systemd_understands_what_each_board_adds(units: Path) -> None:
    folder = units / f"{UNIT}.d"
    folder.mkdir()
    for board in profile_names():
        text = drop_in(load_profile(board), ("video", "render"))
        (folder / f"{board}.conf").write_text(text)
    assert complaints(units) == ""
    (folder / "slip.conf").write_text("[Service]\nDeviceAlow=char-drm\n")
    assert "DeviceAlow" in complaints(units), "drop-ins are read"


@analyze
@pytest.mark.parametrize("name", [name for name in OURS if name.endswith(".service")])
def test_the_exposure_is_low(units: Path, name: str) -> None:
    threshold = f"--threshold={EXPOSURE * 10:.0f}"
    done = judged("security", "--offline=yes", threshold, "--no-pager", str(units / name))
    assert done.returncode == 0, done.stdout
    (found,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert float(found) <= EXPOSURE


@pytest.mark.parametrize("name", OURS)
def test_no_line_needs_a_newer_systemd_than_the_oldest_board_has(name: str) -> None:
    assert not {key for key, _ in settings(name)} & NEWER
    assert not any("%d" in value for _, value in settings(name)), "known from 250 on"


def test_every_file_that_may_be_missing_has_something_to_fall_back_to() -> None:
    loaded = dict(value.split(":", 1) for k, value in settings(UNIT) if k == "LoadCredential")
    spare = dict(value.split(":", 1) for k, value in settings(UNIT) if k == "SetCredential")
    assert all(path == f"/etc/edge-agent/{name}" for name, path in loaded.items())
    assert set(loaded) - set(spare) == {"agent.toml"}, "which is the unit's condition"
    assert {"root.json", "ca.pem", "device.pem", "device.key"} <= set(spare)
    assert all(spare.values()), "systemd ignores an empty one, and then misses the file"


def test_a_board_that_is_not_enrolled_has_quiet_units() -> None:
    for name in OURS:
        assert one(name, "ConditionPathExists") == "/etc/edge-agent/agent.toml"


def test_it_never_gives_up() -> None:
    assert one(UNIT, "StartLimitIntervalSec") == "0"
    assert one(UNIT, "Restart") == "always"
    assert float(one(UNIT, "RestartSec")) >= 1
    assert not [v for k, v in settings(UNIT) if k in ("Requires", "BindsTo", "Requisite")]


def test_an_ordinary_end_fits_into_the_units_time() -> None:
    assert float(one(UNIT, "TimeoutStopSec")) >= WorkerConfig().drain_s + STOP_SLACK_S


def test_numbers_that_stand_twice_agree() -> None:
    assert one(UNIT, "MemoryMax") == f"{SHARE:.0%}"
    assert one(UNIT, "FileDescriptorStoreMax") == str(MAX_ORPHANS)


def test_the_wait_for_time_is_a_command_of_ours_and_bounded() -> None:
    clock = "edge-agent-clock.service"
    command = one(clock, "ExecStart")
    assert command.startswith("-/usr/bin/edge-agent "), "its failure is no failure"
    verb, option, seconds = command.split()[1:]
    with pytest.raises(SystemExit) as ended:
        main([verb, option, seconds, "--help"])
    assert ended.value.code == 0
    assert float(seconds) < float(one(clock, "TimeoutStartSec")) <= 90
    assert one(clock, "RemainAfterExit") == "yes", "once a boot"
    after = " ".join(v for k, v in settings(UNIT) if k == "After").split()
    assert clock in after
    assert "network-online.target" not in after, "which may take minutes"
