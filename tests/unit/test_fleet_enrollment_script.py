"""The script that a board pipes into its shell, run by dash: with the real server and real curl.

What belongs to the board's distribution (dpkg, apt-get) is stood in for by programs that note how
they were called; tests/system has a whole board.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import debs
from tests.fakes.enrolling import Enrolling, enrolling
from tests.fakes.homes import make_home

SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)] or ["sh"]
DEB12, JAMMY = "edge-agent_0.2.0+deb12_arm64.deb", "edge-agent_0.2.0+jammy_arm64.deb"
BOOKWORM = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian 12"\n'
STUBS = {
    "id": "echo ${EDGE_UID:-0}",
    "dpkg": 'case "$1" in --print-architecture) echo ${EDGE_ARCH:-arm64};; '
    '--compare-versions) [ "$2" = "$4" ];; *) exit 1;; esac',
    "dpkg-query": '[ -n "${EDGE_HAS:-}" ] && echo "installed $EDGE_HAS"',
    "dpkg-deb": "echo 'python3 (>= 3.11), python3 (<< 3.12)'",
    "apt-get": 'echo "apt-get $*" >> "$EDGE_LOG"; for last; do :; done; '
    'cp "$last" "$EDGE_LOG.deb"; exit ${EDGE_APT:-0}',
    "edge-agent": 'echo "edge-agent $*" >> "$EDGE_LOG"; cat >> "$EDGE_LOG"; exit ${EDGE_AGENT:-0}',
}


@dataclass
class Board:
    """A machine as the script sees it."""

    served: Enrolling
    folder: Path
    shell: str = SHELLS[0]

    def __post_init__(self) -> None:
        (self.folder / "bin").mkdir(parents=True)
        (self.folder / "root/etc").mkdir(parents=True)
        (self.folder / "root/run/systemd/system").mkdir(parents=True)
        self.release(BOOKWORM)
        for name, text in STUBS.items():
            path = self.folder / "bin" / name
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)

    def release(self, text: str) -> None:
        (self.folder / "root/etc/os-release").write_text(text)

    def script(self) -> str:
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        words = ["curl", "-fsS", "-k", "--noproxy", "*", "--pinnedpubkey"]
        words += [self.served.place.curl_pin, f"{self.served.url}/v1/setup.sh"]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout

    def run(
        self, script: str | None = None, *words: str, **more: str
    ) -> tuple[int, str, list[str]]:
        """(exit code, stderr, what was called), of the script on the shell's stdin, as pasted."""
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        shell = [self.shell, "sh"] if self.shell == "busybox" else [self.shell]
        done = subprocess.run(
            [*shell, "-s", "--", *(words or ("edge1_TOKEN",))],
            input=script if script is not None else self.script(),
            capture_output=True,
            text=True,
            timeout=60,
            env={
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "EDGE_SETUP_ROOT": str(self.folder / "root"),
                "EDGE_LOG": str(log),
                "NO_PROXY": "*",
                **more,
            },
            check=False,
        )
        assert done.stdout == ""
        return done.returncode, done.stderr, log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    dist = tmp_path / "dist"
    dist.mkdir()
    for name in (DEB12, JAMMY):
        (dist / name).write_bytes(debs.named(name))
    with enrolling(make_home(tmp_path / "fleet", now=None), packages=dist) as served:
        yield Board(served, tmp_path / "board")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_board_with_nothing_gets_the_package_for_it_and_hands_over_the_token(
    board: Board, shell: str
) -> None:
    board.shell = shell
    code, err, called = board.run(None, "edge1_TOKEN", "--force")
    assert code == 0, err
    assert called[0].startswith("apt-get install -y -qq ")
    assert called[0].endswith(f"/{DEB12}")
    assert called[1:] == ["edge-agent setup --token - --force", "edge1_TOKEN"]
    assert Path(f"{board.folder / 'log'}.deb").read_bytes() == debs.named(DEB12)
    assert "edge1_TOKEN" not in err
    assert not Path(called[0].split()[-1]).parent.exists(), "nothing is left behind"


def test_a_board_that_has_the_package_fetches_none(board: Board) -> None:
    code, err, called = board.run(EDGE_HAS="0.2.0+deb12")
    assert (code, called) == (0, ["edge-agent setup --token -", "edge1_TOKEN"])
    assert "edge-agent 0.2.0+deb12 is installed" in err
    assert board.run(EDGE_HAS="0.1.0+deb12")[2][0].startswith("apt-get install")


@pytest.mark.parametrize(
    ("release", "file"),
    [
        ('ID=debian\nVERSION_ID="12"\n', DEB12),
        ("ID=raspbian\nVERSION_CODENAME=bookworm\n", DEB12),
        ('ID=ubuntu\nVERSION_ID="22.04"\nVERSION_CODENAME=jammy\n', JAMMY),
        ("ID=linuxmint\nVERSION_CODENAME=vanessa\nUBUNTU_CODENAME=jammy\n", JAMMY),
    ],
)
def test_the_package_is_of_the_boards_own_distribution(
    board: Board, release: str, file: str
) -> None:
    board.release(release)
    code, err, called = board.run()
    assert code == 0, err
    assert called[0].endswith(f"/{file}")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"EDGE_UID": "1000"}, "needs root; end the line with: | sudo sh -s -- TOKEN"),
        ({"EDGE_ARCH": "armhf"}, "32-bit system (armhf), for which no engine is built"),
        ({"EDGE_ARCH": "riscv64"}, "packaged for arm64 and amd64"),
        ({"EDGE_ARCH": "amd64"}, "no package for deb12 amd64; it has: deb12 arm64, jammy arm64"),
        (
            {"EDGE_APT": "100"},
            "cannot be installed; it needs: python3 (>= 3.11), python3 (<< 3.12)",
        ),
        ({"EDGE_AGENT": "3"}, ""),
    ],
)
def test_what_cannot_be_is_one_clear_sentence(
    board: Board, more: dict[str, str], words: str
) -> None:
    code, err, called = board.run(**more)
    assert code == (3 if "EDGE_AGENT" in more else 1)
    assert words in err
    assert [c for c in called if c.startswith("edge-agent")] == ["edge-agent setup --token -"] * (
        "EDGE_AGENT" in more
    )


def test_another_distribution_and_no_systemd_are_refused(board: Board) -> None:
    board.release('ID=fedora\nVERSION_ID="42"\nPRETTY_NAME="Fedora Linux 42"\n')
    code, err, called = board.run()
    assert (code, called) == (1, [])
    assert "Fedora Linux 42: edge-agent is packaged for Debian 12 and 13" in err
    shutil.rmtree(board.folder / "root/run")
    assert "systemd does not run here" in board.run()[1]


def test_a_token_is_asked_for(board: Board) -> None:
    words = ["sh", "-s"]
    done = subprocess.run(words, input=board.script(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "expected a token" in done.stderr


def test_a_package_that_changed_on_the_way_is_refused(board: Board) -> None:
    script = board.script()
    packages = board.served.server.packages
    found = packages.find(DEB12)
    assert found is not None
    found.path.write_bytes(debs.named(DEB12, b"another"))
    code, err, called = board.run(script)
    assert (code, called) == (1, [])
    assert "arrived damaged" in err


def test_a_package_comes_from_the_server_with_the_pin_only(board: Board) -> None:
    pin = board.served.place.curl_pin
    code, err, called = board.run(board.script().replace(pin, f"{pin[:9]}AAAA{pin[13:]}"))
    assert (code, called) == (1, [])
    assert "public key does not match" in err


def test_a_script_that_was_cut_does_nothing(board: Board) -> None:
    script = board.script()
    for cut in range(0, len(script) - 8, 200):
        assert board.run(script[:cut])[2] == []


def test_without_packages_it_says_how_to_hand_them_out(tmp_path: Path) -> None:
    with enrolling(make_home(tmp_path / "fleet", now=None)) as served:
        code, err, called = Board(served, tmp_path / "board").run()
    assert (code, called) == (1, [])
    assert "edge-fleet enroll-server --packages DIR" in err


def test_the_script_is_plain_sh() -> None:
    source = Path(__file__).parents[2] / "edge_runtime/fleet/enrollment/setup.sh"
    for shell in SHELLS:
        words = [shell, "sh", "-n"] if shell == "busybox" else [shell, "-n"]
        assert subprocess.run([*words, str(source)], check=False).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", str(source)], capture_output=True, check=False)
        assert done.returncode == 0, done.stdout.decode()
