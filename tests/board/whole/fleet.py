"""The fleet of one board: its home, mosquitto with its certificates, and what the board reports.

All of it by `edge-fleet` as an operator types it; only what the board says is heard on a connection
of this process, so that a power cut can follow it at once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.errors import DeviceError
from edge_runtime.fields import Json
from edge_runtime.fleet.home import Home
from edge_runtime.link import BrokerConfig, Message
from edge_runtime.link.mqtt import connector
from edge_runtime.messages.fleet import InferRequest, InferResult, Reported, to_bytes
from edge_runtime.messages.topics import Topics
from tests.board.image import ROOT
from tests.board.whole.bundles import LIKE, PROFILE
from tests.fakes.brokers import free_port, written

HOST = "10.0.2.2"
"""This machine, as the board sees it."""
HERE = "127.0.0.1"
DEVICE = "board-1"
PASSPHRASE = "long enough for a fleet of one board"
ASK_AGAIN_S = 5.0
LATENCY_MS = 600_000.0
RAM_BYTES = 700_000_000
SLOW = """
# An emulator's speed says nothing of a bundle.
[worker]
start_timeout_s = 1500.0
prove_timeout_s = 1200.0
hang_s = 300.0
[update]
test_timeout_s = 2400.0
trial_s = 20.0
trial_slowdown = 1000.0
"""


class Fleet:
    """See `fleet`. `reported` is the board's last report, `online` what its will or itself says."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.topics = Topics()
        self.reported: Reported | None = None
        self.online = False
        self.events: list[Json] = []
        self.heard: list[tuple[float, Reported]] = []
        self._answered = False
        self._again_s = 0.0
        self._questions = 0

    @property
    def home(self) -> Path:
        return self.folder / "fleet"

    @property
    def identity(self) -> Path:
        """What `enroll` wrote for the board."""
        return self.home / "devices" / DEVICE

    def call(self, *arguments: str | Path) -> Json:
        """`edge-fleet` with these words and --json; what it answers.

        Raises:
            DeviceError: it fails; with the end of what it said.
        """
        command = [sys.executable, "-m", "edge_runtime.fleet.cli", *map(str, arguments), "--json"]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False,
            env=_environment(self.home),
        )  # fmt: skip
        if done.returncode:
            said = " ".join(f"{done.stderr} {done.stdout}".split())[-800:]
            raise DeviceError(f"edge-fleet {arguments[0]}: exit code {done.returncode} ({said})")
        found: Json = json.loads(done.stdout)
        return found

    def online_call(self, *arguments: str | Path) -> Json:
        """The same, of a verb that talks to the broker: here it is on loopback."""
        home = Home(self.home)
        return self.call(
            *arguments, "--broker", f"mqtts://{HERE}:{self.port}", "--timeout", "60",
            "--ca", home.operator_ca, "--cert", home.operator_certificate,
            "--key", home.operator_key,
        )  # fmt: skip

    def found(self) -> None:
        """The home, the broker's configuration, and the board's identity."""
        self.call("init", "--broker", f"mqtts://{HOST}:{self.port}")
        self.call("broker", "--host", HERE, "--autosave", "5")
        profile = self.folder / f"{PROFILE}.toml"
        profile.write_text(board_profile())
        self.call("enroll", DEVICE, "--profile", profile)
        config = self.identity / "agent.toml"
        config.write_text(patient(config.read_text()))

    def listen(self) -> None:
        """Hear what the board says from now on."""
        home = Home(self.home)
        config = BrokerConfig.parse(
            f"mqtts://{HERE}:{self.port}",
            ca_file=home.operator_ca,
            cert_file=home.operator_certificate,
            key_file=home.operator_key,
        )
        self._link = connector(config)("whole-board", self._on_message)
        kinds = ("reported", "online", "event", "infer/+/result")
        self._link.subscribe([self.topics.device(DEVICE, kind) for kind in kinds])
        self._link.start()
        self._link.wait_connected(30)

    def _on_message(self, message: Message) -> None:
        found = self.topics.device_of(message.topic)
        match found and found[1]:
            case "reported":
                self.reported = Reported.from_bytes(message.payload)
                self.heard.append((time.monotonic(), self.reported))
            case "online":
                self.online = bool(json.loads(message.payload)["online"])
            case "event":
                self.events.append(json.loads(message.payload))
            case str(what) if what.startswith("infer/"):
                self._answered = bool(InferResult.from_bytes(message.payload).results)

    def asked(self, text: str) -> bool:
        """Whether the board has answered since it was last switched on; asks where it has not."""
        if not self._answered and time.monotonic() >= self._again_s:
            self._again_s = time.monotonic() + ASK_AGAIN_S
            self._questions += 1
            topic = self.topics.infer(DEVICE, f"question-{self._questions}")
            self._link.publish(topic, to_bytes(InferRequest((text,))))
        return self._answered

    def listen_anew(self) -> None:
        """Forget what the board said before it was switched off."""
        self.reported = None
        self.online = self._answered = False
        self.heard.clear()

    def close(self) -> None:
        self._link.close()


@contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """A founded fleet with its broker on a free port of this host. `folder` is open to others."""
    made = Fleet(folder, free_port())
    made.found()
    with written(made.home / "broker", made.port):
        made.listen()
        try:
            yield made
        finally:
            made.close()


def _environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "EDGE_FLEET_HOME": str(home),
        "EDGE_FLEET_PASSPHRASE": PASSPHRASE,
        "COLUMNS": "200",
    }


def board_profile() -> str:
    """A Raspberry Pi 5's, but for its name and what a bundle may cost."""
    text = (ROOT / "device_profiles" / f"{LIKE}.toml").read_text()
    text = text.replace(f'name = "{LIKE}"', f'name = "{PROFILE}"', 1)
    text = re.sub(r"(?m)^latency_ms = .*$", f"latency_ms = {LATENCY_MS}", text)
    before, _, budget = text.partition("[budget]")
    budget = re.sub(r"(?m)^ram_bytes = .*$", f"ram_bytes = {RAM_BYTES}", budget, count=1)
    return f"{before}[budget]{budget}"


def patient(config: str) -> str:
    """`agent.toml` as enrolled, with an emulator's patience."""
    return config.replace("# interval_s = 10.0", "interval_s = 5.0") + SLOW
