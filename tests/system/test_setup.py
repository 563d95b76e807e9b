"""From a token to a device that the broker lets in: real server, real mosquitto, real agent.

The board's side runs as its own process, below a folder; the service under a real systemd is
test_service….py's matter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from edge_runtime.fleet.cli import main
from edge_runtime.fleet.mosquitto import write
from tests.fakes.brokers import free_port, served_folder, written
from tests.fakes.homes import make_home

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
PASSPHRASE = "correct horse battery"


@contextmanager
def process(module: str, *words: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, **more},
    )
    try:
        yield running
    finally:
        running.terminate()
        running.wait(30)


def test_a_token_leads_to_a_device_that_is_connected_by_its_own_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_FLEET_BROKER", raising=False)
    monkeypatch.setenv("EDGE_FLEET_PASSPHRASE", PASSPHRASE)
    broker_port, port, api = free_port(), free_port(), free_port()
    url = f"mqtts://127.0.0.1:{broker_port}"
    with served_folder() as folder:
        home = make_home(folder / "fleet", broker=url, passphrase=PASSPHRASE, now=None)
        where = ["--home", str(home.folder), "--json"]
        broker = write(home, out=folder / "broker", passphrase=PASSPHRASE).folder
        words = ["enroll-server", "--listen", f"127.0.0.1:{port}", *where]
        with (
            written(broker, broker_port),
            process("edge_runtime.fleet.cli", *words) as server,
        ):
            assert server.stdout is not None
            assert json.loads(server.stdout.readline())["port"] == port
            assert main(["token", "press-7", "--profile", "generic-x86_64", *where]) == 0
            token = json.loads(capsys.readouterr().out)["token"]

            board = tmp_path / "board"
            done = subprocess.run(
                [sys.executable, "-m", "edge_runtime.agent.cli", "setup", "--token", "-",
                 "--no-start", "--root", str(board), "--json"],
                input=token, capture_output=True, text=True, cwd=ROOT, timeout=WAIT_S, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["device"] == "press-7"
            told = json.loads(server.stdout.readline())
            assert (told["device"], told["enrolled"], told["again"]) == ("press-7", True, False)

            config = str(board / "etc/edge-agent/agent.toml")
            with process(
                "edge_runtime.agent.cli", "run", "--config", config,
                EDGE_AGENT_STATE_DIR=str(tmp_path / "state"), EDGE_AGENT_API_PORT=str(api),
            ):  # fmt: skip
                assert connected(home.folder, capsys)
                with urllib.request.urlopen(f"http://127.0.0.1:{api}/v2/health/live") as answer:
                    assert answer.status == 200


def connected(home: Path, capsys: pytest.CaptureFixture[str]) -> bool:
    """Whether the broker has heard from the device, as the operator sees it."""
    end_s = time.monotonic() + WAIT_S
    while time.monotonic() < end_s:
        with suppress(ValueError):
            main(["status", "--device", "press-7", "--home", str(home), "--json"])
            (row,) = json.loads(capsys.readouterr().out)["devices"]
            if row["online"] and row["reported"]["trust"] == "tuf":
                return True
        time.sleep(0.2)
    return False
