"""Switched off and on: what the installed service needs to serve, and what it does without."""

from __future__ import annotations

import time

import pytest

from tests.fakes.agents import wait_for
from tests.machine import ways
from tests.machine.board import Board
from tests.machine.fleet import MODEL
from tests.machine.service import STATE, Service

pytestmark = [pytest.mark.machine, pytest.mark.timeout(900), pytest.mark.full]
CLOCK = "edge-agent-clock.service"
ANYWHERE = "[Unit]\nConditionVirtualization=\n"


def test_a_board_without_its_network_serves_and_reports_once_it_is_there(deb12: Board) -> None:
    ways.without_network(deb12)


def test_a_slow_and_broken_line_is_no_reason_not_to_serve(deb12: Board) -> None:
    with deb12.on(deb12.machine(deb12.enrolled)) as service:
        deb12.cable.slow(64)
        service.wait_ready()
        assert service.api.answer(MODEL) == "1.0.0"


def test_after_a_reboot_without_a_network_it_tests_itself_and_serves(deb12: Board) -> None:
    machine = deb12.machine(deb12.enrolled)
    with deb12.on(machine) as service:
        service.wait_ready()
        machine.power_off()
    for _ in range(2):
        machine.boot()
        try:
            service = Service(machine)
            service.wait_ready()
            assert service.api.answer(MODEL) == "1.0.0"
            assert "self-test" in service.journal()
            assert service.restarts == 0
        finally:
            # Like a power cut: nothing is stopped in order.
            machine.kill()


def test_a_machine_that_nobody_tells_the_time_waits_for_it_but_not_for_long(
    deb12: Board, record_property: ways.Record
) -> None:
    machine = deb12.machine(deb12.enrolled)
    with deb12.on(machine) as service:
        service.wait_ready()
        service.drop_in("here", ANYWHERE, CLOCK)
        told = machine.sh("edge-agent await-clock --timeout 0.1 --json", fine=(0, 1))
        right = '"right": true' in told
        machine.power_off()
    begin_s = time.monotonic()
    machine.boot(deb12.cable, plugged=False)
    try:
        service = Service(machine)
        service.wait_ready()
        record_property("boot_to_serving_s", round(time.monotonic() - begin_s, 1))
        waited_s = seconds(service, "ExecMainExitTimestampMonotonic") - seconds(
            service, "ExecMainStartTimestampMonotonic"
        )
        # The time of a machine is its host's, and may be right.
        assert waited_s < 35.0
        assert right or waited_s > 15.0
        assert service.show("Result", CLOCK) == "success"
        assert service.api.answer(MODEL) == "1.0.0"
    finally:
        machine.kill()


def seconds(service: Service, name: str) -> float:
    """A time of the clock unit."""
    return int(service.show(name, CLOCK)) / 1e6


def test_a_read_only_root_is_enough_where_the_state_can_be_written(deb12: Board) -> None:
    machine, heard = deb12.machine(deb12.enrolled), deb12.fleet.status()
    with deb12.on(machine, "--read-only", f"--bind={machine.root}/var:/var") as service:
        assert machine.sh("touch /etc/x || echo read-only", fine=None) == "read-only"
        service.wait_ready()
        assert service.api.answer(MODEL) == "1.0.0"
        wait_for("a report of this start", lambda: ways.newer(deb12, heard), ways.ONLINE_S)


def test_where_nothing_can_be_written_it_serves_what_it_has_and_says_so(deb12: Board) -> None:
    heard = deb12.fleet.status()
    with deb12.on(deb12.machine(deb12.enrolled), "--read-only") as service:
        assert service.machine.sh("touch /var/x || echo no", fine=None) == "no"
        service.wait_ready()
        assert service.api.answer(MODEL) == "1.0.0"
        wait_for("a report of this start", lambda: ways.newer(deb12, heard), ways.ONLINE_S)
        said = service.complaints()
        assert "journal.json: cannot be written (Read-only file system)" in said
        assert "Traceback" not in said
        assert service.restarts == 0


def test_a_bundle_on_a_stick_is_installed_where_there_is_no_network(deb12: Board) -> None:
    stick = deb12.stick("3.0.0")
    with deb12.on(deb12.machine(deb12.enrolled), plugged=False) as service:
        service.wait_ready()
        command = ["install", "--config", "/etc/edge-agent/agent.toml", stick, f"{MODEL}==3.0.0"]
        service.machine.run("edge-agent", *command)
        service.wait_ready()
        assert service.api.answer(MODEL) == "3.0.0"
        # Nothing is left that the agent's own user cannot read.
        service.restart()
        service.wait_ready()
        assert service.api.answer(MODEL) == "3.0.0"
        assert "Traceback" not in service.journal()


def test_a_full_disk_stops_updates_with_a_reason_and_nothing_else(deb12: Board) -> None:
    device, machine = "press-3", deb12.machine(deb12.installed)
    machine.add_disk("/var/lib/private", 24)
    identity = deb12.identity(device)
    deb12.fleet.publish("2.0.0", own_bytes=2_000_000)
    with deb12.on(machine) as service:
        machine.run("edge-agent", "setup", identity)
        service.wait_ready()
        machine.sh(f"cat /dev/zero > {STATE}/../filler; df {STATE}", fine=None)
        free_kb = machine.sh(f"df --output=avail {STATE} | tail -1")
        assert int(free_kb) < 100
        made = deb12.fleet.deploy("2.0.0", "--wait", 30, device=device, code=1)
        reason = str(made["reason"] or deb12.fleet.status(device)["reported"]["reason"])
        assert any(word in reason for word in ("disk", "space", "bytes free")), made
        assert service.api.answer(MODEL) == "1.0.0"

        service.restart()
        service.wait_ready()
        assert service.api.answer(MODEL) == "1.0.0"

        machine.sh(f"rm {STATE}/../filler")
        made = deb12.fleet.deploy("2.0.0", "--retry", "--wait", 60, device=device)
        assert made["outcome"] == "serving"
        assert service.api.answer(MODEL) == "2.0.0"
        assert machine.sh("systemctl --failed --no-legend") == ""
