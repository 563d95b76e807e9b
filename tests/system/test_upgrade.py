"""The agent's own update on a Debian with systemd: over the air, from one real package to the next.

Which ways it can go wrong is in `test_agent_updates.py`, without systemd; here is what only systemd
shows: the path unit, the helper's sandbox, restarts that it counts, a boot.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.bundle.agent_package import own_platform
from tests.fakes import debs
from tests.fakes.agents import Client, wait_for
from tests.machine import ways
from tests.machine.board import Board
from tests.machine.fleet import MODEL
from tests.machine.package import FIRST, SECOND, package
from tests.machine.service import STATE, Service

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1200), pytest.mark.full]
HELPER = "edge-agent-upgrade.service"
RELEASES = "/var/lib/edge-agent-releases"
WAIT_S = 400
CRASHES = {
    "edge_runtime/agent/supervisor.py": "\n\ndef _run(self, *a, **k):\n    raise SystemExit(7)\n\n"
    "Supervisor.run = _run\n"
}


class Updatable:
    """A board of its own, with the first package, which serves and has reported."""

    def __init__(self, board: Board, device: str, service: Service) -> None:
        self.service = service
        self._board = board
        self._device = device
        service.machine.run("edge-agent", "setup", board.identity(device))
        service.wait_ready()
        wait_for("a report", lambda: self.reported is not None)

    def deploy(self, version: str, code: int = 0) -> Any:
        """What became of its agent."""
        arguments = ["deploy", f"edge-agent=={version}", "--device", self._device, "--wait", WAIT_S]
        (row,) = self._board.fleet.ask_broker(*arguments, code=code)["devices"]
        return row

    @property
    def reported(self) -> Any:
        """What it reported last."""
        found = self._board.fleet.status(self._device)
        return found["reported"] if found is not None else None

    @property
    def helper_said(self) -> str:
        """In this boot."""
        return self.service.journal(unit=HELPER)


def test_a_new_agent_comes_over_the_air_serves_on_and_survives_a_restart_of_the_board(
    deb12: Board, record_property: ways.Record
) -> None:
    deb12.fleet.ask_broker("publish", package("deb12", SECOND))
    machine = deb12.machine(deb12.installed)
    with deb12.on(machine) as service:
        board = Updatable(deb12, "up-1", service)
        assert machine.sh("systemctl is-active edge-agent-upgrade.path") == "active"
        assert board.reported["agent"]["platform"] == own_platform()
        client = Client(service.api, MODEL, reuse=False)
        client.start()
        before, begin_s = service.pid, time.monotonic()
        row = board.deploy(SECOND)
        record_property("over_the_air_s", round(time.monotonic() - begin_s, 1))
        client.finish()
        assert row["outcome"] == "serving", board.helper_said
        assert client.failures == []
        assert service.pid != before
        said = board.reported
        assert (said["agent_version"], said["active"]["name"]) == (SECOND, MODEL)
        tree = machine.sh(f"readlink {RELEASES}/current")
        assert tree.startswith(f"{SECOND}-")
        assert machine.sh(f"stat -c '%U %a' {RELEASES} {RELEASES}/{tree}") == "root 755\nroot 755"
        wait_for("the helper ends", lambda: service.show("ActiveState", HELPER) == "inactive")
        assert service.show("Result", HELPER) == "success"
        assert machine.sh(f"ls {STATE}/upgrade; ls {RELEASES}/open", fine=None) == ""
        assert machine.sh("systemctl --failed --no-legend") == ""
        assert machine.sh("edge-agent --version").endswith(SECOND)
        assert machine.sh(f"ls {RELEASES}/{tree}/edge_runtime/__pycache__ | wc -l") != "0"
        machine.power_off()
        machine.boot(deb12.cable)
        service.wait_ready()
        wait_for("the new one again", lambda: board.reported["agent_version"] == SECOND)
        assert service.api.answer(MODEL) == "1.0.0"


def test_a_new_agent_that_crashes_is_taken_back_and_the_old_one_says_why(
    deb12: Board, tmp_path: Path
) -> None:
    version = "0.1.2"
    bad = tmp_path / f"edge-agent_{version}+deb12_amd64.deb"
    bad.write_bytes(debs.changed(package("deb12", FIRST), version, CRASHES))
    deb12.fleet.ask_broker("publish", bad)
    with deb12.on(deb12.machine(deb12.installed)) as service:
        board = Updatable(deb12, "up-2", service)
        row = board.deploy(version, code=1)
        assert row["outcome"] == "refused", board.helper_said
        # Three are enough; a busy machine may see one more before it has stopped.
        assert re.search("it ended by itself [3-5] times", row["reason"])
        service.wait_ready()
        assert board.reported["agent_version"] == FIRST
        assert service.api.answer(MODEL) == "1.0.0"
        assert service.machine.sh(f"readlink {RELEASES}/current; ls {RELEASES}", fine=None) == (
            "journal.json\ntrust"
        )


def test_the_agent_can_write_nothing_that_root_starts_and_hand_over_nothing_but_requests(
    deb12: Board,
) -> None:
    with deb12.on(deb12.machine(deb12.installed)) as service:
        board, machine = Updatable(deb12, "up-3", service), service.machine
        user = machine.sh(f"stat -c %u {STATE}")
        as_agent = f"setpriv --reuid={user} --regid={user} --clear-groups"
        machine.sh(f"mkdir -p {RELEASES}")
        for command in (
            f"touch {RELEASES}/x",
            f"ln -sfn /tmp {RELEASES}/current",
            "touch /usr/lib/edge-agent/x",
        ):
            said = machine.sh(f"{as_agent} {command} 2>&1; echo $?", fine=None)
            assert "Permission denied" in said, command
            assert said.endswith("1"), command
        # A request that is none: a link to what only root may read.
        machine.sh(f"mkdir -p {STATE}/upgrade && ln -s /etc/shadow {STATE}/upgrade/request.json")
        wait_for("it is gone", lambda: machine.sh(f"ls {STATE}/upgrade", fine=None) == "")
        assert "request refused" in board.helper_said
        assert "root:" not in board.helper_said
        assert machine.sh(f"ls {RELEASES}/current", fine=None) == ""
        assert machine.sh("test -e /etc/shadow && echo there") == "there"
        verified = machine.run(
            "systemd-analyze", "verify", f"/usr/lib/systemd/system/{HELPER}",
            "/usr/lib/systemd/system/edge-agent-upgrade.path",
        )  # fmt: skip
        assert verified.stderr == ""
        shown = machine.sh(f"systemd-analyze security --no-pager {HELPER}", fine=None)
        assert float(shown.rpartition(f"exposure level for {HELPER}:")[2].split()[0]) <= 3.0
