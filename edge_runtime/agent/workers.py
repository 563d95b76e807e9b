"""Which worker serves, which is being tried, which is leaving; and how one follows another.

At any time at most one worker serves. A successor is proved and loaded beside it; then it is told
to serve, and the old one to drain: it finishes its requests, passes its idle connections up here,
and they go down to the successor. So nobody is refused and nothing is lost.

A successor may be of another bundle, or of the same on a better variant: one that failed its proof,
or crashed in service, is proved again from time to time, see `variants`. That is put off while
anything else goes on: never are there more than two workers with a model.

A worker is watched by its heartbeat, by how long it may load and how long it may drain, and by
the end of its channel. Only what was looked for and not found counts as silence: this process may
itself have been busy for longer than a worker may be silent. What is decided about a failure is for
others: `Listening` hears of it.
"""

from __future__ import annotations

import logging
import random
import selectors
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from edge_runtime.agent.channel import ChannelClosed
from edge_runtime.agent.config import DRAIN_SLACK_S
from edge_runtime.agent.listener import Listener
from edge_runtime.agent.order import Order
from edge_runtime.agent.process import Phase, WorkerProcess
from edge_runtime.agent.variants import Variants
from edge_runtime.errors import DeviceError, InputError, UntrustedError
from edge_runtime.fields import Json
from edge_runtime.messages.fleet import Accelerator
from edge_runtime.messages.worker import (
    Answer,
    Ask,
    Connection,
    Drain,
    Frame,
    Heartbeat,
    Ready,
    Refused,
    Serve,
    Tried,
)
from edge_runtime.telemetry import Snapshot

log = logging.getLogger(__name__)

MAX_ORPHANS = 256
REOPEN_S = 1.0
REOPEN_MAX_S = 60.0


class Listening(Protocol):
    """Who hears what becomes of the workers; the supervisor."""

    def tested(self, manifest_sha256: str, passed: bool, reason: str) -> None:
        """The candidate passed, or failed or died trying."""

    def activated(self) -> None:
        """A new worker serves, and the one before it is gone."""

    def served(self) -> None:
        """A worker has begun to serve."""

    def unreachable(self, reason: str) -> None:
        """It cannot be reached, for the API's port cannot be listened on. Said once."""

    def failed(self, reason: str) -> None:
        """The active worker could not serve, crashed or hung, and is gone."""

    def counted(self, pid: int, manifest_sha256: str, snapshot: Snapshot | None) -> None:
        """What the worker of a bundle has counted since its start; None: it is gone."""

    def answered(self, answer: Answer) -> None:
        """A question was answered, or never will be."""

    def event(self, kind: str, text: str, details: Mapping[str, Json]) -> None:
        """A variant was refused, or an accelerator lost or come back."""


class Workers:
    """All workers of one supervisor; called from its one thread."""

    def __init__(
        self,
        order: Order,
        listener: Listener,
        selector: selectors.BaseSelector,
        listening: Listening,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Order, float], WorkerProcess] = WorkerProcess,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._order = order
        self._listener = listener
        self._selector = selector
        self._listening = listening
        self._clock = clock
        self._start_process = start
        self._all: list[WorkerProcess] = []
        self._serving: WorkerProcess | None = None
        self._starting: WorkerProcess | None = None
        self._candidate: WorkerProcess | None = None
        self._renewal: WorkerProcess | None = None
        self._variants = Variants(order.worker, listening.event, jitter)
        self._activating = False
        self._wanted = False
        self._orphans: list[int] = []
        self._reopen_s: float | None = None
        self._reopen_wait_s = REOPEN_S

    @property
    def pids(self) -> dict[str, int]:
        """Processes by role, for probes."""
        candidate = self._candidate or self._renewal
        roles = {"worker": self._serving, "candidate": candidate}
        return {role: worker.pid for role, worker in roles.items() if worker is not None}

    @property
    def starting(self) -> bool:
        """Whether a worker that is to serve is loading."""
        return self._starting is not None

    @property
    def serving(self) -> str | None:
        """Manifest digest of what serves now."""
        return self._serving.manifest_sha256 if self._serving else None

    @property
    def accelerator(self) -> Accelerator | None:
        """What the serving worker runs on, and what was passed over for it."""
        if self._serving is None or self._serving.accelerator is None:
            return None
        return self._variants.truth(self._serving.manifest_sha256, self._serving.accelerator)

    # What the update asks for. Every call may be repeated.

    def start_active(self, manifest_sha256: str) -> None:
        """Load, self-test, then serve instead of whatever serves."""
        self._wanted = True
        if self._starting is not None:
            if self._starting.manifest_sha256 == manifest_sha256:
                return
            self._discard(self._starting)
        elif self.serving == manifest_sha256:
            return
        self._stop_renewal()
        self._starting = self._start(manifest_sha256, self._variants.to_try(manifest_sha256))
        if self._starting is None:
            self._listening.failed("the worker cannot be started")

    def start_candidate(self, manifest_sha256: str) -> None:
        """Load and self-test; then wait."""
        if self._candidate is not None:
            if self._candidate.manifest_sha256 == manifest_sha256:
                if self._candidate.phase is Phase.READY:
                    self._listening.tested(manifest_sha256, True, "")
                return
            self._discard(self._candidate)
        self._stop_renewal()
        self._candidate = self._start(manifest_sha256, self._variants.to_try(manifest_sha256))
        if self._candidate is None:
            self._listening.tested(manifest_sha256, False, "the worker cannot be started")

    def activate_candidate(self) -> None:
        """Swap."""
        if self._candidate is None or self._candidate.phase is not Phase.READY:
            log.warning("no candidate is ready to be activated")
            return
        worker, self._candidate = self._candidate, None
        self._stop_renewal()
        if self._starting is not None:
            self._discard(self._starting)
        self._wanted = True
        self._activating = True
        self._promote(worker)

    def stop_candidate(self) -> None:
        """End it, if there is one."""
        if self._candidate is not None:
            self._discard(self._candidate)

    def stop_active(self) -> None:
        """Serve nothing; requests under way are finished."""
        self._wanted = False
        self._activating = False
        self._stop_renewal()
        if self._starting is not None:
            self._discard(self._starting)
        if self._serving is not None:
            worker, self._serving = self._serving, None
            self._drain(worker)

    def adopt(self, descriptor: int) -> None:
        """A client's connection from before this agent: as one that a worker handed over."""
        self._forward(descriptor)

    def ask(self, ask: Ask) -> bool:
        """Pass a question on; False where nobody serves."""
        if self._serving is None or not self._send(self._serving, ask):
            return False
        self._serving.asks.add(ask.id)
        return True

    # Time.

    def watch(self, now_s: float) -> float | None:
        """End what is overdue; when to look again at the latest."""
        for worker in list(self._all):
            if any(at_s <= now_s for at_s, _ in self._limits(worker)):
                # Did it speak while we did not look?
                self._on_channel(worker, selectors.EVENT_READ)
        due = [] if self._reopen_s is None else [self._reopen(now_s)]
        due.append(self._renew(now_s))
        for worker in self._all:
            for at_s, fault in self._limits(worker):
                if at_s <= now_s:
                    worker.kill(fault)
                    break
                due.append(at_s)
        return min((at_s for at_s in due if at_s is not None), default=None)

    def _limits(self, worker: WorkerProcess) -> Iterator[tuple[float, str]]:
        """When it will have taken too long for something, and for what."""
        if worker.fault:
            return  # It is being ended already.
        if worker.deadline_s is not None:
            limit = "load" if worker.phase is Phase.LOADING else "finish its requests"
            yield worker.deadline_s, f"the worker did not {limit} in time"
        if worker.phase in (Phase.READY, Phase.SERVING):
            yield worker.heard_s + self._order.worker.hang_s / 2, "the worker hangs"

    def finished(self) -> bool:
        """Whether no process is left."""
        return not self._all

    def kill(self) -> None:
        """End everything at once; nobody is blamed for it."""
        self._candidate = self._starting = self._renewal = self._serving = None
        self._wanted = self._activating = False
        for worker in list(self._all):
            worker.kill("the agent ends")
            self._gone(worker)
        self._close_orphans()

    # The same bundle on a better variant.

    def drivers_changed(self) -> None:
        """What was proved on the old driver says little: prove it again, beside who serves."""
        if self._serving is not None:
            self._stop_renewal()
            self._variants.changed(self._serving.manifest_sha256, self._clock())

    def _renew(self, now_s: float) -> float | None:
        """Start what is due; when to look again at the latest."""
        if self._serving is None:
            return None
        digest = self._serving.manifest_sha256
        due_s = self._variants.due_s(digest)
        if due_s is None or due_s > now_s:
            return due_s
        if len(self._all) > 1:
            return None  # Whatever goes on wakes us when it ends.
        self._renewal = self._start(digest, self._variants.again(digest))
        if self._renewal is None:
            self._variants.not_better(digest, now_s)
        return None

    def _stop_renewal(self) -> None:
        """There is something more important to do; it is due again later."""
        if self._renewal is not None:
            worker, self._renewal = self._renewal, None
            self._variants.put_off(worker.manifest_sha256, self._clock())
            self._discard(worker)

    # Frames.

    def _start(self, manifest_sha256: str, variants: tuple[str, ...] = ()) -> WorkerProcess | None:
        listener = self._listener.fileno()
        if listener < 0:
            log.warning("the agent is ending, no worker is started")
            return None
        order = replace(
            self._order, manifest_sha256=manifest_sha256, listener=listener, variants=variants
        )
        try:
            worker = self._start_process(order, self._clock())
        except DeviceError as reason:
            log.error("%s", reason)
            return None
        self._all.append(worker)
        self._selector.register(
            worker.channel, selectors.EVENT_READ, lambda mask: self._on_channel(worker, mask)
        )
        return worker

    def _on_channel(self, worker: WorkerProcess, mask: int) -> None:
        if worker not in self._all:
            return
        try:
            if mask & selectors.EVENT_WRITE:
                worker.channel.flush()
            if mask & selectors.EVENT_READ:
                before = worker.channel.received_bytes
                for frame, descriptor in worker.channel.receive():
                    self._on_frame(worker, frame, descriptor)
                if worker.channel.received_bytes > before:
                    worker.heard_s = self._clock()
        except ChannelClosed as reason:
            if str(reason):
                worker.kill(str(reason))
            self._gone(worker)
            return
        self._watch_writes(worker)

    def _send(self, worker: WorkerProcess, frame: Frame, descriptor: int | None = None) -> bool:
        """False where the worker is on its way out."""
        sent = worker.send(frame, descriptor)
        self._watch_writes(worker)
        return sent

    def _watch_writes(self, worker: WorkerProcess) -> None:
        if worker in self._all:
            writes = selectors.EVENT_WRITE if worker.channel.wants_write else 0
            key = self._selector.get_key(worker.channel)
            if key.events != selectors.EVENT_READ | writes:
                self._selector.modify(worker.channel, selectors.EVENT_READ | writes, key.data)

    def _on_frame(self, worker: WorkerProcess, frame: Frame, descriptor: int | None) -> None:
        match frame:
            case Heartbeat():
                try:
                    snapshot = Snapshot.from_json(
                        frame.requests,
                        frame.errors,
                        frame.latency,
                        frame.queue_wait,
                        frame.failed,
                        frame.work,
                    )
                except UntrustedError as reason:
                    raise ChannelClosed(str(reason)) from None
                self._listening.counted(worker.pid, worker.manifest_sha256, snapshot)
            case Tried() if worker.phase is Phase.LOADING:
                self._on_tried(worker, frame)
            case Ready() if worker.phase is Phase.LOADING:
                worker.passed(frame)
                if worker is self._candidate:
                    self._listening.tested(worker.manifest_sha256, True, "")
                elif worker is self._starting:
                    self._starting = None
                    self._promote(worker)
                elif worker is self._renewal:
                    self._renewal = None
                    self._promote(worker)
            case Refused():
                if worker.phase is Phase.LOADING and worker is not self._renewal:
                    self._variants.gave_up(worker.manifest_sha256)
                worker.kill(frame.reason)
            case Answer() if frame.id in worker.asks:
                worker.asks.discard(frame.id)
                self._listening.answered(frame)
            case Connection() if descriptor is not None:
                self._forward(descriptor)
            case _:
                log.warning("unexpected frame", extra={"frame": type(frame).__name__})

    def _on_tried(self, worker: WorkerProcess, tried: Tried) -> None:
        """A proof has ended: another begins, or the variant is loaded, which takes no longer."""
        limits = self._order.worker
        passed = tried.report.passed
        worker.loading = tried if passed else None
        limit_s = limits.prove_timeout_s if passed else limits.start_timeout_s
        worker.deadline_s = self._clock() + limit_s
        self._variants.tried(worker.manifest_sha256, tried.report)

    # One follows another.

    def _promote(self, worker: WorkerProcess) -> None:
        before, self._serving = self._serving, worker
        worker.phase = Phase.SERVING
        if worker.ready is not None:
            self._variants.serves(worker.manifest_sha256, worker.ready, self._clock())
        self._open()
        orphans, self._orphans = self._orphans, []
        for descriptor in orphans:
            self._forward(descriptor)
        if before is not None:
            self._drain(before)
        log.info("serving", extra={"manifest": worker.manifest_sha256[:12], "pid": worker.pid,
                                   "api": self._listener.address})  # fmt: skip
        self._listening.served()
        self._conclude()

    def _open(self) -> None:
        """Let clients reach who serves; where the port cannot be had, `watch` tries again."""
        if self._serving is None:
            self._reopen_s = None
            return
        try:
            self._listener.listen()
        except InputError as reason:
            if self._reopen_s is None:
                self._reopen_wait_s = REOPEN_S
                self._listening.unreachable(str(reason))
            self._reopen_s = self._clock() + self._reopen_wait_s
            self._reopen_wait_s = min(2 * self._reopen_wait_s, REOPEN_MAX_S)
            return
        self._reopen_s = None
        self._send(self._serving, Serve())

    def _reopen(self, now_s: float) -> float | None:
        if self._reopen_s is not None and self._reopen_s <= now_s:
            self._open()
        return self._reopen_s

    def _drain(self, worker: WorkerProcess) -> None:
        worker.phase = Phase.DRAINING
        worker.deadline_s = self._clock() + self._order.worker.drain_s + DRAIN_SLACK_S
        self._send(worker, Drain())

    def _forward(self, descriptor: int) -> None:
        """A client's idle connection goes to who serves, or waits for who will."""
        if self._serving is not None:
            self._send(self._serving, Connection(), descriptor)
        elif self._wanted and len(self._orphans) < MAX_ORPHANS:
            self._orphans.append(descriptor)
        else:
            self._listener.turn_away(descriptor)

    def _conclude(self) -> None:
        """Say that the swap is over once nobody drains any more."""
        if self._activating and all(w.phase is not Phase.DRAINING for w in self._all):
            self._activating = False
            self._listening.activated()

    def _discard(self, worker: WorkerProcess) -> None:
        """End a worker that has not served, without a word to anybody."""
        if worker is self._candidate:
            self._candidate = None
        if worker is self._starting:
            self._starting = None
        if worker is self._renewal:
            self._renewal = None
        worker.kill("not needed any more")

    def _gone(self, worker: WorkerProcess) -> None:
        """Its channel has ended, so it has, or is about to."""
        self._all.remove(worker)
        self._selector.unregister(worker.channel)
        how = worker.reap()
        self._listening.counted(worker.pid, worker.manifest_sha256, None)
        for name in sorted(worker.asks):
            self._listening.answered(Answer(name, error=how))
        log.info("worker ended", extra={"pid": worker.pid, "reason": how})
        again = self._next_variant(worker, how)
        if worker is self._candidate:
            self._candidate = again
            if again is None:
                self._listening.tested(worker.manifest_sha256, False, how)
        elif worker is self._starting:
            self._starting = again
            if again is None:
                self._listening.failed(how)
        elif worker is self._renewal:
            self._renewal = again
            if again is None:
                self._variants.not_better(worker.manifest_sha256, self._clock())
        elif worker is self._serving:
            self._serving = None
            self._crashed(worker, how)
        self._conclude()
        if not self._wanted and not self._all:
            self._close_orphans()
            self._listener.refuse()

    def _next_variant(self, worker: WorkerProcess, how: str) -> WorkerProcess | None:
        """What takes the place of a worker that died on a variant that had passed its proof."""
        wanted = worker in (self._candidate, self._starting, self._renewal)
        if not wanted or worker.loading is None:
            return None
        self._variants.died_loading(worker.manifest_sha256, worker.loading.report, how)
        left = worker.loading.left
        return self._start(worker.manifest_sha256, left) if left else None

    def _crashed(self, worker: WorkerProcess, how: str) -> None:
        """Who served is gone. On an accelerator, that is not the bundle's fault at once."""
        activating, self._activating = self._activating, False
        self._stop_renewal()
        if self._starting is not None:
            return
        digest = worker.manifest_sha256
        if not activating and self._variants.crashed(digest, how, self._clock()):
            log.warning("worker crashed on its accelerator: %s", how)
            self._starting = self._start(digest, self._variants.to_try(digest))
        if self._starting is None:
            self._listening.failed(how)
        else:
            self._listening.event("worker-failed", how, {"restarted": True})

    def _close_orphans(self) -> None:
        for descriptor in self._orphans:
            self._listener.turn_away(descriptor)
        self._orphans.clear()
