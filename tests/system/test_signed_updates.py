"""Signed updates with real agents: what the metadata vouches for is installed, and nothing else."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_runtime.agent.installer import Request, Result
from edge_runtime.bundle.archive import FolderReader, pack
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from edge_runtime.messages.fleet import Release
from tests.fakes.agents import (
    DEVICE,
    ROOT,
    TOPICS,
    Agent,
    Client,
    Operator,
    agent,
    operator,
    wait_for,
)
from tests.fakes.brokers import BrokerProcess, mosquitto
from tests.fakes.signed import SignedRepository, publish_retained
from tests.fakes.tiny import tiny_folder, variant_json

TUF = 'trust = "tuf"\nroot = "root.json"\n'
QUICK = (
    "[update]\ntrial_s = 0.3\nwait_s = 0.5\nwait_max_s = 0.5\nchunk_timeout_s = 0.5\n"
    "chunk_tries = 2\ntrust_tries = 2\n"
)


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with mosquitto() as started:
        yield started


@pytest.fixture
def fleet(broker: BrokerProcess) -> Iterator[Operator]:
    with operator(broker.url) as found:
        yield found
        publish_retained(found.link, TOPICS, {}, SignedRepository().files)
        found.desire(None)
        found.link.flush(10)


def bundle(folder: Path, version: str) -> Path:
    """A tiny bundle, as a folder."""
    variants = [variant_json("ort-int8", "model-int8.onnx")]
    return tiny_folder(folder / version, variants, {}, version=version, profile="generic-x86_64")


def sign(repository: SignedRepository, folder: Path) -> Release:
    """Let the next metadata vouch for the bundle; its release."""
    data = FolderReader(folder).read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
    m, entry = Manifest.from_bytes(data), file_entry(MANIFEST_NAME, data)
    release = Release(m.name, m.version, m.profile, m.size_bytes, entry)
    repository.add(release.file, data)
    repository.publish()
    return release


def stick(folder: Path, repository: SignedRepository, *bundles: Path) -> Path:
    """The repository as a tree: metadata, release files, chunks."""
    repository.write(folder)
    for made in bundles:
        reader = FolderReader(made)
        data = reader.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
        m, entry = Manifest.from_bytes(data), file_entry(MANIFEST_NAME, data)
        release = Release(m.name, m.version, m.profile, m.size_bytes, entry)
        (folder / "metadata" / release.file).write_bytes(release.to_bytes())
        contents = [(entry, data), *((f, reader.read(f.path, f.size_bytes)) for f in m.files)]
        for file, content in contents:
            for chunk, piece in file.cut(content):
                path = folder / "chunks" / chunk.sha256[:2] / chunk.sha256
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(piece)
    return folder


def with_root(folder: Path, repository: SignedRepository) -> Path:
    """The agent's folder, with the root that it was given when it was enrolled."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "root.json").write_bytes(repository.files["1.root.json"])
    return folder


def kinds(fleet: Operator) -> list[str]:
    return [event["kind"] for event in fleet.events]


def texts(fleet: Operator, kind: str) -> list[str]:
    return [event["text"] for event in fleet.events if event["kind"] == kind]


def test_what_is_signed_is_installed_and_what_is_not_is_refused_with_the_reason(
    tmp_path: Path, broker: BrokerProcess, fleet: Operator
) -> None:
    repository = SignedRepository()
    one, two = bundle(tmp_path, "1.0.0"), bundle(tmp_path, "2.0.0")
    first, second = fleet.publish(one), fleet.publish(two)
    sign(repository, one)
    publish_retained(fleet.link, TOPICS, repository.files)
    folder = with_root(tmp_path / "agent", repository)
    with agent(folder, broker=broker.url, settings=QUICK, trust=TUF):
        assert fleet.deploy(first).trust == "tuf"
        fleet.desire(second)
        said = wait_for("a refusal", lambda: texts(fleet, "bundle-refused"))
        assert "not in the signed metadata" in said[0]
        assert fleet.reported is not None
        assert fleet.reported.active == first.ref
        sign(repository, two)
        publish_retained(fleet.link, TOPICS, repository.files)
        revision = fleet.desire(second, attempt=1)

        def served() -> bool:
            r = fleet.reported
            return r is not None and r.revision == revision and r.active == second.ref

        wait_for("the release that was signed meanwhile serves", served)


def test_metadata_that_is_rolled_back_is_told_and_the_bundle_is_not_blamed(
    tmp_path: Path, broker: BrokerProcess, fleet: Operator
) -> None:
    repository = SignedRepository()
    one, two = bundle(tmp_path, "1.0.0"), bundle(tmp_path, "2.0.0")
    first, second = fleet.publish(one), fleet.publish(two)
    before = dict(repository.files)
    sign(repository, one)
    publish_retained(fleet.link, TOPICS, repository.files)
    folder = with_root(tmp_path / "agent", repository)
    with agent(folder, broker=broker.url, settings=QUICK, trust=TUF):
        fleet.deploy(first)
        sign(repository, two)
        publish_retained(fleet.link, TOPICS, before)
        fleet.desire(second)
        said = wait_for("a word about it", lambda: texts(fleet, "metadata-refused"))
        assert "timestamp.json: rolled back" in said[0]
        publish_retained(fleet.link, TOPICS, repository.files)
        wait_for(
            "the update goes on", lambda: fleet.reported and fleet.reported.active == second.ref
        )
        assert "bundle-refused" not in kinds(fleet)


def test_a_notary_that_is_killed_is_no_answer(
    tmp_path: Path, broker: BrokerProcess, fleet: Operator
) -> None:
    """The broker has no metadata yet, so that the first notary waits long enough to be hit."""
    repository = SignedRepository()
    one = bundle(tmp_path, "1.0.0")
    release = fleet.publish(one)
    sign(repository, one)
    folder = with_root(tmp_path / "agent", repository)
    with agent(folder, broker=broker.url, settings=QUICK, trust=TUF) as device:
        fleet.desire(release)
        (pid,) = wait_for("a notary", device.workers)
        os.kill(pid, signal.SIGKILL)
        said = wait_for("a word about it", lambda: texts(fleet, "update-stalled"))
        assert "notary: it ended without a word" in said[0]
        publish_retained(fleet.link, TOPICS, repository.files)
        wait_for(
            "the bundle serves", lambda: fleet.reported and fleet.reported.active == release.ref
        )


@pytest.mark.parametrize("kind", ["file", "http"])
def test_what_the_broker_lacks_comes_from_the_next_source(
    tmp_path: Path, broker: BrokerProcess, fleet: Operator, kind: str
) -> None:
    """Neither metadata nor chunks are on the broker: only the wish is."""
    repository = SignedRepository()
    one = bundle(tmp_path, "1.0.0")
    release = sign(repository, one)
    tree = stick(tmp_path / "stick", repository, one)
    folder = with_root(tmp_path / "agent", repository)
    with serving(tree) if kind == "http" else as_folder(tree) as url:
        trust = TUF + f'sources = ["mqtt", "{url}"]\n'
        with agent(folder, broker=broker.url, settings=QUICK, trust=trust):
            fleet.deploy(release)
    assert "bundle-refused" not in kinds(fleet)


class serving:
    """The tree on a web server."""

    def __init__(self, folder: Path) -> None:
        def handler(*args: object) -> SimpleHTTPRequestHandler:
            return Quiet(*args, directory=str(folder))  # type: ignore[arg-type]

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass


class as_folder:
    """The tree as it is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> str:
        return self._folder.as_uri()

    def __exit__(self, *_: object) -> None:
        pass


def install(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`edge-agent install` with the configuration in `folder`."""
    return subprocess.run(
        [
            sys.executable, "-m", "edge_runtime.agent.cli", "install",
            "--config", str(folder / "agent.toml"), *arguments,
        ],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
    )  # fmt: skip


def air_gapped(folder: Path, repository: SignedRepository) -> Path:
    """A device without a broker."""
    with_root(folder, repository)
    (folder / "agent.toml").write_text(
        f'device_id = "{DEVICE}"\nprofile = "generic-x86_64"\nstate_dir = "state"\n'
        f"{TUF}[api]\nport = 0\n{QUICK}"
    )
    return folder


def test_a_stick_installs_on_a_board_without_a_network_whether_the_agent_runs_or_not(
    tmp_path: Path,
) -> None:
    repository = SignedRepository()
    one, two = bundle(tmp_path, "1.0.0"), bundle(tmp_path, "2.0.0")
    sign(repository, one)
    tree = stick(tmp_path / "stick", repository, one)
    folder = air_gapped(tmp_path / "agent", repository)
    done = install(folder, str(tree), "--json")
    assert (done.returncode, json.loads(done.stdout)["running"]) == (0, False), done.stderr
    device = Agent(folder, (folder / "agent.toml").read_text(), [])
    try:
        wait_for("it serves", device.ready)
        client = Client(device, "tiny", reuse=True)
        client.start()
        sign(repository, two)
        stick(tree, repository, two)
        done = install(folder, str(tree), "tiny==2.0.0", "--json")
        assert (done.returncode, json.loads(done.stdout)["running"]) == (0, True), done.stderr
        wait_for("the new one answers", lambda: client.versions["2.0.0"])
        client.finish()
        assert client.failures == []
        assert client.versions["1.0.0"] > 0
    finally:
        assert device.end() == 0, device.log


def test_a_request_that_cannot_be_met_does_not_end_an_agent_that_serves(tmp_path: Path) -> None:
    """Left beside the agent as an older or careless `edge-agent install` may."""
    repository = SignedRepository()
    one = bundle(tmp_path, "1.0.0")
    sign(repository, one)
    tree = stick(tmp_path / "stick", repository, one)
    folder = air_gapped(tmp_path / "agent", repository)
    device = Agent(folder, (folder / "agent.toml").read_text(), ["--bundle", str(tree)])
    try:
        wait_for("it serves", device.ready)
        odd = tmp_path / "odd" / "metadata"
        odd.mkdir(parents=True)
        for name in (os.fsdecode(b"caf\xe9"), "tiny"):
            (odd / f"{name}@1.0.0@generic-x86_64.json").touch()
        for token, path in {"odd": odd.parent, "long": tmp_path / ("x" * 300)}.items():
            Request(path, None, token).leave(folder / "state")
            os.kill(device.process.pid, signal.SIGUSR1)
            wait_for("a result", functools.partial(Result.find, folder / "state", token))
        assert device.ready()
    finally:
        assert device.end() == 0, device.log


def test_a_file_that_nobody_signed_is_not_installed_and_leaves_nothing(tmp_path: Path) -> None:
    repository = SignedRepository()
    one = bundle(tmp_path, "1.0.0")
    tree = stick(tmp_path / "stick", repository, one)
    folder = air_gapped(tmp_path / "agent", repository)
    done = install(folder, str(tree), "tiny==1.0.0")
    assert done.returncode == 3, done.stderr
    assert "not in the signed metadata" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not [item for item in (folder / "state" / "chunks").rglob("*") if item.is_file()]
    assert not list((folder / "state" / "manifests").iterdir())


def test_a_file_is_held_to_the_metadata_that_the_device_has_seen(tmp_path: Path) -> None:
    repository = SignedRepository()
    one, two = bundle(tmp_path, "1.0.0"), bundle(tmp_path, "2.0.0")
    sign(repository, one)
    sign(repository, two)
    folder = air_gapped(tmp_path / "agent", repository)
    packed = tmp_path / "two.edge"
    pack(FolderReader(two), packed)
    done = install(folder, str(packed))
    assert done.returncode == 1
    assert "no source of signed metadata" in done.stderr
    tree = stick(tmp_path / "stick", repository, one)
    assert install(folder, str(tree)).returncode == 0
    done = install(folder, str(packed))
    assert done.returncode == 0, done.stderr
    assert "tiny 2.0.0 passed its self-test" in done.stdout
