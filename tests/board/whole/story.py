"""From an image to a signed update through a power cut, on one board, in order; what was untrue.

1. A fleet is founded: keys, signed metadata, a broker with certificates, the board's identity; the
   first bundle is published, the image is flashed.
2. The card boots, provisions itself, connects and serves, without anybody's help.
3. The golden vectors give the same answers, within the bundle's tolerance, as on this host.
4. A signed update to the other engine; the power is cut in the middle of it, at each of `CUTS`.
5. The update ends in the new version by itself; the golden vectors again.
6. The power is cut at rest, and the board boots in 1970 without anybody who tells the time.
After each cut the card is looked at: the file system is whole once its journal was replayed, one
bundle is whole; at the end nothing secret is on the FAT partition, and what was seeded is gone.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from edge_runtime.errors import DeviceError
from edge_runtime.fields import Json
from edge_runtime.messages.fleet import BundleRef
from tests.board import console
from tests.board.whole import bundles, contract
from tests.board.whole.card import STATE, Card
from tests.board.whole.contract import Agreement, call
from tests.board.whole.fleet import DEVICE, Fleet
from tests.board.whole.machine import PiMachine
from tests.reliability import state

T = TypeVar("T")
PATIENCE_S = 3600.0
POLL_S = 0.2
CUTS = ("fetching", "testing")
SHARE_FETCHED = 0.4
"""Of the chunks, before the power goes in a fetch."""
SEED = "/var/lib/edge-agent-seed"
SETTLED = ("running", "degraded")
WOKE_IN_1970 = "setting system clock to 1970"
"""As the kernel says it; what then finds a better time is the system's own."""
TAIL = 2500
SECRETS = (b"PRIVATE KEY", b"device_id", b"mqtts://")


@dataclass(slots=True)
class Outcome:
    """Seconds by what took them, what was measured, and what was untrue."""

    model: str
    flavour: str
    seconds: dict[str, float] = field(default_factory=dict)
    agreements: list[Agreement] = field(default_factory=list)
    cuts: list[str] = field(default_factory=list)
    facts: dict[str, Json] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


class Story:
    """One board's. `say` is told each step as it ends."""

    def __init__(
        self,
        fleet: Fleet,
        machine: PiMachine,
        made: dict[str, bundles.Made],
        outcome: Outcome,
        say: Callable[[str], None],
        seed: int = 1,
    ) -> None:
        self.fleet = fleet
        self.machine = machine
        self.outcome = outcome
        self._made = made
        self._say = say
        self._random = Random(seed)
        self._look = machine.folder / "state"

    @property
    def card(self) -> Card:
        return self.machine.card

    # Steps.

    def first_boot(self) -> None:
        """2: on, and nobody helps."""
        begin_s = time.monotonic()
        self.machine.power_on()
        self._until("the first boot's own program is done", self._provisioned)
        self._took("first boot to its own provisioning done", begin_s)
        self._until("the board is on the broker", lambda: self.fleet.online)
        self._until("an answer over MQTT", self._answers)
        self._took("first boot to first inference", begin_s)
        self._settled("1.0.0")
        self._took("first boot to the first bundle marked good", begin_s)
        self._until("systemd has settled", self._systemd)
        self._units()

    def compare(self, version: str) -> None:
        """3 and 5."""
        begin_s = time.monotonic()
        found = contract.agreement(self._made[version], self.machine.http_port)
        self.outcome.agreements.append(found)
        self._broken(f"golden vectors of {version}", found.broken)
        self._took(f"{found.cases} golden vectors of {version} over HTTP", begin_s)

    def update(self) -> None:
        """4 and the first half of 5."""
        made = self._made["2.0.0"]
        self.fleet.online_call("publish", made.folder)
        self.fleet.online_call("deploy", f"{made.manifest.name}==2.0.0", "--device", DEVICE)
        self._say("deployed 2.0.0")
        for aim in CUTS:
            self._until(f"the update is {aim}", lambda aim=aim: self._at(aim))  # type: ignore[misc]
            self.cut(f"in {aim}", {"1.0.0", "2.0.0"})
            begin_s = time.monotonic()
            self.machine.power_on()
            if aim != CUTS[-1]:
                # Who waited for an answer here would miss what is next.
                self.outcome.cuts.append(f"{aim}: it went on by itself")
                continue
            served = self._until("an answer over MQTT after the cut", self._answers)
            self._took(f"power-on to an answer, after the cut in {aim}", begin_s)
            self.outcome.cuts.append(f"{aim}: {served} answered first")
        begin_s = time.monotonic()
        self._settled("2.0.0")
        self._took("after the last cut to 2.0.0 marked good", begin_s)

    def rest(self) -> None:
        """A cut while nothing happens, and a boot that nothing disturbs."""
        self.cut("at rest", {"2.0.0"}, at_rest=True)
        self._provisioned_card()
        begin_s = time.monotonic()
        self.machine.power_on()
        self._until("ready over HTTP", self._ready)
        self._took("power-on to ready over HTTP, a later boot", begin_s)
        self._until("an answer over MQTT", self._answers)
        self._took("power-on to first inference, a later boot", begin_s)
        self._until("systemd has settled", self._systemd)
        self._units()
        self._settled("2.0.0")

    def in_1970(self) -> None:
        """6."""
        self.cut("at rest", {"2.0.0"}, at_rest=True)
        begin_s = time.monotonic()
        self.machine.power_on(in_1970=True)
        self._until("ready over HTTP, in 1970", self._ready)
        self._took("power-on to ready over HTTP, in 1970", begin_s)
        version = self._until("an answer over MQTT, in 1970", self._answers)
        if version != "2.0.0":
            self._broken("1970", [f"{version} answers"])
        if WOKE_IN_1970 not in self.machine.said():
            self._broken("1970", [f"the console does not say {WOKE_IN_1970!r}"])
        self.outcome.facts["clock of the board that woke in 1970, once it served"] = self._until(
            "its clock", self._date
        )

    def cut(self, when: str, may_serve: set[str], *, at_rest: bool = False) -> None:
        """The power goes; a look at the card."""
        self._broken(f"console before the cut {when}", console.trouble(self.machine.said()))
        self.machine.power_cut()
        left = self.card.cut(self._random)
        self.fleet.listen_anew()
        found = self.card.found()
        try:
            found.repair()
        except DeviceError as reason:
            self._broken(f"the cut {when}", [str(reason)])
            return
        digests = {self._ref(version).manifest_sha256 for version in may_serve}
        folder = found.folder(STATE, self._look)
        self._broken(f"the cut {when}", state.broken(folder, digests, at_rest=at_rest))
        self._say(
            f"power cut {when}: {left.lost} pieces of 4 KiB that were not flushed are lost, "
            f"{left.survived} survived; the file system is clean after its journal's replay"
        )

    def _provisioned_card(self) -> None:
        """What the first boot leaves: no seed, no secret on FAT, an identity for root alone."""
        found = self.card.resting()
        if "edge-agent-seed" in found.names("/var/lib"):
            self._broken("the card", [f"{SEED} is still there: {found.names(SEED)}"])
        units = found.names("/etc/systemd/system")
        if "edge-agent-firstboot.service" in units:
            self._broken("the card", ["edge-agent-firstboot.service is still there"])
        whole = found.boot_bytes()
        key = (self.fleet.identity / "device.key").read_bytes().splitlines()[1]
        for secret in (*SECRETS, key):
            if secret in whole:
                self._broken("the FAT partition", [f"has {secret.decode(errors='replace')!r}"])
        for name, (mode, user) in found.modes("/etc/edge-agent").items():
            if name != ".." and (user != 0 or mode & 0o077):
                self._broken("/etc/edge-agent", [f"{name}: mode {mode:o}, user {user}"])

    # What is seen.

    def _provisioned(self) -> bool:
        return "edge-agent first boot: done" in self.machine.said()

    def _answers(self) -> str:
        """The version that serves, once a question over MQTT was answered."""
        manifest = self._made["1.0.0"].manifest
        if not self.fleet.asked(str(manifest.golden.raw[0])):
            return ""
        try:
            _, answer = call(self.machine.http_port, "GET", f"/v2/models/{manifest.name}")
        except (OSError, http.client.HTTPException, ValueError):
            return ""
        versions = answer.get("versions") if isinstance(answer, dict) else None
        return str(versions[0]) if isinstance(versions, list) and versions else ""

    def _ready(self) -> bool:
        try:
            return call(self.machine.http_port, "GET", "/v2/health/ready")[0] == 200
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def _at(self, aim: str) -> bool:
        """Whether the update has come to `aim`, in a fetch to a share of its chunks."""
        reported = self.fleet.reported
        if reported is None or reported.state != aim:
            return False
        progress = reported.progress
        if aim != "fetching" or progress is None:
            return aim != "fetching"
        return progress.chunks_held >= SHARE_FETCHED * progress.chunks_needed

    def _systemd(self) -> bool:
        return self.machine.says().get("system") in SETTLED

    def _units(self) -> None:
        says = self.machine.says()
        failed = [name for name in says.get("failed", "").split(",") if name]
        if failed:
            self._broken("systemd", [f"failed: {', '.join(failed)}"])
        if says.get("agent") != "active" or says.get("restarts") != "0":
            self._broken("systemd", [f"edge-agent.service: {says}"])

    def _date(self) -> str:
        return self.machine.says().get("date", "")

    def _settled(self, version: str) -> None:
        wanted = self._ref(version)

        def good() -> bool:
            r = self.fleet.reported
            return r is not None and r.state == "idle" and r.active == wanted

        self._until(f"{version} is marked good", good)

    def _ref(self, version: str) -> BundleRef:
        made = self._made[version]
        return BundleRef(made.manifest.name, version, made.bundle.manifest_sha256)

    # Parts.

    def _until(self, what: str, found: Callable[[], T]) -> T:
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            self.machine.check()
            answer = found()
            if answer:
                self._say(what)
                return answer
            time.sleep(POLL_S)
        raise DeviceError(
            f"{what}: not within {PATIENCE_S:g} s; it reports {self.fleet.reported}; its console, "
            f"{self.machine.console}, ends in:\n{self.machine.last()[-TAIL:]}"
        )

    def _took(self, what: str, begin_s: float) -> None:
        self.outcome.seconds[what] = round(time.monotonic() - begin_s, 1)
        self._say(f"{what}: {self.outcome.seconds[what]} s")

    def _broken(self, where: str, faults: list[str]) -> None:
        for fault in faults:
            self.outcome.broken.append(f"{where}: {fault}")
            self._say(f"BROKEN {where}: {fault}")
