"""The agent itself: does it run, which release is installed, does it start by itself, its port."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

from edge_runtime.agent.doctor.finding import Finding, obstacle, ok, unknown, warning
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.agent.state_folder import holder, owner
from edge_runtime.version import release

UNIT = "edge-agent.service"
UNIT_FOLDERS = ("etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system",
                "lib/systemd/system")  # fmt: skip


def running(scene: Scene) -> Iterator[Finding]:
    """Whether an agent has this state folder."""
    if scene.state_dir is None:
        return
    pid = scene.agent_pid
    if pid is not None:
        yield ok("agent.running", f"process {pid}", values={"pid": pid})
    elif held := holder(scene.state_dir):
        yield unknown("agent.running", held)
    elif (who := owner(scene.state_dir)) is not None and os.geteuid():
        yield unknown(
            "agent.running",
            f"{scene.state_dir} belongs to {who}",
            f"run the doctor as that user: sudo -u {who} edge-agent doctor …",
        )
    else:
        yield ok("agent.running", "no; nothing serves", values={"pid": None})


def version(scene: Scene) -> Iterator[Finding]:
    """Of what is installed here."""
    found = release()
    if found is None:
        yield unknown("agent.version", "runs from source that nothing installed")
    else:
        yield ok("agent.version", found, values={"version": found})


def service(scene: Scene) -> Iterator[Finding]:
    """A unit of systemd, which starts the agent again after a crash or a power cut."""
    if scene.config is None:
        return
    if not (scene.root / "run/systemd/system").is_dir():
        yield ok("agent.service", "no systemd here; whatever starts the agent must start it again")
        return
    units = [f"/{folder}/{UNIT}" for folder in UNIT_FOLDERS
             if (scene.root / folder / UNIT).exists()]  # fmt: skip
    wanted = any((scene.root / "etc/systemd/system").glob(f"*.wants/{UNIT}"))
    if not units:
        yield warning(
            "agent.service",
            f"no {UNIT}: after a power cut nothing starts the agent",
            "install a unit that runs edge-agent run --config … with Type=notify and "
            "Restart=always",
        )
    elif not wanted:
        yield warning(
            "agent.service",
            f"{units[0]} is not enabled: after a power cut nothing starts the agent",
            f"sudo systemctl enable {UNIT}",
        )
    else:
        yield ok("agent.service", f"{units[0]}, enabled")


def api(scene: Scene) -> Iterator[Finding]:
    """Whether its port can be had, or is its own already."""
    if scene.config is None:
        return
    host, port = scene.config.api.host, scene.config.api.port
    where = f"{host} port {port}" if port else f"{host}, any free port"
    if scene.agent_pid is not None:
        yield ok("agent.api", f"{where}, the agent has it")
        return
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Not shared: a port that another program has bound shall be told.
            probe.bind((host, port))
    except OSError as reason:
        taken = reason.errno == errno.EADDRINUSE
        yield obstacle(
            "agent.api",
            f"{where} cannot be used ({reason.strerror})",
            f"find who has it: sudo ss -ltnp sport = :{port}; or set another port in [api]"
            if taken
            else "host of [api] must be an address of this machine; a port below 1024 needs root",
        )
    else:
        yield ok("agent.api", f"{where} is free" if port else where)


def sources(scene: Scene) -> Iterator[Finding]:
    """Where metadata and chunks come from, in order."""
    if scene.config is not None:
        names = list(scene.config.sources)
        yield ok(
            "agent.sources",
            ", ".join(names) or "none: bundles come by hand",
            values={"sources": names},
        )
