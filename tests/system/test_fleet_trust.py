"""`edge-fleet` with a fleet home, as processes, on a real broker; python-tuf's client judges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.metadata import TIME
from edge_runtime.link import BrokerConfig
from edge_runtime.link.mqtt import connector
from edge_runtime.messages.topics import Topics
from tests.fakes.brokers import mosquitto
from tests.fakes.trusted import FILE, Client, bundle

pytestmark = pytest.mark.system
ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "edge_runtime.fleet.cli"]


class Operator:
    """Somebody in a folder of their own, with a passphrase in the environment."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        folder.mkdir()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "EDGE_FLEET_PASSPHRASE": "correct horse battery",
        }
        for name in ("EDGE_FLEET_BROKER", "EDGE_FLEET_HOME"):
            self.environment.pop(name, None)

    def __call__(self, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
            env=self.environment,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == code, done.stderr
        return done

    def json(self, *arguments: object) -> Any:
        return json.loads(self(*arguments, "--json").stdout)

    @property
    def home(self) -> Home:
        return Home(self.folder / "fleet")

    def read(self, file: str) -> bytes | None:
        """What the broker keeps of a metadata file."""
        with Connection(connector(BrokerConfig.parse(self.url)), Topics()) as connection:
            topic = connection.topics.metadata(file)
            return connection.retained([topic]).get(topic)


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    with mosquitto() as broker:
        yield Operator(broker.url, tmp_path / "operator")


def test_a_fleet_from_its_first_key_to_a_revoked_release(
    operator: Operator, tmp_path: Path
) -> None:
    run, first, second = operator, bundle(tmp_path), bundle(tmp_path, "2.0.0")
    made = run.json("init", "--broker", operator.url)
    assert [role["version"] for role in made["roles"]] == [1, 1, 1, 1]
    client = Client.of(tmp_path / "client", operator.home)

    def target(file: str = FILE) -> Any:
        return client.target(operator.read, file, datetime.now(timezone.utc))

    published = run.json("publish", first)
    assert published["metadata_sent"] == [
        "1.root.json", "2.targets.json", "2.snapshot.json", "timestamp.json",
    ]  # fmt: skip
    assert published["skipped_chunks"] == 0
    found = target()
    assert found.hashes["sha256"] == published["manifest_sha256"]
    again = run.json("publish", first)
    assert (again["again"], again["sent_chunks"], again["metadata_sent"]) == (True, 0, [])
    run("publish", second)

    releases = run.json("releases")
    assert [(r["version"], r["signed"]) for r in releases["releases"]] == [
        ("1.0.0", True), ("2.0.0", True),
    ]  # fmt: skip
    assert releases["unreadable"] == []
    assert "SIGNED" in run("releases").stdout

    fresh = run.json("refresh")
    assert fresh["metadata_sent"][-1] == "timestamp.json"
    assert target() is not None
    assert "timestamp" in run("refresh", "--check").stdout

    for role in ("timestamp", "targets", "root"):
        assert run.json("rotate", role)["metadata_sent"][0].endswith(".root.json")
        assert target() is not None

    assert [r["version"] for r in run.json("revoke", "demo==1.0.0")["revoked"]] == ["1.0.0"]
    assert target() is None
    assert target("demo@2.0.0@generic-x86_64.json") is not None
    assert operator.read(FILE) is None
    (left,) = run.json("releases")["releases"]
    assert left["version"] == "2.0.0"
    assert run("deploy", "demo==1.0.0", "--device", "d1", code=1).stdout == ""


def test_a_broker_that_forbids_metadata_is_told_and_the_home_stays_ahead(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text(
        "topic readwrite edge/v1/fleet/#\ntopic readwrite edge/v1/repo/chunk/#\n"
        "topic read edge/v1/repo/#\n"
    )
    rules.chmod(0o644)
    with mosquitto([f"acl_file {rules}"]) as broker:
        operator = Operator(broker.url, tmp_path / "operator")
        operator("init", "--broker", operator.url)
        for version, says in (("3.1.1", "keeps nothing"), ("5", "refused to accept")):
            done = operator("refresh", "--mqtt-version", version, code=1)
            assert says in done.stderr
            assert "`" in done.stderr or "the same command repeats the upload" in done.stderr
        assert operator.read("timestamp.json") is None
    told = operator.json("refresh", "--folder-only")
    root, targets, snapshot, timestamp = (role["version"] for role in told["roles"])
    # Two refreshes within a second have the same times to say: then the snapshot stays.
    assert (root, targets, timestamp) == (1, 1, 4)
    assert 1 < snapshot <= 4


def test_times_are_of_today(tmp_path: Path) -> None:
    operator = Operator("mqtt://127.0.0.1:1", tmp_path / "operator")
    before = datetime.now(timezone.utc).replace(microsecond=0)
    operator("init")
    signed = json.loads((operator.home.metadata / "timestamp.json").read_bytes())["signed"]
    at = datetime.strptime(signed["signed_at"], TIME).replace(tzinfo=timezone.utc)
    assert before <= at <= datetime.now(timezone.utc)
