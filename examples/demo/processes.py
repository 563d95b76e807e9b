"""Real processes of the product, started for a while: a broker, an agent, a client that asks.

Used by the demo and by the benchmarks. Each is a context manager that ends what it started, also
when something else goes wrong; each writes its log to a file whose end is shown when it fails.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEVICE = "demo-device"


class Failed(Exception):
    """A command or process did not do its job; the text says which and what it said."""


MODULES = {
    "edge-agent": "edge_runtime.agent.cli",
    "edge-convert": "converters.cli",
    "edge-fleet": "edge_runtime.fleet.cli",
}
"""The product's commands as modules, so that they run from a checkout as well."""


def command_line(name: str, *arguments: str) -> list[str]:
    """How `name` is started here."""
    return [sys.executable, "-m", MODULES[name], *arguments]


def show(name: str, *arguments: str) -> None:
    """Run a product command with its output on the terminal."""
    code = subprocess.run(command_line(name, *arguments)).returncode
    if code != 0:
        raise Failed(f"{name} {arguments[0]} ended with exit code {code}")


def run(name: str, *arguments: str) -> Any:
    """Run a product command with `--json` and return what it printed."""
    done = subprocess.run(command_line(name, *arguments, "--json"), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{name} {arguments[0]}: exit code {done.returncode}. {done.stderr.strip()}")
    return json.loads(done.stdout)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[Any]) -> None:
    """SIGTERM, ten seconds of patience, SIGKILL."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-15:])


@contextmanager
def broker(log: Path) -> Iterator[str]:
    """An embedded MQTT broker in a process of its own; yields its URL."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "examples.demo.broker", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 30)
        line = process.stdout.readline() if ready else ""
        found = re.search(r"(\d+)\s*$", line)
        if not found:
            raise Failed(f"the embedded broker did not start:\n{_tail(log)}")
        yield f"mqtt://127.0.0.1:{found[1]}"
    finally:
        _end(process)


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent: its local API and its supervisor's process id."""

    port: int
    pid: int
    broker_url: str

    def workers(self) -> list[int]:
        """Process ids of the supervisor's children."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in children.split()]


@contextmanager
def agent(
    folder: Path,
    broker_url: str,
    bundle: Path | None,
    *,
    profile: str,
    telemetry_s: float = 10.0,
    root: Path | None = None,
) -> Iterator[Agent]:
    """`edge-agent run` with a configuration made for it; yields once it serves (or at once).

    Args:
        root: the fleet's initial root metadata; None: bundles need no signature.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "agent.toml"
    first = f"first_bundle = {json.dumps(str(bundle.resolve()))}\n" if bundle else ""
    config.write_text(
        f'device_id = "{DEVICE}"\n'
        f'profile = "{profile}"\n'
        f"state_dir = {json.dumps(str((folder / 'state').resolve()))}\n"
        + (
            f'trust = "tuf"\nroot = {json.dumps(str(root.resolve()))}\n'
            if root
            else 'trust = "none"\n'
        )
        + f"{first}\n"
        "[broker]\n"
        f'url = "{broker_url}"\n\n'
        "[api]\n"
        f"port = {port}\n\n"
        "[telemetry]\n"
        f"interval_s = {telemetry_s}\n"
    )
    log = folder / "agent.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command_line("edge-agent", "run", "--config", str(config)),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        found = Agent(port, process.pid, broker_url)
        if bundle:
            _wait_ready(process, port, log)
        yield found
    finally:
        _end(process)


class Watcher:
    """What `edge-fleet watch --json` has printed so far."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def messages(self, kind: str) -> list[dict[str, Any]]:
        """Every message of `kind`, such as "telemetry", in the order of its arrival."""
        notices = [json.loads(line) for line in self._out.read_text().splitlines()]
        return [n["message"] for n in notices if n["kind"] == kind and n["message"] is not None]


@contextmanager
def watcher(broker_url: str, log: Path) -> Iterator[Watcher]:
    """`edge-fleet watch` in the background, into files beside `log`."""
    out = log.with_suffix(".jsonl")
    with out.open("w") as stdout, log.open("w") as stderr:
        process = subprocess.Popen(
            command_line("edge-fleet", "watch", "--json", "--broker", broker_url),
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield Watcher(out)
        if process.poll() is not None:
            raise Failed(f"edge-fleet watch ended early:\n{_tail(log)}")
    finally:
        _end(process)


def _wait_ready(
    process: subprocess.Popen[Any], port: int, log: Path, timeout_s: float = 60
) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"the agent ended with exit code {process.returncode}:\n{_tail(log)}")
        try:
            if call(port, "GET", "/v2/health/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise Failed(f"the agent did not serve within {timeout_s:.0f} s:\n{_tail(log)}")


def call(port: int, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """One HTTP request on a connection of its own: (status, decoded JSON or None)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        return exchange(connection, method, path, body)
    finally:
        connection.close()


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
) -> tuple[int, Any]:
    """One HTTP request on `connection`, which stays open where the server keeps it."""
    data = json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": "application/json"} if data else {}
    connection.request(method, path, data, headers)
    response = connection.getresponse()
    content = response.read()
    return response.status, json.loads(content) if content else None


def text_request(text: str) -> dict[str, Any]:
    """An Open Inference Protocol request that carries one text."""
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}]}


def text_answer(response: Mapping[str, Any]) -> tuple[str, float]:
    """(label, score) of the first text in an Open Inference Protocol response."""
    outputs = {tensor["name"]: tensor["data"] for tensor in response["outputs"]}
    return outputs["label"][0], float(outputs["score"][0])


class Asker(threading.Thread):
    """A client that keeps asking: every request that got no 200 with an answer is a failure.

    `reuse` keeps one connection for all requests, as an HTTP client library would; otherwise each
    request opens its own. `versions` counts the answers by the model version that gave them.
    """

    def __init__(
        self, port: int, model: str, texts: Sequence[str], *, pause_s: float, reuse: bool
    ) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.path = f"/v2/models/{model}/infer"
        self.texts = texts
        self.pause_s = pause_s
        self.reuse = reuse
        self.sent = 0
        self.failures: list[str] = []
        self.latencies_ms: list[float] = []
        self.versions: Counter[str] = Counter()
        self._finished = threading.Event()

    def run(self) -> None:
        """Ask until `finish`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self._finished.is_set():
            text = self.texts[self.sent % len(self.texts)]
            self.sent += 1
            begin = time.perf_counter()
            try:
                status, answer = exchange(connection, "POST", self.path, text_request(text))
                if status != 200:
                    raise Failed(f"HTTP {status}: {answer}")
                text_answer(answer)
                self.versions[str(answer.get("model_version"))] += 1
                self.latencies_ms.append((time.perf_counter() - begin) * 1000)
            except (OSError, http.client.HTTPException, Failed, LookupError, ValueError) as reason:
                self.failures.append(f"request {self.sent}: {type(reason).__name__} {reason}")
                connection.close()
            if not self.reuse:
                connection.close()
            time.sleep(self.pause_s)
        connection.close()

    def finish(self) -> None:
        """Stop after the request that is under way."""
        self._finished.set()
        self.join(60)
