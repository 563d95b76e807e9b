"""`edge-agent setup` under a real systemd: by a token, with a first bundle, and back again."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from edge_runtime.fleet.home import Home
from tests.fakes.agents import wait_for
from tests.fakes.enrolling import Enrolling, enrolling
from tests.machine.board import Board
from tests.machine.fleet import MODEL
from tests.machine.machine import Machine

pytestmark = [pytest.mark.system, pytest.mark.machine]
PASSPHRASE = "correct horse battery"


@pytest.fixture
def served(deb12: Board) -> Iterator[Enrolling]:
    home = Home(deb12.fleet.home)
    with enrolling(home, passphrase=PASSPHRASE, host=deb12.cable.host) as made:
        yield made


def setup(machine: Machine, *words: str, code: int = 0) -> dict[str, object]:
    done = machine.run("edge-agent", "setup", *words, "--json", fine=(code,))
    found = json.loads(done.stdout) if done.stdout else {}
    return {**found, "stderr": done.stderr}


def first_left(machine: Machine) -> str:
    return machine.sh(
        "ls -d /var/lib/edge-agent-first* /etc/systemd/system/edge-agent.service.d/60-* "
        "/etc/edge-agent.* 2>/dev/null",
        fine=None,
    )


def test_a_token_makes_a_device_that_serves_reports_and_survives_a_reboot(
    deb12: Board, served: Enrolling
) -> None:
    token = served.token("press-41")
    machine = deb12.machine(deb12.installed)
    with deb12.on(machine) as service:
        done = setup(machine, "--token", token.text)
        assert (done["device"], done["ready"], done["changed"]) == ("press-41", True, True)
        assert service.active
        assert machine.sh("systemctl is-enabled edge-agent.service edge-agent.socket") == (
            "enabled\nenabled"
        )
        assert machine.sh("stat -c %a,%U /etc/edge-agent /etc/edge-agent/device.key") == (
            "700,root\n600,root"
        )
        assert first_left(machine) == ""
        status = wait_for("a report", lambda: deb12.fleet.status("press-41"))
        assert status["online"] is True
        pid = service.pid
        again = setup(machine, "--token", token.text)
        assert (again["ready"], again["changed"]) == (True, False)
        assert service.pid == pid, "a set-up that changes nothing restarts nothing"
        machine.power_off()
    with deb12.on(machine) as service:
        wait_for("the service after a boot", lambda: service.active)


def test_a_used_token_leaves_a_machine_as_it_was(deb12: Board, served: Enrolling) -> None:
    token = served.token("press-42")
    served.token("press-42")
    machine = deb12.machine(deb12.installed)
    with deb12.on(machine) as service:
        done = setup(machine, "--token", token.text, code=3)
        assert "not known to this fleet" in str(done["stderr"])
        assert service.show("ActiveState") == "inactive"
        assert machine.sh("ls /etc/edge-agent", fine=None) == ""


def test_a_first_bundle_serves_without_a_network_and_its_copy_is_gone(deb12: Board) -> None:
    identity = deb12.identity("press-43")
    machine = deb12.machine(deb12.installed)
    with deb12.on(machine, plugged=False) as service:
        done = setup(machine, identity, "--offline")
        assert (done["ready"], done["bundle"], done["why"]) == (True, "serves", "")
        assert service.api.answer(MODEL) == "1.0.0"
        assert first_left(machine) == ""


def test_an_identity_that_does_not_become_ready_gives_way_to_the_one_before(deb12: Board) -> None:
    identity = deb12.identity("press-44", first=False)
    other = deb12.identity("press-45", first=False)
    machine = deb12.machine(deb12.installed)
    with deb12.on(machine) as service:
        assert setup(machine, identity)["ready"]
        before = machine.sh("cd /etc/edge-agent && sha256sum *")
        machine.sh(f"cp -r {other} /root/other")
        # An address that no machine here has: nothing can listen on it.
        machine.sh("printf '\\n[api]\\nhost = \"203.0.113.9\"\\n' > /root/api")
        machine.sh(
            "sed -i '/^\\[api\\]/d' /root/other/agent.toml; cat /root/api >> /root/other/agent.toml"
        )
        done = setup(machine, "/root/other", "--force", "--timeout", "12", code=1)
        assert "edge-agent.service did not become ready: " in str(done["stderr"])
        assert "press-44, is in place again, and ready" in str(done["stderr"])
        assert machine.sh("cd /etc/edge-agent && sha256sum *") == before
        assert service.active
        assert first_left(machine) == ""
