"""What is proven on every Debian: ways that a board goes, each from its start to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.fakes.agents import Client, wait_for
from tests.machine.board import MEDIA, Board
from tests.machine.fleet import DEVICE, MODEL
from tests.machine.package import FIRST, SECOND
from tests.machine.service import SOCKET, STATE, Service

Record = Callable[[str, object], None]
"""Of numbers that a test has measured: `record_property`."""
ONLINE_S = 60.0
PAUSE_S = 0.01
"""Between two requests of a client, so that there is time for what happens meanwhile."""


def whole_way(board: Board, device: str, record_property: Record) -> None:
    """From the installed package to answers and reports."""
    identity = board.identity(device)
    with board.on(board.machine(board.installed)) as service:
        machine = service.machine
        assert machine.sh("systemctl is-system-running") == "running"
        assert service.show("ActiveState") == "inactive"
        assert service.show("Result") == "success"
        assert service.complaints() == ""
        assert machine.sh("edge-agent --version").endswith(FIRST)

        begin_s = time.monotonic()
        said = machine.run("edge-agent", "setup", identity)
        record_property("setup_s", round(time.monotonic() - begin_s, 2))
        assert "Traceback" not in said.stderr
        assert service.active
        service.wait_ready()
        assert service.api.answer(MODEL) == "1.0.0"
        status = wait_for("a report", lambda: board.fleet.status(device))
        assert status["online"] is True
        assert machine.sh("systemctl --failed --no-legend") == ""
        again = machine.run("edge-agent", "setup", identity)
        assert "Traceback" not in again.stderr
        assert service.api.answer(MODEL) == "1.0.0"


def killed_meanwhile(agent: Service) -> None:
    """SIGKILL of the supervisor, and a client that connects for every request."""
    agent.wait_ready()
    before, killed = agent.restarts, agent.pid
    client = Client(agent.api, MODEL, reuse=False)
    client.start()
    wait_for("answers", lambda: client.sent > 5)
    agent.signal("KILL", killed)
    wait_for("another supervisor", lambda: agent.pid not in (0, killed))
    agent.wait_ready()
    sent = client.sent
    wait_for("answers", lambda: client.sent > sent + 5)
    client.finish()
    # Its workers are ended with it, and perhaps in the middle of one request.
    assert len(client.failures) <= 1, client.failures
    assert agent.restarts == before + 1
    assert agent.show("ActiveState", SOCKET) == "active"


def upgraded(board: Board, record_property: Record) -> None:
    """The second package while clients ask without a pause, and back again."""
    with board.serving() as service:
        machine = service.machine
        config = machine.sh("cd /etc/edge-agent && sha256sum *")
        before = service.pid
        clients = [
            Client(service.api, MODEL, reuse=reuse, pause_s=PAUSE_S) for reuse in (True, False)
        ]
        for client in clients:
            client.start()
        begin_s = time.monotonic()
        machine.run("dpkg", "-i", board.deb(SECOND), timeout_s=600)
        record_property("upgrade_s", round(time.monotonic() - begin_s, 1))
        wait_for("the new agent runs", lambda: service.pid not in (0, before))
        service.wait_ready()
        sent = sum(client.sent for client in clients)
        wait_for("more answers", lambda: sum(client.sent for client in clients) > sent + 20)
        for client in clients:
            client.finish()
        record_property("asked_meanwhile", sum(client.sent for client in clients))
        assert [client.failures[:3] for client in clients] == [[], []]
        assert machine.sh("edge-agent --version").endswith(SECOND)
        assert machine.sh("cd /etc/edge-agent && sha256sum *") == config
        assert service.api.answer(MODEL) == "1.0.0"
        assert machine.sh("systemctl --failed --no-legend") == ""


def purged(board: Board) -> None:
    """Install, set up, remove, install, purge; and what is on the disk that was not before."""
    identity = board.identity("press-2")
    with board.on(board.machine([board.tree])) as service:
        machine = service.machine
        before = files(service)
        machine.run("dpkg", "-i", board.deb(), timeout_s=600)
        machine.run("edge-agent", "setup", identity)
        service.wait_ready()

        machine.run("dpkg", "--remove", "edge-agent")
        assert service.show("ActiveState") == "inactive"
        assert service.show("ActiveState", SOCKET) == "inactive"
        left = files(service) - before
        assert "/etc/edge-agent/device.key" in left, "an identity is lost with a removed package"
        assert f"{STATE}/journal.json" in left
        assert not [path for path in left if path.startswith(("/usr/", "/opt/"))]

        machine.run("dpkg", "-i", board.deb(), timeout_s=600)
        service.wait_ready()
        assert service.api.answer(MODEL) == "1.0.0"

        machine.run("dpkg", "--purge", "edge-agent")
        assert sorted(files(service) - before) == []
        assert machine.sh("systemctl --failed --no-legend") == ""
        assert machine.sh("systemctl list-unit-files 'edge-agent*' --no-legend", fine=None) == ""
        machine.run("dpkg", "-i", board.deb(), timeout_s=600)
        assert service.show("ActiveState") == "inactive"
        machine.run("edge-agent", "setup", identity)
        service.wait_ready()


def files(service: Service) -> set[str]:
    """Everything that lasts, but what dpkg, systemd and the machine's own use of it leave."""
    others = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log", "/var/lib/dpkg",
              "/var/lib/systemd", "/var/cache/ldconfig", MEDIA)  # fmt: skip
    prune = " -o ".join(f"-path {path}" for path in others)
    return set(service.machine.sh(f"find / \\( {prune} \\) -prune -o -print").splitlines())


def without_network(board: Board) -> None:
    """Boot with the cable pulled, and put it in later."""
    with board.on(board.machine(board.enrolled), plugged=False) as service:
        service.wait_ready()
        assert service.active
        assert service.api.answer(MODEL) == "1.0.0"
        heard = board.fleet.status(DEVICE)
        board.cable.plug()
        wait_for("a report of this start", lambda: newer(board, heard), ONLINE_S)
        board.cable.cut()
        assert service.api.answer(MODEL) == "1.0.0"


def newer(board: Board, heard: Any) -> Any:
    """What the fleet hears of an agent that has started after `heard`; None before."""
    status = board.fleet.status(DEVICE)
    if not status or not status["online"] or not status["reported"]:
        return None
    if heard and heard["reported"]:
        same = status["reported"]["boot_id"] == heard["reported"]["boot_id"]
        return None if same else status
    return status
