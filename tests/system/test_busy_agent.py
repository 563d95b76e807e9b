"""An agent that is kept busy, by a slow disk or to its very end, still does everything else."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_runtime.messages.fleet import Release
from tests.fakes.agents import (
    DEVICE,
    ROOT,
    Agent,
    Operator,
    agent,
    operator,
    texts_request,
    wait_for,
)
from tests.fakes.brokers import mosquitto
from tests.fakes.bundles import noise
from tests.fakes.tiny import tiny_folder, variant_json

INFER = "/v2/models/tiny/infer"
SLOW_S = 0.03
LARGE_BYTES = 8 << 20
SLOW_DISK = f"""
import os, sys, time

fsync = os.fsync

def slow(descriptor):
    time.sleep({SLOW_S})
    fsync(descriptor)

os.fsync = slow

from edge_runtime.agent.cli import main

sys.exit(main(["run", "--json", "--config", sys.argv[1]]))
"""


class SlowAgent(Agent):
    """An agent whose every fsync takes a while, and who tells a service manager that it lives."""

    def __init__(self, folder: Path, settings: str, manager: Path) -> None:
        (folder / "agent.toml").write_text(settings)
        self.log_path = folder / "agent.log"
        environment = {"NOTIFY_SOCKET": str(manager), "WATCHDOG_USEC": "6000000"}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SLOW_DISK, str(folder / "agent.toml")],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)} | environment,
            )
        assert self.process.stdout is not None
        self.port = json.loads(self.process.stdout.readline())["port"]


class Manager(threading.Thread):
    """A service manager: when it was told that the agent lives."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.fed_s: list[float] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self.start()

    def run(self) -> None:
        while b"STOPPING=1" not in (said := self._sock.recv(4096)):
            if b"WATCHDOG=1" in said:
                self.fed_s.append(time.monotonic())
        self._sock.close()

    def longest_s(self, since_s: float) -> float:
        """Between two signs of life."""
        fed_s = [since_s, *(at_s for at_s in self.fed_s if at_s > since_s), time.monotonic()]
        return max(b - a for a, b in itertools.pairwise(fed_s))


@pytest.fixture
def broker() -> Iterator[str]:
    with mosquitto() as running:
        yield running.url


@pytest.fixture
def op(broker: str) -> Iterator[Operator]:
    with operator(broker) as running:
        yield running


def made(folder: Path, version: str, **files: bytes) -> Path:
    variants = [variant_json("ort-int8", "model-int8.onnx")]
    named = {f"{name}.bin": content for name, content in files.items()}
    return tiny_folder(folder / version, variants, named, version=version)


def settings(broker: str, folder: Path, first: Path) -> str:
    return (
        f'device_id = "{DEVICE}"\nprofile = "generic-x86_64"\nstate_dir = "{folder}/state"\n'
        f'trust = "none"\nfirst_bundle = "{first}"\n[broker]\nurl = "{broker}"\n'
        "[api]\nport = 0\n[telemetry]\ninterval_s = 1.0\n[worker]\nhang_s = 5.0\n"
        "[update]\ntrial_s = 0.5\n"
    )


@contextmanager
def on_a_slow_disk(
    broker: str, op: Operator, folder: Path
) -> Iterator[tuple[SlowAgent, Manager, Release]]:
    """An agent that serves, and an update that takes it a dozen seconds to store, desired now."""
    first, large = made(folder, "1.0.0"), made(folder, "2.0.0", large=noise(LARGE_BYTES, 7))
    release = op.publish(large)
    manager = Manager(folder / "notify")
    running = SlowAgent(folder, settings(broker, folder, first), folder / "notify")
    try:
        wait_for("agent serves", running.ready)
        wait_for("its first bundle is good", lambda: op.reported and op.reported.state == "idle")
        op.desire(release)
        wait_for("chunks arrive", lambda: held(op) > 3)
        yield running, manager, release
    finally:
        running.end()


def held(op: Operator) -> int:
    progress = op.reported.progress if op.reported else None
    return progress.chunks_held if progress and progress.chunks_needed > 50 else 0


def test_an_update_on_a_slow_disk_takes_nobody_s_turn(
    tmp_path: Path, broker: str, op: Operator
) -> None:
    with on_a_slow_disk(broker, op, tmp_path) as (running, manager, release):
        begun_s = time.monotonic()
        (worker,) = running.workers()
        told = len(op.telemetry)
        answered = 0

        def installed() -> bool:
            nonlocal answered
            if held(op):
                answered += op.ask(f"r{answered}", "mail").error == ""
            assert running.call("POST", INFER, texts_request("mail"))[0] == 200
            return op.reported is not None and op.reported.active == release.ref

        before = running.workers()
        wait_for("the update is active", installed)
        took_s = time.monotonic() - begun_s
        assert before == [worker]
        assert took_s > 7.0, "the disk was not slow: nothing was tested"
        assert answered >= 3
        assert len(op.telemetry) - told >= took_s / 3  # one a second, where nothing else is slow
        assert manager.longest_s(begun_s) < 6.0  # as long as systemd waits here; no turn is took_s
        assert "hangs" not in running.log
        assert "worker failed" not in running.log


def test_sigterm_ends_an_agent_that_stores_an_update(
    tmp_path: Path, broker: str, op: Operator
) -> None:
    with on_a_slow_disk(broker, op, tmp_path) as (running, _, _):
        begun_s = time.monotonic()
        assert running.end() == 0
        assert time.monotonic() - begun_s < 4.0
        assert held(op) > 0, "it had come to the end of the update"
        assert "Traceback" not in running.log
        wait_for("offline", lambda: op.online is False)


def request_under_way(running: Agent) -> tuple[socket.socket, bytes]:
    """A request without its last bytes: the worker waits for them before it ends."""
    body = json.dumps(texts_request("mail")).encode()
    head = f"POST {INFER} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    sock = socket.create_connection(("127.0.0.1", running.port), timeout=20)
    sock.sendall(head + body[:10])
    time.sleep(0.3)
    return sock, body[10:]


def test_a_deploy_that_comes_after_sigterm_waits_for_the_next_start(
    tmp_path: Path, broker: str, op: Operator
) -> None:
    first, second = made(tmp_path, "1.0.0"), made(tmp_path, "2.0.0")
    release = op.publish(second)
    quick = "[update]\ntrial_s = 0.2\n"
    with agent(tmp_path, broker=broker, bundle=first, settings=quick) as running:
        wait_for("online", lambda: op.online)
        sock, rest = request_under_way(running)
        running.process.send_signal(signal.SIGTERM)
        wait_for("the end begins", lambda: "supervisor: ending" in running.log)
        op.desire(release)
        op.link.flush(10)
        time.sleep(1.0)  # Long enough for chunks, few as they are, and a candidate.
        sock.sendall(rest)
        with sock:
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
        assert running.process.wait(20) == 0
        assert "Traceback" not in running.log
        assert running.log.count("worker started") == 1
    with agent(tmp_path, broker=broker, settings=quick):
        wait_for("the update is active", lambda: op.reported and op.reported.active == release.ref)
        assert op.reported is not None
        assert op.reported.refused == ()


def test_sigterm_while_a_candidate_loads_refuses_nothing(
    tmp_path: Path, broker: str, op: Operator
) -> None:
    first, second = made(tmp_path, "1.0.0"), made(tmp_path, "2.0.0")
    release = op.publish(second)
    quick = "[update]\ntrial_s = 0.2\n"
    with agent(tmp_path, broker=broker, bundle=first, settings=quick) as running:
        wait_for("online", lambda: op.online)
        wait_for("idle", lambda: op.reported and op.reported.state == "idle")
        op.desire(release)
        wait_for("a candidate loads", lambda: running.log.count("worker started") == 2)
        assert running.end() == 0
        assert "Traceback" not in running.log
    with agent(tmp_path, broker=broker, settings=quick):
        wait_for("the update is active", lambda: op.reported and op.reported.active == release.ref)
        assert op.reported is not None
        assert op.reported.refused == ()
