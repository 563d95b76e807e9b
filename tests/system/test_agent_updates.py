"""The agent's own update with real processes on a real broker: forward, back, refused, cut.

Everything of a board is real but systemd, see `tests.fakes.updatable`; with systemd it is proved in
`test_upgrade.py`. Two whole versions of our own software go over the air.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle.archive import FolderReader, pack
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.inventory import Device, read_devices
from edge_runtime.link import BrokerConfig
from edge_runtime.link.mqtt import connector
from edge_runtime.messages.fleet import Desired, DesiredAgent
from edge_runtime.messages.topics import Topics
from tests.fakes.agents import ROOT
from tests.fakes.brokers import BrokerProcess, mosquitto
from tests.fakes.tiny import tiny_folder, variant_json
from tests.fakes.updatable import INSTALLED, UpdatableBoard, package, powered

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]
BOUNDS = ["--trial", "25", "--look", "0.3"]
NEW = "0.2.0"
CRASHES = {
    "edge_runtime/agent/supervisor.py": "\n\ndef _run(self, *a, **k):\n    raise SystemExit(7)\n\n"
    "Supervisor.run = _run\n"
}
DOES_NOT_LOAD = {"edge_runtime/agent/worker.py": "\nimport a_module_that_is_not_there\n"}
SERVES_NOTHING = {
    "edge_runtime/agent/workers.py": "\nWorkers.start_active = lambda self, digest: None\n"
}


class Operator:
    """`edge-fleet` in a folder of its own, with a home."""

    def __init__(self, broker: BrokerProcess, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.broker = broker
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "EDGE_FLEET_PASSPHRASE": "correct horse battery",
        }
        self("init", "--broker", broker.url)

    @property
    def home(self) -> Home:
        return Home(self.folder / "fleet")

    def __call__(self, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "edge_runtime.fleet.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=200,
            cwd=self.folder,
            env=self._environment,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def json(self, *arguments: object, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def device(self, name: str) -> Device:
        with self._connection() as connection:
            return read_devices(connection, [name])[0]

    def desire(self, name: str, desired: Desired) -> None:
        """Past `edge-fleet`, as whoever may write to the broker can."""
        with self._connection() as connection:
            topic = connection.topics.device(name, "desired")
            connection.send("desired", topic, desired.to_bytes())
            connection.settle()

    def _connection(self) -> Connection:
        return Connection(connector(BrokerConfig.parse(self.broker.url)), Topics())


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with mosquitto() as broker:
        yield Operator(broker, tmp_path_factory.mktemp("fleet") / "operator")


@pytest.fixture(scope="module")
def packages(operator: Operator) -> Path:
    """The folder of what was published: a good version and three bad ones; and a bundle."""
    folder = operator.folder
    versions = {NEW: {}, "0.3.0": CRASHES, "0.4.0": DOES_NOT_LOAD, "0.5.0": SERVES_NOTHING}
    for version, changed in versions.items():
        operator("publish", package(folder, version, changed))
    model = tiny_folder(
        folder / "tiny",
        [variant_json("ort-float", "model.onnx")],
        version="1.0.0",
        profile="generic-x86_64",
    )
    pack(FolderReader(model), folder / "tiny.edge")
    operator("publish", folder / "tiny.edge")
    return folder


@pytest.fixture
def board(
    operator: Operator, packages: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[UpdatableBoard]:
    """A board that serves a bundle, and whose agent is the package's own."""
    device = f"d-{abs(hash(request.node.name)) % 10**8}"
    made = UpdatableBoard(tmp_path / "board", operator.home, operator.broker.url, device, BOUNDS)
    made.device = device  # type: ignore[attr-defined]
    with powered(made):
        made.until("the agent reports", lambda: operator.device(device).reported is not None)
        operator("deploy", "tiny==1.0.0", "--device", device, "--wait", 90)
        yield made


def name_of(board: UpdatableBoard) -> str:
    return str(board.device)  # type: ignore[attr-defined]


def serves(board: UpdatableBoard) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", board.port, timeout=10)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def version_of(operator: Operator, board: UpdatableBoard) -> str:
    reported = operator.device(name_of(board)).reported
    return reported.agent_version if reported is not None else ""


def test_a_new_agent_is_fetched_tested_started_and_kept_and_serves_what_the_old_one_served(
    operator: Operator, board: UpdatableBoard
) -> None:
    device = name_of(board)
    assert version_of(operator, board) == INSTALLED
    (row,) = operator.json("deploy", f"edge-agent=={NEW}", "--device", device, "--wait", 120)[
        "devices"
    ]
    assert row["outcome"] == "serving"
    found = operator.device(device)
    assert found.reported is not None
    assert found.reported.agent is not None
    assert found.reported.agent_version == NEW
    assert found.reported.active is not None
    assert found.reported.active.name == "tiny"
    assert found.desired is not None
    assert found.desired.release is not None, "the bundle is still desired"
    assert serves(board)
    assert board.record.current.startswith(f"{NEW}-")
    (again,) = operator.json("deploy", f"edge-agent=={NEW}", "--device", device, "--wait", 30)[
        "devices"
    ]
    assert (again["outcome"], again["changed"]) == ("serving", False)
    assert NEW in operator("status").stdout


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("0.3.0", "it ended by itself"),
        ("0.5.0", "no bundle serves, as one did before"),
    ],
    ids=["crashes at start", "serves nothing"],
)
def test_a_new_agent_that_is_no_good_is_refused_and_the_old_one_says_why(
    operator: Operator, board: UpdatableBoard, version: str, why: str
) -> None:
    device = name_of(board)
    wanted = operator.json(
        "deploy", f"edge-agent=={version}", "--device", device, "--wait", 150, code=1
    )
    (row,) = wanted["devices"]
    assert row["outcome"] == "refused", board.log[-6000:]
    assert why in row["reason"]
    board.until("the old agent serves", lambda: serves(board))
    assert version_of(operator, board) == INSTALLED
    assert board.record.current == ""


def test_what_was_refused_is_not_tried_again_before_the_operator_says_so(
    operator: Operator, board: UpdatableBoard
) -> None:
    device, version = name_of(board), "0.4.0"
    done = operator("deploy", f"edge-agent=={version}", "--device", device, "--wait", 120, code=1)
    assert "refused edge-agent 0.4.0: its own check: edge_runtime.agent.worker" in done.stdout
    board.power_off()
    before = board.log.count("asking who signed it")
    board.power_on()
    board.until("it serves again", lambda: serves(board))
    done = operator("deploy", f"edge-agent=={version}", "--device", device, "--wait", 5, code=1)
    assert "--retry makes it try again" in done.stderr
    assert board.log.count("asking who signed it") == before
    # And it takes a good one.
    operator("deploy", f"edge-agent=={NEW}", "--device", device, "--wait", 120)
    assert version_of(operator, board) == NEW


def test_an_agent_that_nobody_signed_is_refused_before_a_byte_of_it_is_fetched(
    operator: Operator, board: UpdatableBoard, tmp_path: Path
) -> None:
    from edge_runtime.fleet.agent_publish import PackageReader
    from tests.fakes.upgrades import release_of

    release = release_of(PackageReader([package(tmp_path, "0.9.0")]))
    device = name_of(board)
    desired = operator.device(device).desired
    assert desired is not None
    wish = DesiredAgent(release)
    operator.desire(device, Desired(desired.revision + 1, desired.release, 0, wish))

    def refused() -> str:
        reported = operator.device(device).reported
        agent = reported.agent if reported is not None else None
        return agent.refused[0].reason if agent is not None and agent.refused else ""

    board.until("it is refused", lambda: bool(refused()))
    assert "not in the signed metadata" in refused()
    assert not (board.places.state / "agent/manifests" / f"{release.manifest.sha256}.json").exists()
    assert board.record.state.value == "idle"
    assert serves(board)


@pytest.mark.parametrize(
    "state",
    [
        "staging",
        pytest.param("staged", marks=pytest.mark.full),
        pytest.param("flipping", marks=pytest.mark.full),
        "trial",
    ],
)
def test_a_power_cut_in_any_state_of_the_helper_still_ends_in_the_new_agent(
    operator: Operator, board: UpdatableBoard, state: str
) -> None:
    device = name_of(board)
    operator("deploy", f"edge-agent=={NEW}", "--device", device)
    order = ["staging", "staged", "flipping", "trial"]

    def reached() -> bool:
        try:
            found = board.record.state.value
        except Exception:
            return False
        return found in order[order.index(state) :] or board.record.current != ""

    board.until(f"the helper is {state}", reached)
    board.power_off()
    board.power_on()

    def there() -> bool:
        reported = operator.device(device).reported
        agent = reported.agent if reported is not None else None
        return agent is not None and agent.active is not None and agent.active.version == NEW

    board.until("the new agent is there", there, 150)
    assert version_of(operator, board) == NEW
    board.until("it serves", lambda: serves(board))
    assert board.record.state.value == "idle"
