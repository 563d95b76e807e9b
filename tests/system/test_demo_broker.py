"""The demo's broker starts where it is told, says so, and ends when it is told."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "examples.demo.broker"]

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(importlib.util.find_spec("amqtt") is None, reason="amqtt is not installed"),
]


def test_port_is_printed_and_sigterm_ends_it_quietly() -> None:
    process = subprocess.Popen(
        [*COMMAND, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    host, _, port = process.stdout.readline().strip().rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
        assert client.recv(4) == b"\x20\x02\x00\x00"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_taken_port_is_one_clear_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "--port", str(port)],
            capture_output=True, text=True, cwd=ROOT, timeout=30, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"broker: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize("port", ["-1", "99999"])
def test_port_that_is_none_is_one_clear_sentence(port: str) -> None:
    done = subprocess.run(
        [*COMMAND, "--port", port],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("broker: cannot listen")
    assert done.stderr.count("\n") == 1
