"""`edge-agent install`: a bundle from a file or a stick, on a board that nobody reaches from afar.

Where an agent runs, it is asked, and what becomes of it is read from the journal; where none does,
one is run here until the bundle serves or is refused, and ends. Either way the bundle passes the
same checks as one over the broker: who signed it, every digest, the profile, the self-test.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.given import Given, look_through
from edge_runtime.agent.installer import Request, Result
from edge_runtime.agent.state_folder import holder_pid, owner
from edge_runtime.agent.supervisor import Supervisor
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.errors import (
    DeviceError,
    EdgeError,
    IncompatibleError,
    InputError,
    UntrustedError,
)
from edge_runtime.fields import Json
from edge_runtime.messages.fleet import BundleRef, Refusal
from edge_runtime.profile import load_profile
from edge_runtime.update.journal import Journal
from edge_runtime.update.record import Record

POLL_S = 0.2
LISTEN_S = 10.0
"""How long an agent that has just started may take to listen to a knock."""
SERVING = ("trial", "idle")


@dataclass(frozen=True, slots=True)
class Installed:
    """What came of it: the bundle that serves, and whether an agent that runs serves it now."""

    bundle: BundleRef
    running: bool

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        b = self.bundle
        return {
            "name": b.name,
            "version": b.version,
            "manifest_sha256": b.manifest_sha256,
            "running": self.running,
        }


@dataclass(frozen=True, slots=True)
class _Standing:
    """Where an update stands, whoever knows it."""

    state: str
    active: BundleRef | None
    refused: tuple[Refusal, ...]
    reason: str

    def judge(self, digest: str, since: int) -> BundleRef | None:
        """The bundle once it serves; None while it is under way.

        Args:
            since: refusals at lower attempts are of the past.

        Raises:
            UntrustedError: it was refused.
            DeviceError: it waits for something that may never come.
        """
        if self.active and self.active.manifest_sha256 == digest and self.state in SERVING:
            return self.active
        for refusal in self.refused:
            if refusal.manifest_sha256 == digest and refusal.attempt >= since:
                raise UntrustedError(f"refused: {refusal.reason}")
        if self.state == "waiting":
            raise DeviceError(f"not installed: {self.reason}")
        return None


def install(
    config: AgentConfig,
    path: Path,
    release: str | None,
    version: str,
    timeout_s: float,
    on_state: Callable[[str], None] = lambda _state: None,
) -> Installed:
    """Install the bundle at `path`, or `release` out of the repository there.

    Args:
        version: of this software, as it is reported.
        on_state: told each state that the update enters.

    Raises:
        InputError, UntrustedError, IncompatibleError, TransferError: the bundle is none, was
            refused, or is not for this device; or the state folder is another user's.
        DeviceError: it cannot be kept, or not within `timeout_s`.
    """
    _demand_owner(config.state_dir)
    store = ChunkStore(config.state_dir / "chunks")
    profile = replace(load_profile(config.profile), tasks=config.tasks)
    given = look_through(path, release, profile, store)
    record = Journal(config.state_dir / "journal.json").load() or Record()
    _demand_free(record, given)
    since = _since(record.refused, given.manifest_sha256)
    pid = holder_pid(config.state_dir)
    if pid is not None:
        request = Request(Path(os.path.realpath(path)), release, os.urandom(8).hex())
        return _ask(config, request, given, since, pid, timeout_s, on_state)
    supervisor = Supervisor(config, version)
    end_s = time.monotonic() + timeout_s
    found: list[BundleRef] = []
    faults: list[EdgeError] = []
    told = ""

    def over() -> bool:
        nonlocal told
        s = supervisor.status
        if s is None:
            return False
        if s.state != told:
            told = s.state
            on_state(told)
        try:
            standing = _Standing(s.state, s.active, s.refused, s.reason)
            bundle = standing.judge(given.manifest_sha256, since)
        except EdgeError as reason:
            faults.append(reason)
            return True
        if bundle is not None:
            found.append(bundle)
        return bool(found) or time.monotonic() > end_s

    supervisor.run(path, release, over)
    if faults:
        raise faults[0]
    if not found:
        raise DeviceError(f"{given.reader.where}: not installed within {timeout_s:g} s")
    return Installed(found[0], running=False)


def _demand_owner(state: Path) -> None:
    """Raises InputError: what we wrote there, the agent could not read, or not replace."""
    name = owner(state)
    if name is not None:
        raise InputError(
            f"state folder {state} belongs to user {name}; run it as that user: "
            f"sudo -u {name} edge-agent install …"
        )


def _since(refused: tuple[Refusal, ...], digest: str) -> int:
    """The attempt that naming a refused bundle again makes."""
    return max((r.attempt + 1 for r in refused if r.manifest_sha256 == digest), default=0)


def _demand_free(record: Record, given: Given) -> None:
    """Raises IncompatibleError: the operator desires another bundle."""
    if record.desired is None or record.local:
        return
    wanted = record.desired.release
    if wanted is None or wanted.manifest.sha256 != given.manifest_sha256:
        named = f"{wanted.name} {wanted.version}" if wanted is not None else "no bundle"
        raise IncompatibleError(
            f"{given.reader.where}: the operator desires {named} on this device, and their word "
            "stands; use edge-fleet deploy"
        )


def _ask(
    config: AgentConfig,
    request: Request,
    given: Given,
    since: int,
    pid: int,
    timeout_s: float,
    on_state: Callable[[str], None],
) -> Installed:
    """Ask the agent whose process is `pid`, and follow its journal from its result on."""
    journal = Journal(config.state_dir / "journal.json")
    digest = given.manifest_sha256
    request.leave(config.state_dir)
    _knock(pid)
    end_s = time.monotonic() + timeout_s
    told = ""
    taken = False
    while time.monotonic() < end_s:
        if not taken:
            result = Result.find(config.state_dir, request.token)
            if result is not None:
                result.demand_taken()
                taken = True
        record = journal.load() if taken else None
        if record is not None:
            if record.state.value != told:
                told = record.state.value
                on_state(told)
            wanted = record.desired.release if record.desired is not None else None
            ours = wanted is not None and wanted.manifest.sha256 == digest
            if not ours:
                _demand_free(record, given)
            standing = _Standing(told, record.active, record.refused, record.reason)
            bundle = standing.judge(digest, since) if ours else None
            if bundle is not None:
                return Installed(bundle, running=True)
        if holder_pid(config.state_dir) != pid:
            raise DeviceError(f"the agent (process {pid}) ended; see its log")
        time.sleep(POLL_S)
    raise DeviceError(
        f"{given.reader.where}: not installed within {timeout_s:g} s; see the agent's log"
    )


def _knock(pid: int) -> None:
    """SIGUSR1, once the agent listens to it: before, it would end the process."""
    end_s = time.monotonic() + LISTEN_S
    while not _listens(pid):
        if time.monotonic() > end_s:
            raise DeviceError(f"process {pid} has the state folder, but is no agent that listens")
        time.sleep(POLL_S)
    try:
        os.kill(pid, signal.SIGUSR1)
    except OSError as reason:
        raise DeviceError(
            f"the agent (process {pid}) cannot be asked ({reason.strerror})"
        ) from None


def _listens(pid: int) -> bool:
    """Whether the process catches SIGUSR1, by its mask in /proc."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(
        (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0"
    )
    return bool(int(caught, 16) >> (signal.SIGUSR1 - 1) & 1)
