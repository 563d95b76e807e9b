"""A restart under systemd, as clients see it: none. systemd's part is played by the test: it holds
the API's socket and, between two agents, what the first left there (see `notify`).

The same with systemd itself is in `test_service*.py`, where a container can be booted.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.agent.notify import CLIENT
from tests.fakes.agents import ROOT, texts_request, wait_for
from tests.fakes.tiny import tiny_folder, variant_json

CONFIG = """\
device_id = "device-1"
profile = "generic-x86_64"
trust = "none"
state_dir = "state"
first_bundle = "bundle"
"""
# As systemd starts a service: descriptors from 3 on, and whose they are, by its process id.
START = """
import os, sys
held = [int(word) for word in sys.argv[1].split(",")]
parked = [os.dup(descriptor) for descriptor in held]  # 3 may be one of them
parked = [os.dup2(d, 100 + at) for at, d in enumerate(parked)]
for at, descriptor in enumerate(parked):
    os.dup2(descriptor, 3 + at)
    os.set_inheritable(3 + at, True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "edge_runtime.agent.cli", *sys.argv[2:]])
"""


class Systemd:
    """What of it the agent sees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.api = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.api.getsockname()[1]
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(folder / "notify"))
        self.notify.settimeout(0.05)
        self.kept: list[int] = []
        self.said: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        self._ear = threading.Thread(target=self._listen, daemon=True)
        self._ear.start()

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                data, descriptors, _, _ = socket.recv_fds(self.notify, 4096, 4)
            except TimeoutError:
                continue
            text = data.decode()
            if text.startswith("FDSTORE=1"):
                self.kept += descriptors
            if text.startswith("FDSTOREREMOVE=1"):
                self.forget()
            self.said.append(text)

    def forget(self) -> None:
        for descriptor in self.kept:
            os.close(descriptor)
        self.kept.clear()

    def status(self) -> str:
        lines = [text.removeprefix("STATUS=") for text in self.said if text.startswith("STATUS=")]
        return lines[-1] if lines else ""

    def start(self) -> None:
        """And wait until it says that it is ready."""
        self.said.clear()
        held = [self.api.fileno(), *self.kept]
        with (self.folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, ",".join(map(str, held)),
                 "run", "--config", str(self.folder / "agent.toml")],
                cwd=ROOT,
                stderr=log,
                pass_fds=held,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "NOTIFY_SOCKET": str(self.folder / "notify"),
                    "LISTEN_FDS": str(len(held)),
                    "LISTEN_FDNAMES": ":".join(["edge-agent.socket", *(CLIENT for _ in self.kept)]),
                },
            )  # fmt: skip
        wait_for("ready", lambda: "READY=1" in self.said)

    def stop(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, (self.folder / "agent.log").read_text()

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._over.set()
        self._ear.join()
        self.forget()
        self.notify.close()
        self.api.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    tiny_folder(tmp_path / "bundle", [variant_json("ort-float", "model.onnx")])
    (tmp_path / "agent.toml").write_text(CONFIG)
    made = Systemd(tmp_path)
    yield made
    made.close()


def ask(client: http.client.HTTPConnection) -> tuple[int, Any]:
    body = json.dumps(texts_request("mail server"))
    client.request("POST", "/v2/models/tiny/infer", body)
    response = client.getresponse()
    return response.status, json.loads(response.read())


def client_of(systemd: Systemd) -> http.client.HTTPConnection:
    made = http.client.HTTPConnection("127.0.0.1", systemd.port, timeout=60)
    made.connect()
    return made


def test_a_restart_ends_no_connection_and_refuses_nobody(systemd: Systemd) -> None:
    systemd.start()
    wait_for("it serves", lambda: "serves" in systemd.status())
    open_before = client_of(systemd)
    kept_socket = open_before.sock
    assert ask(open_before)[0] == 200

    systemd.stop()
    assert len(systemd.kept) == 1, "the idle connection was left with systemd"
    came_meanwhile = client_of(systemd)
    systemd.start()
    assert not systemd.kept, "and taken back from it"

    status, answer = ask(came_meanwhile)
    assert status == 200, f"not 503, for the bundle was about to serve: {answer}"
    assert ask(open_before)[0] == 200
    assert open_before.sock is kept_socket, "the client has not connected again"
    for client in (open_before, came_meanwhile):
        client.close()


def test_who_has_a_connection_and_finds_no_bundle_is_told_so(systemd: Systemd) -> None:
    systemd.start()
    wait_for("it serves", lambda: "serves" in systemd.status())
    client = client_of(systemd)
    assert ask(client)[0] == 200
    systemd.stop()
    (systemd.folder / "state").rename(systemd.folder / "state.old")
    config = CONFIG.replace("first_bundle = ", "# ") + '[broker]\nurl = "mqtt://127.0.0.1:1"\n'
    (systemd.folder / "agent.toml").write_text(config)
    systemd.start()
    assert ask(client) == (503, {"error": "no bundle serves on this device now"})
    wait_for("its status", lambda: systemd.status().startswith("no bundle yet"))
    client.close()


def test_a_large_first_bundle_asks_for_time_before_it_is_ready(systemd: Systemd) -> None:
    systemd.start()
    first = systemd.said.index("READY=1")
    assert any(text.startswith("EXTEND_TIMEOUT_USEC=") for text in systemd.said[:first])
    systemd.stop()
    wait_for("its end", lambda: any(text.startswith("STOPPING=1\nEXTEND") for text in systemd.said))
