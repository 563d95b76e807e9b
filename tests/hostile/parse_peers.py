"""What clients and servers send, as the product reads it: over sockets where it reads those."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import socket
import threading
from collections.abc import Mapping
from typing import Any

from tests.hostile.promises import check_sentence, demand, scratch


@functools.cache
def api() -> Any:
    """The local API over an engine of a few lines."""
    from edge_runtime.agent.openinference import OpenInference
    from edge_runtime.agent.serving import Serving
    from edge_runtime.inference.pipeline import Pipeline
    from edge_runtime.inference.tasks.table import declared_steps
    from edge_runtime.telemetry import Metrics
    from tests.fakes.engine import FakeSession, fake_bundle

    bundle = fake_bundle(scratch("api"))
    steps, variant = declared_steps(bundle.manifest), bundle.manifest.variants[0]
    reader = steps.open(bundle.read, None)
    session: Any = FakeSession(bundle.manifest, variant)
    session.shapes = _Nothing()
    pipeline = Pipeline(bundle.manifest, variant, steps, reader, session)
    return OpenInference(Serving(pipeline, 8, Metrics()), "1", 4 << 20)


class _Nothing(list[Any]):
    """Keeps nothing: a fuzzer's run is long."""

    def append(self, _: object) -> None:
        pass


def _answered(response: Any) -> object:
    body = json.loads(response.body)
    demand(response.status in (200, 400, 404, 405, 503), f"status {response.status}")
    if response.status != 200:
        demand(set(body) == {"error"}, "an error is one sentence")
        check_sentence(body["error"])
    return response.status


def infer_body(data: bytes) -> object:
    """The body of a request for inference."""
    from edge_runtime.agent.openinference import Request

    return _answered(api()(Request("POST", "/v2/models/tiny/infer", data)))


def request_path(data: bytes) -> object:
    """Method and path of a request, as HTTP lets them pass."""
    from edge_runtime.agent.openinference import Request

    method, _, path = data.decode("latin-1").partition(" ")
    return _answered(api()(Request(method, path, b"{}")))


def http_connection(data: bytes) -> object:
    """What a client sends over one connection to the local API, until it has said everything."""
    from edge_runtime.agent.config import ApiConfig
    from edge_runtime.agent.server import HttpServer

    ours, theirs = _pair()
    config = ApiConfig(max_body_bytes=1000, request_timeout_s=5.0, idle_timeout_s=5.0)
    server = HttpServer(theirs, config, api(), lambda sock: None)
    faults: list[str] = []
    before = threading.excepthook
    threading.excepthook = lambda args: faults.append(repr(args.exc_value))
    try:
        # What fits the socket's buffer is answered before it would block.
        ours.sendall(data[: 16 << 10])
        ours.shutdown(socket.SHUT_WR)
        server.adopt(theirs)
        ours.settimeout(30)
        said = _heard(ours)
        demand(server.drain(30), "a connection ends when its client has gone")
        os.close(server.draining)  # The process that serves ends then; this one goes on.
    finally:
        threading.excepthook = before
        ours.close()
    demand(not faults, f"a thread ended with {faults}")
    demand(not said or said.startswith(b"HTTP/1.1 "), "an answer is HTTP")
    demand(b"Traceback" not in said, "a traceback was sent")
    return said


@functools.cache
def _listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def _pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection."""
    ours = socket.create_connection(_listener().getsockname())
    return ours, _listener().accept()[0]


def _heard(sock: socket.socket) -> bytes:
    """All that comes until the other end closes, or resets what it would not read to the end."""
    said = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            said += data
    return bytes(said)


class Peer:
    """A server on the loopback that answers each connection with the next bytes it was given."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.say = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                try:
                    connection.recv(1 << 16)
                    connection.sendall(self.say)
                except OSError:
                    continue


@functools.cache
def peer(_for: str) -> Peer:
    """One for each parser that needs it."""
    return Peer()


def web_answer(data: bytes) -> object:
    """What a web server answers that was asked for a file of at most 1,000 bytes."""
    from edge_runtime.link.address import WebAddress
    from edge_runtime.link.web import Timeouts, WebPlace

    server = peer("web")
    server.say = data
    place = WebPlace(WebAddress(False, "127.0.0.1", server.port), timeouts=Timeouts(5.0, 5.0, 10.0))
    try:
        found = place.get("metadata/timestamp.json", 1000)
    finally:
        place.close()
    demand(found is None or len(found) <= 1000, "no more than was asked for")
    return found


def broker_packets(data: bytes) -> object:
    """What a broker sends: it costs the connection, and never the link."""
    from edge_runtime.link import BrokerConfig
    from edge_runtime.link.base import Message
    from edge_runtime.link.mqtt import MqttLink

    server = peer("broker")
    server.say = data
    config = BrokerConfig(
        "127.0.0.1", server.port, version="5", backoff_base_s=60.0, max_payload_bytes=1000
    )
    came: list[Message] = []
    ended: list[str] = []
    over = threading.Event()

    def on_connection(up: bool, why: str) -> None:
        if not up:
            ended.append(why)
            over.set()

    link = MqttLink(config, "client", came.append, on_connection)
    link.subscribe(["edge/v1/#"])
    link.start()
    try:
        demand(over.wait(30), "a connection that ended is told")
        demand(link.stats().handler_errors == 0, "no handler failed")
    finally:
        link.close()
    demand(all(len(one.payload) <= 1000 for one in came), "no payload is too large")
    check_sentence(ended[0])
    return came


KEPT = ("timestamp.json", "snapshot.json", "targets.json")


def metadata(data: bytes) -> object:
    """Signed metadata in which one file was replaced: `<name>`, a newline, its bytes.

    A name that begins with `disk/` stands in the device's own folder.
    """
    from edge_runtime.update.clock import Clock
    from edge_runtime.update.trust.client import Client
    from tests.fakes.signed import FakeReadings

    name, _, content = data.partition(b"\n")
    place = name.decode("ascii", "replace")
    files = dict(signed_files())
    folder = scratch(f"trust-{next(_numbers) % 8}")
    for old in (*folder.glob("root_history/*"), *folder.iterdir()):
        if not old.is_dir():
            old.unlink()
    if place.removeprefix("disk/") in KEPT and place not in files:
        (folder / place.removeprefix("disk/")).write_bytes(content)
    else:
        files[place] = content
    clock = Clock(folder / "time.json", FakeReadings())
    client = Client(folder, signed_files()["1.root.json"], _Files(files), clock)
    trusted = client.refresh()
    client.target("demo@1.0.0@board.json")
    return trusted


_numbers = itertools.count()


@functools.cache
def signed_files() -> Mapping[str, bytes]:
    """An honest repository with one release in it."""
    from tests.fakes.signed import SignedRepository

    repository = SignedRepository()
    repository.add("demo@1.0.0@board.json", b"{}")
    repository.publish()
    repository.publish("root")
    return dict(repository.files)


class _Files:
    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def read(self, name: str, max_bytes: int) -> bytes | None:
        found = self._files.get(name)
        return None if found is None else found[: max_bytes + 1]
