"""A board below a folder, with everything but systemd: launcher, agent, helper, two versions.

The agent and the helper are real processes of real trees. What systemd would do, `Manager` does:
it keeps the agent running and counts its crashes, and starts the helper when there is a request,
and at a start where something is under way.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.agent.upgrade.places import PREFIX_VARIABLE, Places
from edge_runtime.agent.upgrade.record import Record, load
from edge_runtime.fleet.home import Home
from tests.fakes import debs
from tests.fakes.agents import ROOT
from tests.fakes.brokers import free_port

INSTALLED = "0.1.0"
LAUNCHER = """\
import importlib.util, os, sys
factory, releases = sys.argv[1:3]
path = factory + "/edge_runtime/agent/upgrade/choice.py"
spec = importlib.util.spec_from_file_location("choice", path)
choice = importlib.util.module_from_spec(spec)
spec.loader.exec_module(choice)
tree = choice.tree(factory, releases, os.getuid())
os.environ["PYTHONPATH"] = tree
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
arguments = ["-s", "-m", "edge_runtime.agent.cli", *sys.argv[3:]]
os.chdir("/")
os.execv(sys.executable, [sys.executable, *arguments])
"""
SYSTEMCTL = """\
#!/bin/sh
cd "$(dirname "$0")"
case "$1" in
    restart) touch restart ;;
    show) cat crashes 2>/dev/null || echo 0 ;;
esac
"""


def software(version: str, changed: Mapping[str, str] = {}) -> dict[str, bytes]:
    """Our own software as a package holds it, of that version; `changed` is added to files."""
    files = {}
    for package in ("edge_runtime", "device_profiles"):
        for path in sorted((ROOT / package).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                name = str(path.relative_to(ROOT))
                files[name] = path.read_bytes() + changed.get(name, "").encode()
    info = f"edge_runtime-{version}.dist-info/METADATA"
    files[info] = f"Metadata-Version: 2.1\nName: edge-runtime\nVersion: {version}\n".encode()
    return files


def package(folder: Path, version: str, changed: Mapping[str, str] = {}) -> Path:
    """The package of such a software."""
    path = folder / f"edge-agent_{version}+{debs.SUITE}_{debs.ARCH}.deb"
    path.write_bytes(debs.deb(debs.tree(software(version, changed)), debs.control(version)))
    return path


class Manager(threading.Thread):
    """What systemd does for the agent and the helper of one board, until `off`."""

    def __init__(self, board: UpdatableBoard) -> None:
        super().__init__(daemon=True)
        self.agent: subprocess.Popen[bytes] | None = None
        self.helper: subprocess.Popen[bytes] | None = None
        self._board = board
        self._crashes = 0
        self._ended = threading.Event()

    def run(self) -> None:
        b = self._board
        crashes, restart = b.run_folder / "crashes", b.run_folder / "restart"
        crashes.unlink(missing_ok=True)
        restart.unlink(missing_ok=True)
        at_boot = b.places.open.exists()
        while not self._ended.is_set():
            if restart.exists():
                restart.unlink()
                self._crashes = 0
                crashes.write_text("0")
                self._stop_agent()
            elif self.agent is not None and self.agent.poll() is not None:
                self._crashes += 1
                crashes.write_text(str(self._crashes))
                self.agent = None
                time.sleep(0.3)
            if self.agent is None:
                self.agent = b.start_agent()
            idle = self.helper is None or self.helper.poll() is not None
            if idle and (at_boot or (b.places.state / "upgrade/request.json").exists()):
                at_boot = False
                self.helper = b.start_helper()
            time.sleep(0.05)

    def _stop_agent(self) -> None:
        if self.agent is not None and self.agent.poll() is None:
            self.agent.terminate()
            try:
                self.agent.wait(30)
            except subprocess.TimeoutExpired:
                self.agent.kill()
                self.agent.wait()
        self.agent = None

    def power_off(self) -> None:
        """At once: nothing gets to finish anything."""
        self._ended.set()
        self.join()
        for process in (self.helper, self.agent):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def shut_down(self) -> None:
        """In order."""
        self._ended.set()
        self.join()
        self._stop_agent()
        if self.helper is not None and self.helper.poll() is None:
            self.helper.terminate()
            self.helper.wait()


class UpdatableBoard:
    """Below `prefix`, set up for the fleet `home` on the broker at `url`."""

    def __init__(self, prefix: Path, home: Home, url: str, device: str, bounds: list[str]) -> None:
        self.places = Places.under(prefix)
        self.log_path = prefix / "log"
        self.run_folder = prefix / "run"
        self.port = free_port()
        self._prefix = prefix
        self._bounds = bounds
        self._manager: Manager | None = None
        for name, data in software(INSTALLED).items():
            path = self.places.factory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.places.state.mkdir(parents=True)
        self.run_folder.mkdir()
        self._write("run/launcher.py", LAUNCHER)
        self._write("run/systemctl", SYSTEMCTL).chmod(0o755)
        self.places.root.parent.mkdir(parents=True)
        shutil.copy(home.metadata / "1.root.json", self.places.root)
        self._write(
            "etc/edge-agent/agent.toml",
            f'device_id = "{device}"\nprofile = "generic-x86_64"\n'
            f'state_dir = "{self.places.state}"\ntrust = "tuf"\nroot = "root.json"\n'
            f'[broker]\nurl = "{url}"\n[api]\nport = {self.port}\n'
            "[update]\ntrial_s = 0.5\nwait_s = 0.5\nwait_max_s = 1.0\ntrust_tries = 2\n",
        )

    def _write(self, name: str, text: str) -> Path:
        path = self._prefix / name
        path.write_text(text)
        return path

    def start_agent(self) -> subprocess.Popen[bytes]:
        """As the unit's ExecStart."""
        p = self.places
        command = [sys.executable, "-I", str(self.run_folder / "launcher.py"), str(p.factory)]
        command += [str(p.releases), "run", "--config", str(p.root.parent / "agent.toml")]
        return self._start(command, {PREFIX_VARIABLE: str(self._prefix)})

    def start_helper(self) -> subprocess.Popen[bytes]:
        """As its unit's ExecStart."""
        command = [sys.executable, "-s", "-m", "edge_runtime.agent.upgrade"]
        command += ["--prefix", str(self._prefix), *self._bounds]
        command += ["--systemctl", str(self.run_folder / "systemctl")]
        return self._start(command, {"PYTHONPATH": str(self.places.factory)})

    def _start(self, command: list[str], more: Mapping[str, str]) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, cwd="/", env={**environment, **more}
            )

    def power_on(self) -> None:
        """Start everything that is started at boot."""
        self._manager = Manager(self)
        self._manager.start()

    def power_off(self) -> None:
        """Cut."""
        assert self._manager is not None
        self._manager.power_off()
        self._manager = None

    def kill_helper(self) -> None:
        """It gets to finish nothing; its unit starts it again."""
        assert self._manager is not None
        helper = self._manager.helper
        if helper is not None and helper.poll() is None:
            helper.send_signal(signal.SIGKILL)

    @property
    def record(self) -> Record:
        """The helper's."""
        return load(self.places.journal) or Record()

    @property
    def log(self) -> str:
        """Of all of them."""
        return self.log_path.read_text(errors="replace")

    def until(self, what: str, found: Callable[[], bool], timeout_s: float = 90.0) -> None:
        """Wait for it; what was logged is part of the failure."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if found():
                return
            time.sleep(0.05)
        raise AssertionError(f"{what}: not within {timeout_s:g} s\n{self.log[-8000:]}")

    def close(self) -> None:
        """In order, if it is on."""
        if self._manager is not None:
            self._manager.shut_down()
            self._manager = None


@contextmanager
def powered(board: UpdatableBoard) -> Iterator[UpdatableBoard]:
    """On, and off again with the test."""
    board.power_on()
    try:
        yield board
    finally:
        board.close()
