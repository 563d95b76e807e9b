"""A real agent as a process, an operator on a real broker, and clients that keep asking."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from edge_runtime.link import BrokerConfig, Message
from edge_runtime.link.mqtt import connector
from edge_runtime.messages.fleet import (
    Desired,
    InferRequest,
    InferResult,
    Release,
    Reported,
    Telemetry,
    to_bytes,
)
from edge_runtime.messages.topics import Topics

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "device-1"
TOPICS = Topics()
WAIT_S = 60.0


def wait_for(what: str, found: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
    """The first true answer of `found`; fails, naming `what`, where none comes in time."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        answer = found()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {timeout_s:g} s")


def texts_request(*texts: str) -> dict[str, Any]:
    """A body that carries texts."""
    return {
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}
        ]
    }


class Agent:
    """`edge-agent run` in a process of its own."""

    def __init__(self, folder: Path, config: str, arguments: list[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "agent.toml").write_text(config)
        self.log_path = folder / "agent.log"
        command = [sys.executable, "-m", "edge_runtime.agent.cli", "run", "--json"]
        command += ["--config", str(folder / "agent.toml"), *arguments]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.port: int = json.loads(line)["port"] if line else 0

    @property
    def log(self) -> str:
        """What it has said."""
        return self.log_path.read_text(errors="replace")

    def workers(self) -> list[int]:
        """Process ids of its children that have not ended."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children]

    def connect(self, timeout_s: float = 30.0) -> http.client.HTTPConnection:
        """A connection that is opened with the first request."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}
    ) -> tuple[int, Any]:
        """(status, decoded answer) of one request on a connection of its own."""
        connection = self.connect()
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, dict(headers))
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content else None
        finally:
            connection.close()

    def ready(self) -> bool:
        """Whether it serves."""
        assert self.process.poll() is None, self.log
        try:
            return self.call("GET", "/v2/health/ready")[0] == 200
        except OSError:
            return False

    def end(self) -> int:
        """SIGTERM; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextmanager
def agent(
    folder: Path,
    *,
    broker: str = "",
    bundle: Path | None = None,
    serving: bool = True,
    settings: str = "",
    trust: str = 'trust = "none"\n',
    device: str = DEVICE,
    profile: str = "generic-x86_64",
) -> Iterator[Agent]:
    """A running agent, ended with the test; `settings` is more TOML, `trust` its first lines."""
    config = (
        f'device_id = "{device}"\nprofile = "{profile}"\nstate_dir = "state"\n'
        + trust
        + (f'[broker]\nurl = "{broker}"\n' if broker else "")
        + ("" if "[api]" in settings else "[api]\nport = 0\n")
        + settings
    )
    made = Agent(folder, config, ["--bundle", str(bundle)] if bundle else [])
    try:
        if serving and bundle:
            wait_for("agent serves", made.ready)
        yield made
    finally:
        made.end()


class Operator:
    """Publishes bundles, says what a device should run, hears what it reports."""

    def __init__(self, broker: str) -> None:
        self.reported: Reported | None = None
        self.online: Any = None
        self.telemetry: list[Telemetry] = []
        self.events: list[Any] = []
        self.answers: dict[str, InferResult] = {}
        self._revision = 0
        self.link = connector(BrokerConfig.parse(broker))("operator", self._on_message)
        self.link.subscribe(
            [
                TOPICS.device(DEVICE, what)
                for what in ("reported", "online", "telemetry", "event", "infer/+/result")
            ]
        )
        self.link.start()
        self.link.wait_connected(10)

    def _on_message(self, message: Message) -> None:
        found = TOPICS.device_of(message.topic)
        match found and found[1]:
            case "reported":
                self.reported = Reported.from_bytes(message.payload)
            case "online":
                self.online = json.loads(message.payload)["online"]
            case "telemetry":
                self.telemetry.append(Telemetry.from_bytes(message.payload))
            case "event":
                self.events.append(json.loads(message.payload))
            case str(what) if what.startswith("infer/"):
                self.answers[what.split("/")[1]] = InferResult.from_bytes(message.payload)

    def publish(self, folder: Path) -> Release:
        """Every chunk of the bundle in `folder`, retained."""
        reader = FolderReader(folder)
        data = reader.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
        manifest = Manifest.from_bytes(data)
        entry = file_entry(MANIFEST_NAME, data)
        for file, content in [
            (entry, data),
            *((f, reader.read(f.path, f.size_bytes)) for f in manifest.files),
        ]:
            for chunk, piece in file.cut(content):
                self.link.publish(TOPICS.chunk(chunk.sha256), bytes(piece), retain=True, wait_s=10)
        self.link.flush(30)
        return Release(
            manifest.name, manifest.version, manifest.profile, manifest.size_bytes, entry
        )

    def desire(self, release: Release | None, attempt: int = 0) -> int:
        """Say what the device should run; the revision of that wish."""
        self._revision += 1
        desired = Desired(self._revision, release, attempt)
        self.link.publish(TOPICS.device(DEVICE, "desired"), desired.to_bytes(), retain=True)
        return self._revision

    def deploy(self, release: Release) -> Reported:
        """Desire it and wait until the device reports that it serves it."""
        revision = self.desire(release)

        def done() -> Reported | None:
            r = self.reported
            active = r is not None and r.revision == revision and r.active == release.ref
            return r if active and r is not None and r.state in ("trial", "idle") else None

        found: Reported = wait_for(f"{release.version} is active", done)
        return found

    def ask(self, request: str, *texts: str, payload: bytes | None = None) -> InferResult:
        """Inference over the broker."""
        data = payload if payload is not None else to_bytes(InferRequest(texts))
        self.link.publish(TOPICS.infer(DEVICE, request), data)
        found: InferResult = wait_for("an answer", lambda: self.answers.get(request), 20)
        return found

    def close(self) -> None:
        """Go."""
        self.link.close()


@contextmanager
def operator(broker: str) -> Iterator[Operator]:
    """An operator, gone with the test."""
    made = Operator(broker)
    try:
        yield made
    finally:
        made.close()


class Door(Protocol):
    """Where a client knocks: an agent here, or on a machine of its own."""

    def connect(self) -> http.client.HTTPConnection:
        """A connection that is opened with the first request."""
        ...


class Client(threading.Thread):
    """Asks again and again, `pause_s` apart; a request without a right answer is a failure."""

    def __init__(
        self, agent: Door, model: str, *, reuse: bool, text: str = "mail server",
        pause_s: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True)
        self.failures: list[str] = []
        self.versions: Counter[str] = Counter()
        self.connections = 0
        self._agent = agent
        self._path = f"/v2/models/{model}/infer"
        self._reuse = reuse
        self._text = text
        self._pause_s = pause_s
        self._done = threading.Event()

    @property
    def sent(self) -> int:
        """Requests so far."""
        return len(self.failures) + sum(self.versions.values())

    def run(self) -> None:
        connection = self._agent.connect()
        body = json.dumps(texts_request(self._text)).encode()
        while not self._done.is_set():
            try:
                if connection.sock is None:
                    self.connections += 1
                connection.request("POST", self._path, body)
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status != 200:
                    raise ValueError(f"{response.status}: {answer}")
                self.versions[answer["model_version"]] += 1
            except (OSError, http.client.HTTPException, ValueError, LookupError) as reason:
                self.failures.append(f"{type(reason).__name__}: {reason}")
                connection.close()
            if not self._reuse:
                connection.close()
            if self._pause_s:
                time.sleep(self._pause_s)
        connection.close()

    def finish(self) -> None:
        """Stop after the request under way."""
        self._done.set()
        self.join(30)
