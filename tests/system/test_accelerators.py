"""A real agent on a real delegate that fails, comes back, and fails again; and its clients."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.messages.fleet import Accelerator
from tests.fakes import delegates
from tests.fakes.agents import Agent, Client, Operator, operator, wait_for
from tests.fakes.brokers import mosquitto
from tests.fakes.tiny import tiny_folder

pytest.importorskip("ai_edge_litert", reason='pip install "edge-runtime[litert]"')

SETTINGS = """\
[api]
port = 0
[worker]
prove_timeout_s = 6.0
recheck_s = 0.4
recheck_max_s = 0.4
drivers_s = 0.3
max_crashes = 1
[update]
restart_s = 0.1
trial_s = 0.3
report_s = 0.1
trial_slowdown = 1000.0
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with mosquitto() as running:
        yield running.url


@pytest.fixture
def op(broker: str) -> Iterator[Operator]:
    with operator(broker) as running:
        yield running


class Board:
    """A folder with a profile, a bundle and a delegate whose flavour a file says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.library = folder / "libnpu.so"
        shutil.copy(delegates.library(), self.library)
        self.switch = folder / "flavour"
        self.profile = delegates.board(
            folder, {"switch": str(self.switch), "after": "4500"}, path=self.library
        )
        self.bundle = tiny_folder(folder / "bundle", [delegates.accelerated(), delegates.on_cpu()])

    def new_library(self) -> None:
        """As a package manager puts another file in the place of the old one."""
        fresh = self.folder / "libnpu.new"
        shutil.copy(delegates.library(), fresh)
        fresh.rename(self.library)

    def flavour(self, word: str) -> None:
        """From the next start of a delegate on."""
        fresh = self.folder / "flavour.new"
        fresh.write_text(word)
        fresh.rename(self.switch)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


@contextmanager
def running(board: Board, broker: str) -> Iterator[Agent]:
    config = (
        f'device_id = "device-1"\nprofile = "{board.profile}"\nstate_dir = "state"\n'
        f'trust = "none"\n[broker]\nurl = "{broker}"\n{SETTINGS}'
    )
    made = Agent(board.folder / "agent", config, ["--bundle", str(board.bundle)])
    try:
        wait_for("agent serves", made.ready)
        yield made
    finally:
        made.end()


def runs_on(op: Operator, variant: str) -> Accelerator:
    """Wait until the device reports that it runs that variant."""

    def found() -> Accelerator | None:
        accelerator = op.reported.accelerator if op.reported is not None else None
        return accelerator if accelerator is not None and accelerator.variant == variant else None

    answer: Accelerator = wait_for(f"{variant} runs", found, 30)
    return answer


def told(op: Operator, kind: str) -> list[dict[str, Any]]:
    return [event for event in op.events if event["kind"] == kind]


def test_an_accelerator_comes_back_and_goes_and_no_request_is_lost(
    board: Board, broker: str, op: Operator
) -> None:
    board.flavour("crash")
    with running(board, broker) as agent:
        degraded = runs_on(op, "cpu")
        assert "npu: the delegate crashed: SIGSEGV in its first inference" in degraded.degraded
        assert degraded.actual.endswith(": cpu")
        (refused,) = wait_for("the refusal", lambda: told(op, "variant-refused"))
        assert refused["details"]["variant"] == "npu"
        assert refused["details"]["fault"] == "crash"
        clients = [Client(agent, "tiny", reuse=reuse) for reuse in (True, False)]
        for client in clients:
            client.start()
        board.flavour("correct")
        truth = runs_on(op, "npu")
        assert truth.degraded == ""
        assert str(board.library) in truth.actual
        (back,) = wait_for("the recovery", lambda: told(op, "accelerator-recovered"))
        assert back["details"]["before"] == "cpu"
        assert back["details"]["share"] == pytest.approx(delegates.SHARE)
        assert back["details"]["value"] > 0.999
        # Another driver is proved before it is trusted; and this one lies.
        board.flavour("wrong")
        board.new_library()
        lost = runs_on(op, "cpu")
        assert "npu: golden case" in lost.degraded
        assert lost.requested == truth.requested
        (event,) = wait_for("the loss", lambda: told(op, "accelerator-lost"))
        assert event["details"]["before"] == "npu"
        wait_for("the old worker is gone", lambda: len(agent.workers()) == 1)
        for client in clients:
            client.finish()
        assert [client.failures for client in clients] == [[], []]
        assert all(client.sent > 50 for client in clients)
        faults = [event["details"]["fault"] for event in told(op, "variant-refused")]
        assert faults == ["crash", "numbers"]
        assert told(op, "rolled-back") == []


def test_a_delegate_that_crashes_in_service_is_given_up_and_not_the_bundle(
    board: Board, broker: str, op: Operator
) -> None:
    board.flavour("crash-late")
    with running(board, broker) as agent:
        assert runs_on(op, "npu").degraded == ""
        client = Client(agent, "tiny", reuse=False)
        client.start()
        lost = runs_on(op, "cpu")
        assert "npu: crashed 2 times within 600 s" in lost.degraded
        (event,) = wait_for("the loss", lambda: told(op, "accelerator-lost"))
        assert event["details"]["before"] == "npu"
        assert "SIGSEGV" in event["text"]
        assert op.reported is not None
        assert op.reported.active is not None
        assert op.reported.refused == ()
        client.finish()
        assert told(op, "rolled-back") == []
        assert client.versions["1.0.0"] > 200
