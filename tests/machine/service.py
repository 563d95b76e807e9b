"""The installed agent of a running machine: its unit, its processes, its API, what it says."""

from __future__ import annotations

import time
from pathlib import Path

from tests.fakes.agents import wait_for
from tests.machine.inside import Api
from tests.machine.machine import Machine

UNIT = "edge-agent.service"
SOCKET = "edge-agent.socket"
STATE = "/var/lib/private/edge-agent"
READY_S = 90.0


class Service:
    """The agent on `machine`."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.api = Api(lambda: machine.leader)

    def show(self, name: str, unit: str = UNIT) -> str:
        """A property of the unit, as systemd has it now."""
        return self.machine.sh(f"systemctl show --value --property={name} {unit}")

    @property
    def active(self) -> bool:
        """Whether systemd says so."""
        return self.show("ActiveState") == "active"

    @property
    def pid(self) -> int:
        """Of the supervisor, in the machine; 0 where there is none."""
        return int(self.show("MainPID"))

    @property
    def restarts(self) -> int:
        """How often systemd has started it again by itself."""
        return int(self.show("NRestarts"))

    def workers(self) -> list[int]:
        """Process ids, in the machine, of workers that serve or get ready to."""
        return self._processes("edge_runtime.agent.worker")

    def processes(self) -> list[int]:
        """All of the unit, in the machine."""
        group = self.show("ControlGroup")
        listed = self.machine.sh(f"cat /sys/fs/cgroup/systemd{group}/cgroup.procs", fine=None)
        return [int(pid) for pid in listed.split()]

    def signal(self, name: str, *pids: int) -> None:
        """Send it."""
        self.machine.run("kill", f"-{name}", *map(str, pids))

    def wait_ready(self, timeout_s: float = READY_S) -> float:
        """Until it serves; the seconds that took."""
        begin_s = time.monotonic()
        try:
            wait_for("the agent serves", self.api.ready, timeout_s)
        except AssertionError as reason:
            status = self.machine.sh(f"systemctl status {UNIT} --no-pager", fine=None)
            raise AssertionError(f"{reason}\n{status}\n{self.journal()[-6000:]}") from None
        return time.monotonic() - begin_s

    def start_s(self) -> float:
        """Seconds from systemd's start of the process to its word that it is ready."""
        begin, end = (
            int(self.show(name))
            for name in ("InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
        )
        return (end - begin) / 1e6

    def journal(self, since: str = "", unit: str = UNIT) -> str:
        """What it said since `cursor`, or since this boot."""
        after = f"--after-cursor='{since}'" if since else "--boot"
        return self.machine.sh(f"journalctl --no-pager --output=cat --unit={unit} {after}")

    def complaints(self) -> str:
        """Warnings and worse of this boot: its own, and systemd's about it."""
        return self.machine.sh(
            f"journalctl --quiet --no-pager --output=cat --boot --priority=warning --unit={UNIT}"
        )

    def cursor(self) -> str:
        """The present end of the journal."""
        shown = self.machine.sh("journalctl --no-pager --lines=0 --show-cursor")
        return shown.rpartition("-- cursor: ")[2].strip()

    def drop_in(self, name: str, text: str, unit: str = UNIT) -> None:
        """Change the unit, as an administrator does."""
        self.machine.write(f"/etc/systemd/system/{unit}.d/{name}.conf", text)
        self.machine.sh("systemctl daemon-reload")

    def undo(self, name: str, unit: str = UNIT) -> None:
        """Take a change back."""
        self.machine.sh(f"rm /etc/systemd/system/{unit}.d/{name}.conf; systemctl daemon-reload")

    def restart(self) -> None:
        """As an administrator does; counts and limits begin anew."""
        self.machine.sh(f"systemctl reset-failed {UNIT}; systemctl restart {UNIT}", fine=None)

    def _processes(self, module: str) -> list[int]:
        found = []
        for pid in self.processes():
            words = Path(f"/proc/{self.machine.leader}/root/proc/{pid}/cmdline")
            try:
                if module.encode() in words.read_bytes():
                    found.append(pid)
            except OSError:
                continue
        return found
