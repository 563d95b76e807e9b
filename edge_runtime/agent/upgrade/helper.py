"""The helper: the shell around `states`, started as root by a request and at boot.

It journals, then acts, and may be cut at any point. It stays as long as something is under way
(verifying, a trial), then ends: nothing of it runs on a board whose agent is not being updated. It
opens no connection and runs nothing of a candidate.

A trial ends well when the agent, run from the candidate's tree, asks for it. It ends badly after
`trial_s`, after `max_crashes` of the service, or when the board was started `max_boots` times.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.agent.upgrade import request as requests
from edge_runtime.agent.upgrade import verified
from edge_runtime.agent.upgrade.places import Places
from edge_runtime.agent.upgrade.record import Record, advance, load, to_bytes
from edge_runtime.agent.upgrade.releases import Releases
from edge_runtime.agent.upgrade.request import ACTIVATE, CONFIRM, STAGE, Request
from edge_runtime.agent.upgrade.service import Service
from edge_runtime.agent.upgrade.states import (
    Action,
    Activated,
    Asked,
    Booted,
    Condemned,
    Confirmed,
    Event,
    Flipped,
    Refused,
    Staged,
    Stalled,
    State,
)
from edge_runtime.bundle import durable
from edge_runtime.errors import DeviceError, EdgeError
from edge_runtime.link.folder import FolderPlace
from edge_runtime.update.clock import Machine, Readings

log = logging.getLogger(__name__)

POLL_S = 0.5
STUCK_S = 10.0
"""How long a run lasts whose request cannot be removed: the next one begins at once."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a trial."""

    trial_s: float = 300.0
    max_crashes: int = 3
    max_boots: int = 3
    look_s: float = 5.0
    """How often the service manager is asked."""


class Helper:
    """One run of it.

    Args:
        sleep: how it waits.

    Raises:
        DeviceError: the releases folder cannot be used, or the journal not now.
    """

    def __init__(
        self,
        places: Places,
        service: Service,
        bounds: Bounds = Bounds(),
        readings: Readings | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._places = places
        self._service = service
        self._bounds = bounds
        self._readings = readings or Machine()
        self._sleep = sleep
        self._releases = Releases(places.releases)
        self._releases.prepare()
        self._agent = FolderPlace(places.state)
        self._events: deque[Event] = deque()
        self._crashes = 0
        self._look_again_s = 0.0
        self._stuck = False
        self._request: Request | None = None
        self.record = self._load()

    def _load(self) -> Record:
        try:
            found = load(self._places.journal)
        except DeviceError as reason:
            log.error("journal is lost: %s; what is linked stays", reason)
            with contextlib.suppress(OSError):
                self._places.journal.unlink()
            found = None
        return found or Record(current=self._releases.current)

    def run(self) -> None:
        """Until nothing is asked and nothing under way.

        Raises:
            DeviceError: the journal cannot be written, or the link not be changed.
        """
        self._begin()
        while True:
            self._requested()
            if self.record.state is State.TRIAL:
                self._watch()
            if self.record.state is not State.TRIAL and not self._left():
                break
            self._sleep(POLL_S)
        if self._stuck:
            self._sleep(STUCK_S)

    def _begin(self) -> None:
        r = self.record
        if r.state is State.TRIAL and r.boot_id != self._readings.boot_id():
            self._save(self._begun(r, r.boots + 1))
        self._handle(Booted())

    # What is asked.

    def _requested(self) -> None:
        """One request: answered in the journal, then removed."""
        if not self._left():
            return
        request: Request | None = None
        try:
            request = requests.take(self._agent)
        except EdgeError as reason:
            log.error("request refused: %s", reason)
        if request is not None and request.token != self.record.answered:
            self._answer(request)
        try:
            requests.remove(self._places.state)
        except DeviceError as reason:
            log.error("%s", reason)
            self._stuck = True

    def _left(self) -> bool:
        return not self._stuck and requests.is_left(self._places.state)

    def _answer(self, request: Request) -> None:
        problem = ""
        self._request = request
        r, candidate = self.record, request.candidate
        same = r.candidate is not None and (
            r.candidate.manifest_sha256 == candidate.manifest_sha256
        )
        match request.action:
            case x if x == STAGE:
                refused = r.refusal(candidate.manifest_sha256, candidate.attempt)
                if r.state not in (State.IDLE, State.STAGED):
                    problem = f"another update is under way ({r.state.value})"
                elif refused is None and not (r.state is State.STAGED and same):
                    self._handle(Asked(candidate))
                    problem = self.record.problem
            case x if x == ACTIVATE:
                if r.state is State.STAGED and same:
                    self._save(
                        dataclasses.replace(
                            r, serving=request.serving, connected=request.connected, problem=""
                        )
                    )
                    self._handle(Activated())
                elif not (r.state in (State.FLIPPING, State.TRIAL) and same):
                    problem = "this release is not unpacked"
            case x if x == CONFIRM and r.state is State.TRIAL and same:
                if self._service.crashes() < self._bounds.max_crashes:
                    self._handle(Confirmed())
        self._save(dataclasses.replace(self.record, answered=request.token, problem=problem))

    # The trial.

    def _begun(self, record: Record, boots: int) -> Record:
        """`record` with a trial that begins, or goes on, in this boot."""
        return dataclasses.replace(
            record,
            boot_id=self._readings.boot_id(),
            since_s=self._readings.uptime_s(),
            boots=boots,
        )

    def _watch(self) -> None:
        r, b = self.record, self._bounds
        passed_s = self._readings.uptime_s() - r.since_s
        if self._readings.uptime_s() >= self._look_again_s:
            self._crashes = self._service.crashes()
            self._look_again_s = self._readings.uptime_s() + b.look_s
        crashes = self._crashes
        reason = ""
        if r.boots > b.max_boots:
            reason = f"the board was started {r.boots} times while it was tried"
        elif crashes >= b.max_crashes:
            reason = f"it ended by itself {crashes} times"
        elif passed_s >= b.trial_s:
            lacks = requests.standing(self._agent) or "it said nothing"
            reason = f"it was not healthy within {b.trial_s:g} s: {lacks}"
        if reason:
            self._handle(Condemned(reason))

    # States.

    def _handle(self, event: Event) -> None:
        self._events.append(event)
        while self._events:
            event = self._events.popleft()
            before = self.record
            record, actions = advance(before, event)
            if isinstance(event, Flipped) and before.state is State.FLIPPING:
                record = self._begun(record, 1)
            self._save(record)
            about = before.candidate or record.candidate
            log.info(
                "upgrade: %s",
                type(event).__name__,
                extra={
                    "state": record.state.value,
                    "version": about.version if about else None,
                    "reason": getattr(event, "reason", None),
                },
            )
            for action in actions:
                self._act(action)

    def _act(self, action: Action) -> None:
        match action:
            case Action.STAGE:
                self._stage()
            case Action.FLIP:
                self._flip(self.record.tree)
            case Action.FLIP_BACK:
                self._flip(self.record.current)
            case Action.PRUNE:
                self._prune()

    def _stage(self) -> None:
        wanted = self.record.candidate
        try:
            request = self._request or requests.take(self._agent)
            if request is None or request.release is None or request.candidate != wanted:
                # After a power cut: the agent asks again, if it still wants it.
                self._events.append(Stalled("what was asked for is not asked any more"))
                return
            verified.install(request.release, self._places, self._releases)
        except EdgeError as reason:
            kind = Refused if verified.is_final(reason) else Stalled
            self._events.append(kind(verified.sentence(reason)))
        else:
            self._events.append(Staged())

    def _flip(self, name: str) -> None:
        self._releases.flip(name)
        self._service.restart()
        self._crashes, self._look_again_s = 0, 0.0
        self._events.append(Flipped())

    def _prune(self) -> None:
        r = self.record
        try:
            self._releases.prune([r.current, r.previous, *([r.tree] if r.candidate else [])])
        except DeviceError as reason:
            log.error("%s", reason)

    def _save(self, record: Record) -> None:
        """Raises DeviceError: it cannot be journaled, so nothing is done about it."""
        under_way = record.state is not State.IDLE
        if under_way and not self._places.open.exists():
            durable.replace(self._places.open, b"")  # First: with it the helper is started at boot.
        if record != self.record or not os.path.exists(self._places.journal):
            durable.replace(self._places.journal, to_bytes(record))
        self.record = record
        if not under_way:
            self._places.open.unlink(missing_ok=True)
