"""The script of the first boot, ended before or after each program that it starts.

The programs are stand-ins of the board's: a package manager and an agent that note what they were
asked, beside the real rm, find and sync.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import edge_runtime.fleet.flash

FOLDER = Path(edge_runtime.fleet.flash.__file__).parent
PROGRAMS = (
    "dpkg", "dpkg-deb", "dpkg-query", "edge-agent",
    "systemctl", "rm", "find", "sync", "grep", "cat",
)  # fmt: skip
OF_USERS = ("id", "getent", "useradd", "usermod", "install", "hostname")
STAND_IN = """#!/bin/sh
name=${0##*/}
count=$(/bin/cat "$STATE/count" 2>/dev/null || echo 0); count=$((count + 1))
echo "$count" >"$STATE/count"
[ "$count" -ne "${CUT:-0}" ] || [ "$AFTER" = yes ] || kill -9 0
( case $name in
    dpkg) case "$*" in *--install*)
        [ -e "$EDGE_SEED/edge-agent_1_arm64.deb" ] || exit 2
        echo installed >>"$STATE/log" ;;
        esac ;;
    edge-agent)
        grep -q installed "$STATE/log" && [ -e "$EDGE_SEED/identity/device.key" ] || exit 3
        echo "setup $*" >>"$STATE/log"
        echo '{"ready": '"${READY:-true}"'}'; exit 1 ;;
    dpkg-deb) echo 1 ;;
    dpkg-query) grep -q installed "$STATE/log" || exit 1; printf 'install ok installed 1' ;;
    systemctl) echo multi-user.target ;;
    # Of users and groups: a group is there as in every image, a user once it was added.
    id) grep -q "^useradd" "$STATE/log" || exit 1; echo 44 ;;
    getent)
        case "$*" in
            "group video") echo video:x:44: ;;
            "passwd "*) echo "$2:x:1000:44::$STATE/home:/bin/bash" ;;
            *) exit 2 ;;
        esac ;;
    useradd)
        [ "$USERADD" = works ] || exit 9
        case "$*" in *--gid*) ;; *video) exit 9 ;; esac
        echo "useradd $*" >>"$STATE/log" ;;
    usermod | install | hostname) echo "$name $*" >>"$STATE/log" ;;
    *) real=$(PATH=/usr/bin:/bin command -v "$name"); "$real" "$@" ;;
esac )
code=$?
[ "$count" -ne "${CUT:-0}" ] || kill -9 0
exit "$code"
"""


class Board:
    def __init__(self, folder: Path) -> None:
        self.seed, self.state, self.programs = (folder / n for n in ("seed", "state", "programs"))
        (self.seed / "identity" / "repository").mkdir(parents=True)
        (self.seed / "identity" / "device.key").write_text("secret")
        (self.seed / "edge-agent_1_arm64.deb").touch()
        shutil.copy(FOLDER / "firstboot.sh", self.seed)
        self.state.mkdir()
        self.programs.mkdir()
        (folder / "etc" / "sudoers.d").mkdir(parents=True)
        self.etc, self.useradd = folder / "etc", "works"
        for name in (*PROGRAMS, *OF_USERS):
            (self.programs / name).write_text(STAND_IN)
            (self.programs / name).chmod(0o755)

    def boot(self, cut: int = 0, *, after: bool = False, ready: bool = True) -> int:
        """As the unit does it: the script, or, where there is none any more, the rest of a seed."""
        script = self.seed / "firstboot.sh"
        if not script.exists():
            shutil.rmtree(self.seed, ignore_errors=True)
            return 0
        (self.state / "count").unlink(missing_ok=True)
        environment = {
            "PATH": f"{self.programs}:/usr/bin:/bin", "EDGE_SEED": str(self.seed),
            "STATE": str(self.state), "CUT": str(cut), "AFTER": "yes" if after else "no",
            "READY": "true" if ready else "false", "EDGE_ETC": str(self.etc),
            "USERADD": self.useradd,
        }  # fmt: skip
        done = subprocess.run(
            ["sh", script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            start_new_session=True,  # The cut is for the whole group.
        )
        self.said = done.stdout
        return done.returncode

    def expect(self, user: str) -> None:
        """What the seed says of host and user."""
        # A script that wrote elsewhere than it is told would rename the machine of these tests.
        assert not re.search(
            r"[ >\"]/etc/host|[ >\"]/etc/sudo", (self.seed / "firstboot.sh").read_text()
        )
        for name, text in {"hostname": "press-7", "user": user, "groups": "video sudo",
                           "authorized_keys": "key"}.items():  # fmt: skip
            (self.seed / name).write_text(f"{text}\n")

    @property
    def log(self) -> str:
        path = self.state / "log"
        return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_power_may_be_cut_at_any_point_of_the_first_boot(tmp_path: Path, after: bool) -> None:
    for cut in range(1, 100):
        board = Board(tmp_path / str(cut))
        first = board.boot(cut, after=after)
        if first != 0:
            for _ in range(3):
                if board.boot() == 0 and not board.seed.exists():
                    break
        assert not board.seed.exists(), f"cut {cut}: something is left"
        assert "setup setup" in board.log
        if first == 0:
            break
    assert cut > 8, "nothing was cut"


def test_the_seed_stays_until_the_agent_is_ready(tmp_path: Path) -> None:
    board = Board(tmp_path)
    assert board.boot(ready=False) == 1
    assert (board.seed / "identity" / "device.key").read_text() == "secret"
    assert board.boot() == 0
    assert not board.seed.exists()
    assert f"setup {board.seed}/identity --offline" in board.log
    assert board.log.count("installed") == 1, "a second time would start the agent anew"


def test_a_package_that_does_not_install_is_tried_again(tmp_path: Path) -> None:
    board = Board(tmp_path)
    package = board.seed / "edge-agent_1_arm64.deb"
    package.rename(tmp_path / "away")
    assert board.boot() != 0
    assert board.log == ""
    (tmp_path / "away").rename(package)
    assert board.boot() == 0


def test_a_user_called_as_a_group_of_the_image_gets_that_group(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.expect("video")
    assert board.boot() == 0
    assert "useradd --create-home --shell /bin/bash --gid 44 video" in board.log
    assert "user video may log in" in board.said
    assert (board.etc / "hostname").read_text() == "press-7\n"
    assert (board.etc / "sudoers.d" / "010_video-nopasswd").exists()
    assert "setup setup" in board.log


def test_a_user_who_cannot_be_added_does_not_keep_the_agent_from_coming(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.expect("ops")
    board.useradd = "fails"
    (board.etc / "hostname").mkdir()
    assert board.boot() == 0
    assert "TROUBLE: user ops could not be set up" in board.said
    assert "TROUBLE: the host name could not be set" in board.said
    assert "may log in with its key" not in board.said
    assert not list((board.etc / "sudoers.d").iterdir())
    assert "setup setup" in board.log
    assert not board.seed.exists()


def test_the_unit_waits_for_nothing_that_may_never_come() -> None:
    unit = (FOLDER / "edge-agent-firstboot.service").read_text()
    for word in ("After=", "Requires=", "Wants=", "network"):
        assert word not in unit.replace("no network", "")
    assert "StartLimitIntervalSec=0" in unit
    assert "Restart=on-failure" in unit
