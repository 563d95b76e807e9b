"""The other side of a machine: a fleet home, real mosquitto with its configuration, `edge-fleet`.

Everything is made by the product's own commands, as an operator would. Bundles are the tiny
classifier, whose answers name the version that gave them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.fleet.home import Home
from tests.fakes.brokers import BrokerProcess, free_port, served_folder, written
from tests.fakes.bundles import noise
from tests.fakes.tiny import tiny_folder, variant_json
from tests.machine.network import Cable

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "edge_runtime.fleet.cli"]
DEVICE = "press-7"
PROFILE = "generic-x86_64"
MODEL = "tiny"
FIRST = "1.0.0"
"""The bundle that a device begins with."""
COMMAND_S = 180


class Fleet:
    """A fleet in `folder`, whose broker is reached over the host's end of a cable."""

    def __init__(self, folder: Path, cable: Cable) -> None:
        self.folder = folder
        self.home = folder / "fleet"
        self.port = free_port()
        self.broker: BrokerProcess
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("EDGE_FLEET_")},
            "PYTHONPATH": str(ROOT),
            "EDGE_FLEET_HOME": str(self.home),
            "EDGE_FLEET_PASSPHRASE": "correct horse battery",
        }
        self("init", "--broker", f"mqtts://{cable.host}:{self.port}")
        # The operator is on this host, where the cable's end comes and goes.
        self("broker", "--host", "127.0.0.1", "--out", str(folder / "broker"))
        # What a device begins with has one release, and the fleet will soon have more.
        self.first = folder / "first"
        self("sign", self.bundle(FIRST))
        shutil.copytree(self.home / "repository", self.first)
        home = Home(self.home)
        self._reach = [
            *("--broker", f"mqtts://127.0.0.1:{self.port}", "--ca", home.operator_ca),
            *("--cert", home.operator_certificate, "--key", home.operator_key),
        ]

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """What `edge-fleet` says.

        Raises:
            AssertionError: it ended with another exit code.
        """
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=COMMAND_S,
            cwd=self.folder, env=self._environment, check=False,
        )  # fmt: skip
        said = f"edge-fleet {arguments}: {done.returncode}\n{done.stderr}"
        assert done.returncode == code, said
        return done.stdout

    def ask_broker(self, *arguments: object, code: int = 0) -> Any:
        """What a command that goes to the broker says to machines."""
        return json.loads(self(*arguments, *self._reach, "--json", code=code))

    def bundle(self, version: str, own_bytes: int = 200_000) -> Path:
        """A new bundle as a folder, with so many bytes that no other version shares."""
        return tiny_folder(
            self.folder / "bundles" / version,
            [
                variant_json("ort-float", "model.onnx"),
                variant_json("litert-int8", "model.tflite"),
            ],
            {"own.bin": noise(own_bytes, sum(version.encode()))},
            version=version,
            name=MODEL,
        )

    def identity(self, folder: Path, device: str = DEVICE, *, first: bool = True) -> Path:
        """A folder for `edge-agent setup`: enrolled, and with a first bundle."""
        self("enroll", device, "--profile", PROFILE, "--out", folder)
        if first:
            shutil.copytree(self.first, folder / "repository")
        return folder

    def publish(self, version: str, own_bytes: int = 200_000) -> None:
        """Make, sign and publish a bundle."""
        self.ask_broker("publish", self.bundle(version, own_bytes))

    def deploy(self, version: str, *options: object, device: str = DEVICE, code: int = 0) -> Any:
        """Say that the device should run it; what became of that."""
        command = ["deploy", f"{MODEL}=={version}", "--device", device, *options]
        (made,) = self.ask_broker(*command, code=code)["devices"]
        return made

    def status(self, device: str = DEVICE) -> Any:
        """What is known of a device; None where it was never heard of."""
        found = [d for d in self.ask_broker("status")["devices"] if d["device"] == device]
        return found[0] if found else None


@contextlib.contextmanager
def fleet(cable: Cable) -> Iterator[Fleet]:
    """A fleet with its broker running, gone with the test."""
    with served_folder() as folder:
        made = Fleet(folder, cable)
        with written(folder / "broker", made.port) as made.broker:
            yield made
