"""The driver: the shell that makes a device run the bundle which its desired state names.

Inputs are calls, from one thread, each with the monotonic time. What the lifecycle says is first
journaled and then done, through a `Transport` (asks for chunks) and a `Host` (runs workers). After
every input, what is gets compared with what is desired, so repeating an input changes nothing. The
driver owns no clock, no thread and no socket, and loads no ML runtime and no numpy.

Whether a release is signed is asked of the host, which knows the trust that this device was set
up with, before a byte of it is fetched. The manifest is then held to the digest that was vouched
for.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random

from edge_runtime.bundle.archive import Reader
from edge_runtime.bundle.files import Chunk
from edge_runtime.bundle.store import ChunkStore
from edge_runtime.errors import (
    EdgeError,
    IncompatibleError,
    MetadataError,
    TransferError,
    UntrustedError,
)
from edge_runtime.messages.fleet import BundleRef, Desired, Release
from edge_runtime.profile import DeviceProfile
from edge_runtime.update import lifecycle as on
from edge_runtime.update import limits, reconcile
from edge_runtime.update.fetching import Fetcher, Transport
from edge_runtime.update.host import Host
from edge_runtime.update.intake import Intake
from edge_runtime.update.ledger import Ledger
from edge_runtime.update.lifecycle import Action, Event, State
from edge_runtime.update.notices import Notices
from edge_runtime.update.policy import Policy
from edge_runtime.update.record import Record, Status
from edge_runtime.update.restarts import Restarts
from edge_runtime.update.trial import Health, Trial

__all__ = ["Driver", "Host", "Policy", "Status", "Transport"]

log = logging.getLogger(__name__)


class _PulsingStore(ChunkStore):
    """A store that shows, with every chunk read or written, that a long job gets on."""

    def __init__(self, root: Path, pulse: Callable[[], None]) -> None:
        super().__init__(root)
        self._pulse = pulse

    def put(self, chunk: Chunk, data: bytes | memoryview) -> bool:
        self._pulse()
        return super().put(chunk, data)

    def read(self, chunk: Chunk) -> bytes:
        self._pulse()
        return super().read(chunk)


class Driver:
    """One device's update, from `start` on. Workers read the same `state` folder.

    Under `state`: `chunks/` (see `store`), `manifests/<sha256>.json`, `journal.json`.

    A call returns soon, but for those that go through a whole bundle: `install`, which writes it,
    and the last `chunk`, after which all of it is read and verified. `pulse` is called meanwhile,
    with every chunk; it must not call the driver. While `spares` says so, the active bundle is
    not given up for what fails: an agent on trial itself is not the one to judge it.

    Raises:
        DeviceError: `state` cannot be used at all.
    """

    def __init__(
        self,
        state: Path,
        profile: DeviceProfile,
        transport: Transport,
        host: Host,
        policy: Policy | None = None,
        random: Random | None = None,
        free_bytes: Callable[[Path], int] | None = None,
        pulse: Callable[[], None] = lambda: None,
        trust: str = "none",
        spares: Callable[[], bool] = lambda: False,
    ) -> None:
        self._trust = trust
        self._spares = spares
        self.store: ChunkStore = _PulsingStore(state / "chunks", pulse)
        self._host = host
        self._transport = transport
        self._policy = policy or Policy()
        self._random = random or Random()
        self._notices = Notices(host, self._policy)
        self._ledger = Ledger(state, self.store, profile, self._policy, self._notices, free_bytes)
        self._fetcher = Fetcher(self.store, transport, self._policy, self._random)
        self._intake = Intake(
            self.store, self._ledger.slots, self._fetcher, profile, self._ledger.make_room
        )
        self._restarts = Restarts(self._policy, self._random)
        self._trial = Trial(self._policy)
        self._started = False
        self._stalls = 0
        self._doubts = 0
        self._go_on = self._offline = False
        self._now_s = 0.0
        self._wanted_s = 0.0
        self._limit_s: float | None = None
        self._inputs: deque[tuple[float, Callable[[], None]]] = deque()
        self._events: deque[Event] = deque()
        self._busy = False
        self._do: dict[Action, Callable[[], None]] = {
            Action.AUTHENTICATE: lambda: host.authenticate(self._release()),
            Action.STOP_AUTHENTICATE: host.stop_authenticating,
            Action.FETCH_MANIFEST: lambda: self._attempt(self._fetch_manifest),
            Action.FETCH: lambda: self._attempt(self._fetch),
            Action.STOP_FETCH: self._fetcher.stop,
            Action.VERIFY: lambda: self._attempt(self._verify),
            Action.START_CANDIDATE: lambda: host.start_candidate(self._candidate().manifest_sha256),
            Action.STOP_CANDIDATE: host.stop_candidate,
            Action.ACTIVATE: host.activate_candidate,
            Action.START_ACTIVE: self._start_active,
            Action.RESTART_ACTIVE: lambda: self._restarts.plan(self._now_s),
            Action.STOP_ACTIVE: self._stop_active,
            Action.PRUNE: self._ledger.prune,
        }

    @property
    def _record(self) -> Record:
        return self._ledger.record

    @property
    def desired_now(self) -> Desired | None:
        """What this device works on; None: nothing was ever desired of it."""
        return self._record.desired

    @property
    def status(self) -> Status:
        """What is to be reported now."""
        r = self._record
        return Status(
            revision=r.desired.revision if r.desired and not r.local else 0,
            state=r.state.value,
            active=r.active,
            previous=r.previous,
            refused=r.refused,
            progress=self._fetcher.progress,
            fetched_bytes=max(r.fetched_bytes, self._fetcher.fetched_bytes),
            update_s=r.update_s,
            reason=r.reason,
            trust=self._trust,
        )

    # Inputs.

    def start(self, now_s: float) -> None:
        """Go on where the journal says. Once, before any other input."""
        if self._started:
            raise RuntimeError("the driver was started before")
        self._started = True
        self._input(now_s, self._boot)

    def install(self, reader: Reader, now_s: float, *, attempt: int = 0) -> None:
        """Put a local bundle into the store and bring it in like a fetched one.

        The operator's word stands: where a desired state names something else, the file is
        ignored, with an event. `attempt` as in `Desired`.

        Raises:
            UntrustedError, IncompatibleError, DeviceError: the bundle is damaged, not for this
                device, or cannot be stored; nothing changes.
        """
        self._input(now_s, lambda: self._install(reader, attempt))

    def desired(self, payload: bytes, now_s: float) -> None:
        """A `desired` message arrived. One that cannot be read is told to the operator."""
        self._input(now_s, lambda: self._desire(payload))

    def authenticated(self, manifest_sha256: str, refusal: EdgeError | None, now_s: float) -> None:
        """The host knows whether the release is to be believed; `refusal` says why it is not.

        Of its kind it depends what follows: an UntrustedError is remembered with the bundle, all
        else is tried again.
        """
        self._input(now_s, lambda: self._authenticated(manifest_sha256, refusal))

    def chunk(self, sha256: str, data: bytes, now_s: float) -> None:
        """Bytes arrived under the name of a chunk."""
        self._input(now_s, lambda: self._attempt(lambda: self._chunk(sha256, data)))

    def tested(self, manifest_sha256: str, passed: bool, reason: str, now_s: float) -> None:
        """A worker ended its self-test, or died in it."""
        self._input(now_s, lambda: self._tested(manifest_sha256, passed, reason))

    def activated(self, now_s: float) -> None:
        """The candidate serves. Said of a bundle that was active already, it changes nothing."""
        self._input(now_s, self._activated)

    def failed(self, reason: str, now_s: float) -> None:
        """The active bundle's worker could not serve, crashed or hung, and is gone."""
        self._input(now_s, lambda: self._failed(reason))

    def served(self, manifest_sha256: str, health: Health, now_s: float) -> None:
        """What the worker of a bundle counted lately. The active one is judged by it on trial."""
        self._input(now_s, lambda: self._served(manifest_sha256, health))

    def connected(self, yes: bool, now_s: float) -> None:
        """The link to the broker came up or went down."""
        self._input(now_s, lambda: self._connected(yes))

    def tick(self, now_s: float) -> float | None:
        """Do what is due; when to call again at the latest, or None."""
        self._input(now_s, self._tick)
        deadlines = (
            self._limit_s,
            self._fetcher.deadline_s(),
            self._restarts.due_s,
            self._notices.due_s(self.status),
            now_s + self._policy.wait_s if self._ledger.unsaved else None,
        )
        return min((at_s for at_s in deadlines if at_s is not None), default=None)

    def _boot(self) -> None:
        self._wanted_s = self._now_s
        self._ledger.boot()
        self._events.append(on.Booted())

    # One input at a time, however the host calls back in.

    def _input(self, now_s: float, act: Callable[[], None]) -> None:
        if not self._started:
            raise RuntimeError("the driver was not started")
        self._inputs.append((now_s, act))
        if self._busy:
            return
        self._busy = True
        try:
            while self._inputs:
                self._now_s, act = self._inputs.popleft()
                act()
                self._settle()
        finally:
            self._busy = False
            self._inputs.clear()
            self._events.clear()

    def _settle(self) -> None:
        """Events until nothing is left to do; then journal and report what is left to say."""
        while True:
            lacking = self._ledger.lacking
            event = (
                self._events.popleft()
                if self._events
                else reconcile.next_event(self._record, lacking=lacking)
            )
            if event is None:
                break
            self._handle(event)
        if self._ledger.unsaved:
            self._ledger.save()
        self._notices.report(self.status, self._now_s)

    def _handle(self, event: Event) -> None:
        before = self._record
        actions = self._ledger.handle(event)
        match event:  # Counters that need not outlive a power cut.
            case on.Wanted():
                self._wanted_s = self._now_s
                self._stalls = self._doubts = 0
                self._fetcher.forget()
            case on.Stalled():
                self._stalls += not self._go_on
                self._offline = not self._fetcher.online
            case on.Activated() | on.Condemned():
                self._restarts.reset(self._now_s)
        # What was waited for is forgotten in a restart: it is waited for anew.
        begun = isinstance(event, on.Wanted | on.Booted) or self._record.state is State.TRIAL
        if begun or self._record.state is not before.state:
            self._begin_limit()
        if self._go_on and self._record.state is State.WAITING:  # Another source: no need to wait.
            self._go_on = False
            self._limit_s = self._now_s
        for action in actions:
            self._do[action]()

    # What is desired.

    def _desire(self, payload: bytes) -> None:
        try:
            desired = Desired.from_bytes(payload)
        except (UntrustedError, IncompatibleError) as reason:
            self._notices.warn("desired-invalid", str(reason))
            return
        if desired.keeps:
            return
        # What is desired of the agent itself is another driver's matter.
        desired = dataclasses.replace(desired, agent=None)
        fault = reconcile.too_far(self._record, desired)
        if fault:
            self._notices.warn("desired-invalid", fault)
        elif desired != self._record.desired or self._record.local:
            self._take(desired, local=False)

    def _install(self, reader: Reader, attempt: int) -> None:
        release = self._intake.release_of(reader)
        desired = self._record.desired
        if desired is not None and not self._record.local:
            if desired.release is None or desired.release.ref != release.ref:
                text = f"{reader.where}: ignored, the desired state names another bundle"
                self._notices.warn("install-ignored", text)
            else:
                self._intake.ingest(reader, release)
                self._hand_over(release)
            return
        self._intake.ingest(reader, release)
        self._take(Desired(revision=0, release=release, attempt=attempt), local=True)
        self._hand_over(release)

    def _hand_over(self, release: Release) -> None:
        """What is still being fetched of `release` is here now: nobody need send it any more."""
        if self._record.state is State.FETCHING and self._candidate() == release.ref:
            self._attempt(self._fetch)
        else:
            self._look_again()

    def _take(self, desired: Desired, *, local: bool) -> None:
        """Goes to disk with the event that it causes, or at the end of this input."""
        record = dataclasses.replace(self._record, desired=desired, local=local)
        refusal = reconcile.standing_refusal(record)
        if refusal is not None:
            record = dataclasses.replace(record, reason=refusal.reason)
        self._ledger.amend(record)
        self._look_again()

    def _look_again(self) -> None:
        """Somebody did something about it: do not make them wait."""
        if self._record.state is State.WAITING:
            self._limit_s = self._now_s

    # Bringing a candidate in.

    def _attempt(self, work: Callable[[], None]) -> None:
        """`work` on the candidate; its error becomes the event that says what it means."""
        try:
            work()
        except (UntrustedError, IncompatibleError) as reason:
            self._events.append(on.Refused(str(reason)))
        except EdgeError as reason:
            self._events.append(on.Stalled(str(reason)))

    def _authenticated(self, manifest_sha256: str, refusal: EdgeError | None) -> None:
        asked = self._record.state is State.AUTHENTICATING
        if not asked or self._candidate().manifest_sha256 != manifest_sha256:
            return
        if isinstance(refusal, MetadataError):
            # No fault of this bundle: it must not be refused for what a broker replays.
            self._notices.metadata(str(refusal))
        if refusal is None:
            self._events.append(on.Authenticated())
        elif isinstance(refusal, UntrustedError | IncompatibleError):
            # A desired state may overtake the metadata that vouches for it, or be held against
            # a mirror that lags behind: what is unsigned once may be signed a little later.
            # Whoever installs by hand has the metadata beside it, and waits for the answer.
            self._doubts += 1
            final = self._record.local or self._doubts >= self._policy.trust_tries
            self._events.append((on.Refused if final else on.Stalled)(str(refusal)))
        else:
            self._events.append(on.Stalled(str(refusal)))

    def _connected(self, yes: bool) -> None:
        self._fetcher.connected(yes, self._now_s)
        if yes and self._offline:
            self._look_again()

    def _fetch_manifest(self) -> None:
        if self._intake.fetch_manifest(self._release(), self._now_s):
            self._events.append(on.ManifestHeld())
        self._proceed()

    def _fetch(self) -> None:
        self._intake.fetch(self._candidate(), self._now_s, self._release().deltas)
        self._proceed()

    def _chunk(self, sha256: str, data: bytes) -> None:
        if self._fetcher.chunk(sha256, data, self._now_s):
            self._transport.arrived()
            self._stalls = 0
            self._proceed()

    def _proceed(self) -> None:
        """Go on where everything asked for is held."""
        if not self._fetcher.done:
            return
        self._fetcher.stop()
        if self._record.state is State.FETCHING_MANIFEST:
            self._intake.keep_manifest(self._release())
            self._events.append(on.ManifestHeld())
        else:
            self._events.append(on.ChunksHeld(self._fetcher.fetched_bytes))

    def _verify(self) -> None:
        self._intake.verify(self._candidate())
        self._events.append(on.Verified())

    def _candidate(self) -> BundleRef:
        if self._record.candidate is None:
            raise RuntimeError(f"no candidate in {self._record.state.name}")
        return self._record.candidate

    def _release(self) -> Release:
        """How the candidate's manifest is fetched: `desired` and `candidate` change together."""
        desired = self._record.desired
        if desired is None or desired.release is None:
            raise RuntimeError(f"no release desired in {self._record.state.name}")
        return desired.release

    # Workers.

    def _tested(self, manifest_sha256: str, passed: bool, reason: str) -> None:
        r = self._record
        if r.candidate and r.candidate.manifest_sha256 == manifest_sha256:
            if r.state is State.TESTING and passed:
                self._events.append(on.Passed())
            elif r.state in (State.TESTING, State.ACTIVATING) and not passed:
                self._events.append(on.Refused(reason))
        elif r.active and r.active.manifest_sha256 == manifest_sha256 and not passed:
            self._failed(reason)

    def _activated(self) -> None:
        if self._record.state is State.ACTIVATING:
            self._events.append(on.Activated(max(self._now_s - self._wanted_s, 0.0)))

    def _failed(self, reason: str) -> None:
        r = self._record
        if r.state is State.ACTIVATING:
            self._events.append(on.Refused(reason))
        elif r.active is not None and self._restarts.due_s is None:
            too_often = self._restarts.failed(self._now_s)
            damage = self._ledger.damage(r.active)
            lacks = self._ledger.lacks(r.active) is not None
            r = self._ledger.forget_lost_previous()
            if damage is not None:
                self._events.append(on.Condemned(damage, refuse=False))
            elif r.previous is not None and (too_often or not r.good) and not self._spares():
                # What another variant would do is not known while its files are missing.
                self._events.append(on.Condemned(reason, refuse=not lacks))
            else:  # Nothing to go back to, or not yet: try again, ever more slowly.
                self._events.append(on.Crashed(reason))

    def _served(self, manifest_sha256: str, health: Health) -> None:
        r = self._record
        if r.active is not None and r.active.manifest_sha256 == manifest_sha256:
            self._trial.counted(r.active, r.previous, health)
            if (given_up := self._judged(over=False)) is not None:
                self._events.append(given_up)

    def _judged(self, *, over: bool) -> Event | None:
        """That the bundle on trial is given up for how it serves, if it is."""
        r = self._record
        if r.active is None or r.good or r.state is State.ACTIVATING or self._spares():
            return None
        fault = self._trial.fault(r.active, r.previous, over=over)
        if fault is None:
            return None
        if self._ledger.forget_lost_previous().previous is not None:
            return on.Condemned(fault)
        if self._trial.first_word(r.active):
            bundle = f"{r.active.name} {r.active.version}"
            text = f"{bundle}: {fault}; no bundle is here to go back to"
            self._notices.warn("trial-failed", text)
        return None

    def _start_active(self) -> None:
        if self._record.active is None:
            self._stop_active()
        else:
            self._restarts.started(self._now_s)
            self._host.start_active(self._record.active.manifest_sha256)

    def _stop_active(self) -> None:
        self._restarts.reset(self._now_s)
        self._host.stop_active()

    # Time.

    def _tick(self) -> None:
        try:
            self._fetcher.tick(self._now_s)
        except TransferError as reason:
            said = self._transport.fault
            self._events.append(on.Stalled(f"{reason}; {said}" if said else str(reason)))
            self._go_on = self._transport.failed()
        else:
            self._attempt(self._proceed)  # A delta that was let go of may leave nothing to fetch.
        if self._restarts.due_s is not None and self._restarts.due_s <= self._now_s:
            self._start_active()
            if self._record.state is State.TRIAL:  # A trial counts from the last start.
                self._begin_limit()
        if self._limit_s is not None and self._limit_s <= self._now_s:
            self._limit_s = None
            given_up = self._judged(over=True) if self._record.state is State.TRIAL else None
            self._events.append(given_up or limits.over(self._record.state, self._policy))

    def _begin_limit(self) -> None:
        """The state that was just entered may last so long from now."""
        lasts_s = limits.lasts_s(
            self._record.state, self._policy, self._stalls, self._random.random()
        )
        self._limit_s = self._now_s + lasts_s if lasts_s is not None else None
