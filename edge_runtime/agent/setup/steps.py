"""`edge-agent setup`: a board that already runs becomes a device of a fleet, by one command.

Order, each step safe to repeat after a power cut at any point:
1 this machine can be set up at all: root, systemd, the package's units;
2 an identity: the folder that was given, or one that a token brings (`token`);
3 all of it is read by the real loaders, and held against what is in place;
4 a first bundle is brought (`first`), then the identity changes whole (`place`);
5 drop-ins of this board;
6 socket and service are enabled and started, and seen to answer (`service`); where they do
  not, what worked before is put back;
7 what was kept for the way back, or for another try, is removed;
8 the doctor looks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge_runtime.agent.config import AgentConfig, ApiConfig, load_config
from edge_runtime.agent.doctor.examine import examine
from edge_runtime.agent.doctor.finding import Finding, Level
from edge_runtime.agent.doctor.itself import UNIT_FOLDERS
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.agent.setup import first, service
from edge_runtime.agent.setup.identity import (
    CONFIG,
    NAMES,
    Identity,
    device_of,
    read_identity,
)
from edge_runtime.agent.setup.place import SERVICE, SOCKET, Folder, System, failing, remove, write
from edge_runtime.bundle.durable import sync_folder
from edge_runtime.errors import DeviceError, InputError
from edge_runtime.fields import Json
from edge_runtime.messages.enrollment import Token
from edge_runtime.profile import load_profile

BOARD = "50-board.conf"
SOCKET_TEXT = """\
# Written by `edge-agent setup` for [api] of agent.toml.
[Socket]
ListenStream=
ListenStream={address}
"""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person asked for. One of `folder` and `token` is there.

    `profile` is a name, or the path of a .toml file, in place of the identity's own.
    """

    folder: Path | None = None
    token: Token | None = None
    profile: str | None = None
    force: bool = False
    start: bool = True
    offline: bool = False
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it. `bundle` is of a first one: "serves", "waits", or empty where none came.

    `changed`: identity, drop-ins or first bundle are not what they were.
    """

    device: str
    profile: str
    folder: Path
    changed: bool
    ready: bool = False
    address: str = ""
    bundle: str = ""
    why: str = ""
    findings: tuple[Finding, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Nothing keeps the device from its job; not started, nothing is known to."""
        bad = any(finding.level is Level.OBSTACLE for finding in self.findings)
        return not bad and self.bundle != "waits"

    @property
    def sentence(self) -> str:
        """For people, after the doctor's findings."""
        if not self.ready:
            return (
                f"{self.device} is set up in {self.folder}, and not started; start it with "
                f"systemctl enable --now {SOCKET} {SERVICE}"
            )
        said = f"{self.device} is set up; {SERVICE} runs, and {self.address} answers"
        if self.bundle == "waits":
            return f"{said}, but its first bundle does not serve: {self.why}"
        if self.bundle:
            return f"{said} with its first bundle"
        return said

    def as_json(self) -> dict[str, Json]:
        """For scripts."""
        return {
            "device": self.device,
            "profile": self.profile,
            "folder": str(self.folder),
            "changed": self.changed,
            "started": self.ready,
            "ready": self.ready,
            "api": self.address or None,
            "bundle": self.bundle or None,
            "why": self.why,
            "findings": [finding.as_json() for finding in self.findings],
            "ok": self.ok,
        }


def setup(wishes: Wishes, system: System, tell: Tell = lambda _: None) -> Done:
    """Set this machine up.

    Args:
        tell: told what is under way.

    Raises:
        InputError, UntrustedError: it cannot be done so, and nothing was changed.
        TransferError: no enrolment server answers.
        DeviceError: the disk failed, or the service did not become ready.
    """
    _demand_machine(wishes, system)  # 1
    with system.hold():
        place = Folder(system.identity)
        place.recover()
        source = _source(wishes, system, tell)  # 2
        identity = read_identity(source, wishes.profile)  # 3
        _demand_same_device(identity.config.device_id, wishes, system)
        files = {**identity.files, **_mark(source)}
        brought = _bring_first(source, system, tell)  # 4
        changed = not place.holds(files, (*NAMES, *files))
        if changed:
            place.put(files, NAMES)
            tell(f"the identity of {identity.config.device_id} is in {system.identity}")
        changed |= brought
        changed |= write_drop_ins(identity, system)  # 5
        done = Done(identity.config.device_id, identity.profile.name, system.identity, changed)
        if not wishes.start:
            _forget(place, system)
            return done
        return _started(done, identity, place, wishes, system, tell)


def _demand_machine(wishes: Wishes, system: System) -> None:
    if system.root == Path("/") and os.geteuid() != 0:
        raise InputError("setup: needs root; begin with sudo")
    if not wishes.start:
        return
    if not (system.root / "run/systemd/system").is_dir():
        raise DeviceError(
            "setup: systemd does not run here, and the agent is a service of systemd; --no-start "
            "writes all that it needs, and starts nothing"
        )
    if not any((system.root / folder / SERVICE).exists() for folder in UNIT_FOLDERS):
        raise InputError(
            f"setup: {SERVICE} is not installed here; install the package edge-agent first"
        )


def _source(wishes: Wishes, system: System, tell: Tell) -> Path:
    """The folder that holds the identity."""
    if wishes.folder is not None:
        return wishes.folder
    token = wishes.token
    if token is None:
        raise RuntimeError("neither a folder nor a token")
    from edge_runtime.agent.setup.token import came_by, enroll

    # Before the token is used: it is good once.
    _demand_same_device(token.device, wishes, system)
    if not (system.enrolling / CONFIG).exists() and came_by(token, system.identity):
        tell(f"this token was used here: {token.device} is enrolled")
        return system.identity
    tell(f"asking {token.addresses[0]} for the identity of {token.device}")
    enroll(token, system.enrolling, tell)
    return system.enrolling


def _demand_same_device(device: str, wishes: Wishes, system: System) -> None:
    there = device_of(system.identity)
    if there is not None and there != device and not wishes.force:
        raise InputError(
            f"setup: this machine is {there}, and would become {device}; --force if that is meant"
        )


def _mark(source: Path) -> Mapping[str, bytes]:
    from edge_runtime.agent.setup.token import MARK

    try:
        return {MARK: (source / MARK).read_bytes()[:128]}
    except OSError:
        return {}


def _bring_first(source: Path, system: System, tell: Tell) -> bool:
    """Whether a first bundle was brought anew. A device that has one needs none."""
    found = first.first_of(source)
    if first.serves(system):
        first.forget(system)
        return False
    if found is None:
        return False
    tell(f"bringing the first bundle, {found}")
    return first.bring(found, system)


def write_drop_ins(identity: Identity, system: System) -> bool:
    """What this board adds to the units; True where anything changed. Raises DeviceError."""
    from edge_runtime.agent.service import drop_in

    api, shipped = identity.config.api, ApiConfig()
    address = ""
    if (api.host, api.port or shipped.port) != (shipped.host, shipped.port):
        host = f"[{api.host}]" if ":" in api.host else api.host
        address = SOCKET_TEXT.format(address=f"{host}:{api.port or shipped.port}")
    wanted = {
        system.units / f"{SERVICE}.d" / BOARD: drop_in(identity.profile),
        system.units / f"{SOCKET}.d" / BOARD: address,
    }
    wrote = [_wrote(path, text) for path, text in wanted.items()]
    return True in wrote


def _wrote(path: Path, text: str) -> bool:
    """Make `text` the content of `path`, nothing there where it is empty; whether that was new."""
    try:
        before = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        before = ""
    if before == text:
        return False
    if not text:
        remove(path)
        return True
    with failing(path):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        remove(new)
        write(new, text.encode(), 0o644)
        os.replace(new, path)
        sync_folder(path.parent)
    return True


def _started(
    done: Done, identity: Identity, place: Folder, wishes: Wishes, system: System, tell: Tell
) -> Done:
    """Steps 6 to 8."""
    # By the file in place: its paths are the service's, and its [api] is what listens.
    config = load_config(system.identity / CONFIG, {})
    end_s = time.monotonic() + wishes.timeout_s
    why = _ready(config, done.changed or place.unproven, wishes, tell)  # 6
    if why:
        raise DeviceError(_gone_back(why, place, wishes, system, tell))
    bundle, waits = "", ""
    if first.drop_in(system).exists():
        tell("waiting for the first bundle to pass its self-test and serve")
        if service.await_serving(config, end_s):
            bundle = "serves"
            first.forget(system)
            service.reload()
        else:
            bundle, waits = "waits", _why_not(system)
    _forget(place, system)  # 7
    profile = replace(load_profile(config.profile), tasks=config.tasks)
    tell("the doctor looks")
    findings = examine(  # 8
        Scene(root=system.root, config=config, profile=profile, offline=wishes.offline)
    )
    return replace(
        done,
        ready=True,
        address=service.address(config),
        bundle=bundle,
        why=waits,
        findings=tuple(findings),
    )


def _ready(config: AgentConfig, anew: bool, wishes: Wishes, tell: Tell) -> str:
    """Start it and wait; empty once it is ready, or else why it is not."""
    end_s = time.monotonic() + wishes.timeout_s
    try:
        service.start(anew=anew)
        why = service.await_ready(config, end_s, tell)
    except DeviceError as reason:
        return str(reason)
    return f"within {wishes.timeout_s:g} s it is {why}" if why else ""


def _gone_back(why: str, place: Folder, wishes: Wishes, system: System, tell: Tell) -> str:
    """Put back what worked, and say what happened."""
    log = service.last_words()
    said = f"{SERVICE} did not become ready: {why}"
    said += f"; its log ends: {log}" if log else ""
    if not place.back():
        return f"{said}; see journalctl -u {SERVICE}, then repeat the setup"
    tell("going back to the identity from before")
    config = load_config(system.identity / CONFIG, {})
    before = Identity(config, load_profile(config.profile), {})
    write_drop_ins(before, system)
    first.forget(system)
    again = _ready(config, True, wishes, tell)
    stands = f"but not ready: {again}" if again else "and ready"
    return f"{said}; the identity from before, {config.device_id}, is in place again, {stands}"


def _why_not(system: System) -> str:
    """Why the first bundle does not serve yet, as far as the journal tells."""
    record = first.standing(system)
    if record is None:
        return "the agent has not taken it up"
    reasons = [refusal.reason for refusal in record.refused]
    return reasons[-1] if reasons else record.reason or f"it is {record.state.value}"


def _forget(place: Folder, system: System) -> None:
    place.settle()
    remove(system.enrolling)
