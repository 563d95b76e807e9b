"""One board and its fleet: updates, the power cut in the middle, and what must be true afterwards.

After each cut, in this order: 1. the disk, as the cut left it, holds the old bundle or the new one
whole, nothing torn, and nothing less than what the board had said; 2. the board boots and answers
with one of the two; 3. the update ends in the new one by itself; 4. at rest, the disk holds what
the kept bundles need and nothing else, and trusted metadata never goes back.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

from edge_runtime.bundle.manifest import Manifest
from edge_runtime.errors import DeviceError
from edge_runtime.fields import Json
from edge_runtime.messages.fleet import Release, Reported
from tests.board import console, moments
from tests.board.case import UNASKED, Cut
from tests.board.disk import Disk
from tests.board.emulator import Emulator
from tests.board.evidence import Evidence, Trust
from tests.board.fleet import PROFILE, Fleet, bundle_folder
from tests.board.image import ROOT, Image
from tests.board.moments import BOOT, IDLE, Moment
from tests.fakes.agents import DEVICE
from tests.fakes.brokers import BrokerProcess
from tests.reliability import state

T = TypeVar("T")
PATIENCE_S = 900.0
"""An emulated board on a busy machine is slow."""
WRITE_S = 2.0
IN_1970_EVERY = 3
"""Of the boots after a cut, one in so many has no idea of the time."""
HOST = "10.0.2.2"
"""This machine, as the board sees it."""
SETTINGS = """\
device_id = "{device}"
profile = "board.toml"
state_dir = "state"
trust = "tuf"
root = "root.json"
[broker]
url = "mqtt://{host}:{port}"
[telemetry]
interval_s = 2.0
[worker]
hang_s = 120.0
[update]
trial_s = 4.0
trial_slowdown = 1000.0
wait_s = 2.0
wait_max_s = 10.0
"""
"""An emulator's speed says nothing of a bundle, and nobody wants to wait for long."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What the fleet asked for last."""

    release: Release
    manifest: Manifest
    revision: int


class Board:
    """A context manager. `durations` is how long each state of an undisturbed update took.

    `left_over` counts updates whose removal of what is not needed was cut, and which left it to the
    next one.

    Args:
        told: what the board's processes find in their environment.
    """

    def __init__(
        self,
        folder: Path,
        image: Image,
        broker: BrokerProcess,
        seed: int = 1,
        told: Mapping[str, str] | None = None,
    ) -> None:
        self.durations: dict[str, float] = {}
        self.left_over = 0
        self.fleet = Fleet(folder / "bundles", broker.url)
        self._told = dict(told or {})
        self._random = Random(seed)
        self._trust = Trust()
        self._trust_before: dict[str, float] = {}
        self._first_request = 0
        self._cuts = 0
        self._versions = 0
        self._wanted: Wanted | None = None
        self._kept: list[Wanted] = []
        contents = folder / "contents"
        contents.mkdir()
        self._enrol(contents, broker.port)
        self.machine = Emulator(image, Disk(folder, contents), folder)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.close()
        self.fleet.close()

    def _enrol(self, folder: Path, port: int) -> None:
        """What a new device is given."""
        settings = SETTINGS.format(device=DEVICE, host=HOST, port=port)
        (folder / "agent.toml").write_text(settings)
        (folder / "root.json").write_bytes(self.fleet.repository.files["1.root.json"])
        profile = (ROOT / "device_profiles" / "raspberry-pi-5.toml").read_text()
        profile = profile.replace('name = "raspberry-pi-5"', f'name = "{PROFILE}"', 1)
        profile = re.sub(r"(?m)^latency_ms = .*$", "latency_ms = 60000.0", profile)
        (folder / "board.toml").write_text(profile)
        bundle_folder(folder, "0.0.1").rename(folder / "bundle")

    @property
    def serves(self) -> str:
        """The version that was marked good last."""
        return self._kept[-1].release.version

    # Without a cut.

    def facts(self) -> dict[str, Json]:
        """The self-test's report on this kind of board; it is off afterwards."""
        self.machine.power_on(told={"BOARD_FACTS": "1"})
        pattern = re.compile(r"FACTS (\{.*\})\s")
        (found,) = self.until("the facts", lambda: pattern.findall(self.machine.said()))
        self.off()
        facts: dict[str, Json] = json.loads(found)
        return facts

    def begin(self) -> None:
        """Install a first bundle, and update it once to see how long that takes.

        Raises:
            DeviceError: even that does not go well.
        """
        self.machine.power_on(told=self._told)
        self.deploy()
        self._settled()
        with self.machine.frozen():
            self._first_request = self.machine.disk.requests
            self._trust.older(self.machine.disk.look() / "state" / "trust")
            self._trust_before = dict(self._trust.seen)
        wanted = self.deploy()
        begin_s = time.monotonic()
        for stage in moments.ORDER:
            self._until_stage(stage, wanted)
            self.durations[stage] = -time.monotonic()
        ends = [-self.durations[stage] for stage in moments.ORDER]
        for stage, at_s, end_s in zip(moments.ORDER, ends, ends[1:], strict=False):
            self.durations[stage] = end_s - at_s
        self.durations |= {moments.BEFORE: ends[0] - begin_s, IDLE: 0.0}
        broken = self.ended()
        if broken:
            raise DeviceError(f"an update that nothing disturbed: {'; '.join(broken)}")

    def look_back(self, number: int) -> Iterator[list[str]]:
        """Of an undisturbed update that has just ended: what would be untrue had the power gone
        after any of `number` requests to the disk, spread over all. Nothing is booted for it.
        """
        old, new = self._kept
        either = {old.release.manifest.sha256, new.release.manifest.sha256}
        with self.machine.frozen():
            last = self.machine.disk.requests
            for n in range(number):
                at = self._first_request + (last - self._first_request) * n // max(number - 1, 1)
                try:
                    folder = self.machine.disk.look(at, self._random) / "state"
                except DeviceError as reason:
                    yield [str(reason)]
                else:
                    trust = Trust(dict(self._trust_before))
                    yield [*state.broken(folder, either), *trust.older(folder / "trust")]

    def undisturbed(self) -> list[str]:
        """One more update, without a cut; what is untrue afterwards."""
        self.deploy()
        return self.ended()

    def off(self) -> None:
        """The power goes while nothing happens."""
        self.machine.power_cut()
        self.machine.disk.cut(self._random)
        self.fleet.listen_anew()

    def boot(self, *, in_1970: bool = False) -> str:
        """On, until somebody answers: the version that does, or nothing."""
        self.machine.power_on(in_1970=in_1970, told=self._told)
        return self.fleet.who_serves(self.machine.check, PATIENCE_S)

    # With one or more.

    def update(self, aims: Sequence[Moment]) -> list[Cut]:
        """Deploy the next version, cut the power at these moments; the cases, judged."""
        wanted = self.deploy()
        made: list[Cut] = []
        for number, aim in enumerate(aims, 1):
            self._wait(aim, wanted)
            made.append(self._cut(aim, wanted, ask=number == len(aims)))
        faults = self.ended()
        if made[-1].found == IDLE and faults and all(f.startswith(state.LEAK) for f in faults):
            # Cut while it removed what is not needed: the update that follows has to do it.
            self.left_over += 1
            faults = []
        made[-1] = dataclasses.replace(made[-1], broken=(*made[-1].broken, *faults))
        return made

    def _wait(self, aim: Moment, wanted: Wanted) -> None:
        if aim.state != BOOT:
            self._until_stage(aim.state, wanted)
        time.sleep(moments.delay_s(aim, self.durations))
        if aim.writing:
            self.machine.disk.await_write(WRITE_S)

    def _cut(self, aim: Moment, wanted: Wanted, *, ask: bool) -> Cut:
        """Off, a look at the disk, and on again; where nobody cuts that, until somebody answers."""
        self._cuts += 1
        self.machine.power_cut()
        said = console.stage(self.machine.said(), wanted.release.version)
        reported = self.fleet.reported
        left = self.machine.disk.cut(self._random)
        evidence, broken = self._look(wanted, said, reported)
        broken += console.trouble(self.machine.said())
        self.fleet.listen_anew()
        in_1970 = self._cuts % IN_1970_EVERY == 0
        begin_s = time.monotonic()
        self.machine.power_on(in_1970=in_1970, told=self._told)
        served = UNASKED
        if ask:
            version = self.fleet.who_serves(self.machine.check, PATIENCE_S)
            served = {self.serves: "old", wanted.release.version: "new"}.get(version, "neither")
            if served == "neither":
                broken.append(f"{version or 'nobody'} answers after the cut")
            if in_1970 and console.BOOTED_IN_1970 not in self.machine.said():
                broken.append("the board's clock does not say 1970")
        answered_s = time.monotonic() - begin_s
        if ask:
            self.durations.setdefault(BOOT, answered_s)
        return Cut(self._cuts, aim.state, evidence.stage, evidence.held, evidence.needed, left,
                   in_1970, served, answered_s, tuple(broken))  # fmt: skip

    def _look(
        self, wanted: Wanted, said: str, reported: Reported | None
    ) -> tuple[Evidence, list[str]]:
        """At the disk as the cut left it."""
        try:
            folder = self.machine.disk.look() / "state"
        except DeviceError as reason:
            return Evidence("unknown", 0, 0), [str(reason)]
        evidence = Evidence.read(folder, wanted.release, wanted.manifest)
        last = reported if reported and reported.revision == wanted.revision else None
        either = {self._kept[-1].release.manifest.sha256, wanted.release.manifest.sha256}
        broken = [
            *state.broken(folder, either),
            *evidence.less_than(said, last),
            *self._trust.older(folder / "trust"),
        ]
        return evidence, broken

    # The update's end.

    def ended(self) -> list[str]:
        """Let it end; what is untrue then."""
        try:
            wanted = self._settled()
            with self.machine.frozen():
                folder = self.machine.disk.look() / "state"
        except DeviceError as reason:
            return [str(reason)]
        return [
            *state.broken(folder, {wanted.release.manifest.sha256}, at_rest=True),
            *self._trust.older(folder / "trust"),
            *self._trust.behind(self.fleet.repository.timestamp.version),
            *console.trouble(self.machine.said()),
        ]

    def _settled(self) -> Wanted:
        """Until what is wanted serves and was marked good."""
        wanted = self._wanted
        assert wanted is not None

        def good() -> bool:
            r = self.fleet.reported
            return (
                r is not None
                and (r.revision, r.state) == (wanted.revision, IDLE)
                and r.active == wanted.release.ref
            )

        self.until(f"{wanted.release.version} is marked good", good)
        self._kept.append(wanted)
        while len(self._kept) > 2:
            gone = self._kept.pop(0)
            self.fleet.withdraw(gone.manifest, *(kept.manifest for kept in self._kept))
        return wanted

    # Parts.

    def deploy(self, *, expired: bool = False) -> Wanted:
        """Ask for the next version; `expired`: with metadata that is, by the floor of time."""
        self._versions += 1
        release, manifest = self.fleet.release(f"1.0.{self._versions}", expired=expired)
        self._wanted = Wanted(release, manifest, self.fleet.desire(release))
        return self._wanted

    def _until_stage(self, stage: str, wanted: Wanted) -> None:
        version = wanted.release.version

        def there() -> bool:
            found = console.stage(self.machine.said(), version)
            return bool(found) and moments.ORDER.index(found) >= moments.ORDER.index(stage)

        self.until(f"{stage} of {version}", there)

    def until(self, what: str, found: Callable[[], T]) -> T:
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            self.machine.check()
            answer = found()
            if answer:
                return answer
            time.sleep(0.02)
        raise DeviceError(
            f"{what}: not within {PATIENCE_S:g} s; it reports {self.fleet.reported}; "
            f"its console ends in {self.machine.said()[-1500:]!r}"
        )
