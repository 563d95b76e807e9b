"""Real brokers for tests, each on a free port of loopback, ended with the test.

    with mosquitto() as broker:
        config = BrokerConfig.parse(broker.url)

A test without the program or package is skipped; CI installs both.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
START_S = 20.0


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class BrokerProcess:
    """A broker that can be stopped, killed and started again on the same port."""

    def __init__(self, command: Sequence[str], port: int, log: Path, *, mqtt5: bool) -> None:
        self.port = port
        self.log = log
        self.mqtt5 = mqtt5
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `BrokerConfig.parse`."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(self._command, stdout=out, stderr=out, cwd=ROOT)
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"broker did not start: {self.log.read_text(errors='replace')}")

    def reload(self) -> None:
        """SIGHUP: it reads certificates, revocation list and rights anew, soon."""
        os.kill(self.pid, signal.SIGHUP)

    def stop(self) -> None:
        """Ask it to end, and wait."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)

    def restart(self) -> None:
        """Stop and start on the same port; retained messages are gone."""
        self.stop()
        self.start()


@contextmanager
def mosquitto(lines: Sequence[str] = ()) -> Iterator[BrokerProcess]:
    """Mosquitto with its defaults, plus `lines` of configuration."""
    program = _mosquitto()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="edge-mosquitto-") as folder:
        config = Path(folder, "mosquitto.conf")
        settings = [f"listener {port} 127.0.0.1", "allow_anonymous true", "user root", *lines]
        config.write_text("\n".join(settings) + "\n")
        command = [program, "-c", str(config)]
        yield from _running(BrokerProcess(command, port, Path(folder, "log"), mqtt5=True))


@contextmanager
def written(folder: Path, port: int) -> Iterator[BrokerProcess]:
    """Mosquitto on the very files that `edge-fleet broker` wrote into `folder`, for `port`.

    Root's mosquitto becomes the user who wrote them, who must be able to come there
    (`served_folder` makes a folder that is open).
    """
    command = [_mosquitto(), "-c", str(folder / "mosquitto.conf")]
    with tempfile.TemporaryDirectory(prefix="edge-mosquitto-") as logs:
        yield from _running(BrokerProcess(command, port, Path(logs, "log"), mqtt5=True))


@contextmanager
def served_folder() -> Iterator[Path]:
    """A folder that other users may pass through; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="edge-served-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def _mosquitto() -> str:
    program = shutil.which("mosquitto") or shutil.which(
        "mosquitto", path="/usr/sbin:/usr/local/sbin"
    )
    if program is None:
        pytest.skip("mosquitto is not installed")
    return program


@contextmanager
def embedded() -> Iterator[BrokerProcess]:
    """The demo's own broker: pure Python, MQTT 3.1.1 only."""
    if importlib.util.find_spec("amqtt") is None:
        pytest.skip("amqtt is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="edge-embedded-") as folder:
        command = [sys.executable, "-m", "examples.demo.broker", "--port", str(port)]
        yield from _running(BrokerProcess(command, port, Path(folder, "log"), mqtt5=False))


def _running(broker: BrokerProcess) -> Iterator[BrokerProcess]:
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
