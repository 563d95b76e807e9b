"""One machine: boot, commands, files, power-off, another boot of the same state.

Its root is an overlay: folders that are only read (a tree, and what earlier machines left on top of
it), and a folder of its own for what it writes. All mounts lie in a mount namespace, all processes
in a process namespace, and both end with the process that started them, even if that is killed.

The machine's time is the host's: Linux has no namespaces for it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.machine import groups, host
from tests.machine.network import Cable

BOOT_S = 60.0
OFF_S = 60.0
COMMAND_S = 120.0
INTERFACE = "host0"
NETWORK_UNIT = f"etc/systemd/network/10-{INTERFACE}.network"
# 1. into the groups; 2. mounts; 3. the machine.
START = """\
groups=$1; overlay=$2; root=$3; disk=$4; shift 4
for group in $groups; do echo 0 > "$group/cgroup.procs"; done
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=0755 tmpfs /run/systemd/nspawn
if [ -n "$disk" ]; then mount -o loop "$disk" "${disk%.img}"; fi
mount -t overlay -o "$overlay" overlay "$root"
exec systemd-nspawn "$@"
"""


class Machine:
    """A machine that is off. `shares` are folders of this host, by where the machine sees them."""

    def __init__(
        self, layers: Sequence[Path], folder: Path, *, shares: Mapping[str, Path] | None = None
    ) -> None:
        """`layers`: what it reads, the topmost first. `folder` gets what it writes."""
        self.name = f"edge-{secrets.token_hex(3)}"
        self.written = folder / "written"
        self.root = folder / "root"
        self.console = folder / "console.log"
        self.leader = 0
        self._layers = layers
        self._folder = folder
        self._shares = dict(shares or {})
        self._disk: tuple[Path, str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: list[Path] = []
        self._cable: Cable | None = None
        for place in ("written", "work", "root"):
            (folder / place).mkdir(parents=True, exist_ok=True)

    def add_disk(self, where: str, size_mib: int) -> None:
        """A disk with an ext4 of its own, mounted at `where`; before the first boot."""
        image = self._folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(size_mib << 20)
        command = ["mke2fs", "-q", "-t", "ext4", "-m", "0", str(image)]
        subprocess.run(command, env=host.environment(), check=True)
        image.with_suffix("").mkdir()
        self._disk = image, where

    def boot(self, cable: Cable | None = None, *options: str, plugged: bool = True) -> float:
        """Switch on and wait until systemd has started everything; the seconds that took.

        Without a cable it has a loopback only; with one that is not `plugged` it has a link that
        is down, and what waits for the network is not waited for. `options` are systemd-nspawn's.

        Raises:
            AssertionError: it does not come up; with what its console says.
        """
        assert self._process is None, "it is on"
        self._cable = cable
        if cable is not None:
            self._write_before_boot(NETWORK_UNIT, cable.unit())
        begin_s = time.monotonic()
        self._groups = groups.make()
        with self.console.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(cable, options),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=host.environment(),
            )  # fmt: skip
        try:
            self.leader = self._wait("its first process", self._find_leader)
            if cable is not None and plugged:
                cable.plug()
            self._wait("the end of its start", lambda: self._started(cable is not None and plugged))
        except BaseException:
            self.kill()
            raise
        return time.monotonic() - begin_s

    @property
    def on(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def power_off(self) -> None:
        """As its own button does: every service is stopped in order."""
        assert self._process is not None
        self.run("systemctl", "poweroff", fine=None)
        try:
            self._process.wait(OFF_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """At once; what it had not written yet is in the host's memory and so is not lost."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(OFF_S)
        if self._cable is not None:
            self._cable.remove()
        groups.remove(self._groups)
        self._groups = []
        self._cable = None
        self.leader = 0

    def run(
        self, *command: str, fine: Sequence[int] | None = (0,), input: bytes = b"",
        timeout_s: float = COMMAND_S,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """A command in the machine, as root. `fine`: exit codes that are; None: all.

        Raises:
            AssertionError: another exit code; with what it said.
        """
        inside = [
            "nsenter", "-t", str(self.leader), "-a", "env", "-i", "--chdir=/",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
        ]  # fmt: skip
        done = subprocess.run(
            [*inside, *command], input=input, capture_output=True, timeout=timeout_s,
            env=host.environment(), check=False,
        )  # fmt: skip
        out, err = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
        if fine is not None and done.returncode not in fine:
            raise AssertionError(f"{shlex.join(command)}: {done.returncode}\n{out}\n{err}")
        return subprocess.CompletedProcess(command, done.returncode, out, err)

    def sh(self, script: str, *, fine: Sequence[int] | None = (0,)) -> str:
        """What a script of the shell says, without the last newline."""
        return self.run("sh", "-c", script, fine=fine).stdout.rstrip("\n")

    def write(self, path: str, content: str | bytes) -> None:
        """A file in the running machine, with the folders above it."""
        data = content.encode() if isinstance(content, str) else content
        script = 'mkdir -p "$(dirname "$1")" && cat > "$1"'
        self.run("sh", "-c", script, "sh", path, input=data)

    def read(self, path: str) -> str:
        """A text of the running machine."""
        return self.run("cat", path).stdout

    def _write_before_boot(self, path: str, content: str) -> None:
        file = self.written / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)

    def _command(self, cable: Cable | None, options: Sequence[str]) -> list[str]:
        place = self._folder
        layers = ":".join(map(str, self._layers))
        overlay = f"lowerdir={layers},upperdir={self.written},workdir={place / 'work'}"
        disk = self._disk[0] if self._disk else ""
        # Its death is everybody's in there, and it dies with this process.
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]
        command += ["--kill-child", "--mount-proc", "--propagation", "private"]
        command += ["sh", "-euc", START, "start", " ".join(map(str, self._groups)), overlay]
        command += [str(self.root), str(disk)]
        command += ["--quiet", f"--directory={self.root}", f"--machine={self.name}"]
        command += ["--register=no", "--console=pipe", "--private-users=identity", "--boot"]
        if not groups.host_has_systemd():
            command.append("--keep-unit")
        command.append("--private-network")
        if cable is not None:
            command.append(f"--network-veth-extra={cable.link}:{INTERFACE}")
        if self._disk:
            command.append(f"--bind={self._disk[0].with_suffix('')}:{self._disk[1]}")
        for where, folder in self._shares.items():
            command.append(f"--bind-ro={folder}:{where}")
        return [*command, *options]

    def _wait(self, what: str, found: Callable[[], int]) -> int:
        end_s = time.monotonic() + BOOT_S
        while time.monotonic() < end_s:
            assert self.on, f"{self.name} went off\n{self._said()}"
            answer = found()
            if answer:
                return answer
            time.sleep(0.02)
        raise AssertionError(f"{self.name}: no {what} within {BOOT_S:g} s\n{self._said()}")

    def _find_leader(self) -> int:
        """unshare, systemd-nspawn, and its child, once that is systemd."""
        assert self._process is not None
        nspawn = _children(self._process.pid)
        for pid in _children(nspawn[0]) if nspawn else ():
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                if name == "systemd" and os.readlink(f"/proc/{pid}/ns/pid") != os.readlink(
                    f"/proc/{nspawn[0]}/ns/pid"
                ):
                    return pid
        return 0

    def _started(self, plugged: bool) -> bool:
        done = self.run("systemctl", "is-system-running", fine=None)
        # Without its cable it goes on to wait for the network, for minutes.
        enough = ("running", "degraded") if plugged else ("starting", "running", "degraded")
        return done.stdout.strip() in enough

    def _said(self) -> str:
        return self.console.read_text(errors="replace")[-3000:]


@contextmanager
def booted(machine: Machine, cable: Cable | None = None, *options: str) -> Iterator[Machine]:
    """A machine that is on, and off and gone with the test."""
    machine.boot(cable, *options)
    try:
        yield machine
    finally:
        machine.kill()


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]
