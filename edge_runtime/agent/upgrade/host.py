"""The agent's side of its own update: what the update driver asks, put to the helper.

To the driver a release of the agent is a candidate like a bundle: testing it is having the helper
verify and unpack it, and then the new tree's own check, as this user; activating it is having the
helper start it, which ends this process. So ACTIVATING lasts through the restart and the trial, in
whichever of the two trees runs: it ends when the helper's journal says that the new one stays, or
why it does not. Polled, a few times a second at most, and only while something is under way.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.agent.turns import Turn
from edge_runtime.agent.upgrade import request as requests
from edge_runtime.agent.upgrade.places import Places, mark_of
from edge_runtime.agent.upgrade.record import Record, load
from edge_runtime.agent.upgrade.request import ACTIVATE, CONFIRM, STAGE, Request
from edge_runtime.agent.upgrade.states import Candidate, State
from edge_runtime.errors import DeviceError, EdgeError, IncompatibleError
from edge_runtime.fields import Json
from edge_runtime.messages.fleet import Release
from edge_runtime.text import plain
from edge_runtime.update.driver import Driver, Status

log = logging.getLogger(__name__)

POLL_S = 0.5
HEALTHY_S = 5.0
"""How long all must be well without a break before a new agent says that it is healthy."""
AGAIN_S = 30.0
TRIES = 5
"""How often the helper is asked again for what it could not do, and how far apart."""
SILENT_S = 120.0
"""A helper that says nothing for so long is not there."""
CHECK_S = 180.0
KINDS: Mapping[str, str] = {
    "update-started": "agent-update-started",
    "update-stalled": "agent-update-stalled",
    "update-withdrawn": "agent-update-withdrawn",
    "bundle-removed": "agent-update-withdrawn",
    "bundle-refused": "agent-refused",
    "bundle-activated": "agent-activated",
    "bundle-good": "agent-good",
}
"""What the operator hears instead of what the driver says of bundles."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What this agent does now."""

    serving: bool
    connected: bool


class AgentHost:
    """Host of the driver of the agent's own releases.

    Args:
        state: the agent's state folder.
        config_file: of this device, for the new tree's check.
        signed: whether this device has a root of trust; without one no agent is ever replaced.
        calm: whether no bundle is being tried now, so that a restart blames none.
        healthy_s: see HEALTHY_S.
    """

    def __init__(
        self,
        places: Places,
        state: Path,
        config_file: Path | None,
        turn: Turn,
        on_report: Callable[[Status], None],
        on_event: Callable[[str, str, Mapping[str, Json]], None],
        standing: Callable[[], Standing],
        calm: Callable[[], bool],
        *,
        signed: bool,
        healthy_s: float = HEALTHY_S,
    ) -> None:
        self.driver: Driver | None = None
        self._places = places
        self._state = state
        self._config_file = config_file
        self._turn = turn
        self._on_report = on_report
        self._on_event = on_event
        self._standing = standing
        self._calm = calm
        self._signed = signed
        self._healthy_s = healthy_s
        tree = places.running()
        self.running = str(mark_of(tree).get("manifest_sha256", "")) if tree is not None else ""
        self._testing = self._activating = ""
        self._check: subprocess.Popen[bytes] | None = None
        self._check_end_s = 0.0
        self._token = ""
        self._asked_s = self._again_s = self._look_s = self._now_s = 0.0
        self._tries = 0
        self._well_since_s: float | None = None
        self._said = ""
        self._tried = self._on_trial(self._journal())

    @property
    def on_trial(self) -> bool:
        """Whether this process is what the helper tries, as far as was seen."""
        return self._tried

    # What the driver asks.

    def authenticate(self, release: Release) -> None:
        """Ask who signed it; where nobody could, it is refused."""
        if self._signed:
            self._turn.authenticate(release)
        elif self.driver is not None:
            why = "this device trusts nobody (trust is none), and takes no unsigned agent"
            self.driver.authenticated(release.manifest.sha256, IncompatibleError(why), self._now_s)

    def stop_authenticating(self) -> None:
        self._turn.stop()

    def start_active(self, manifest_sha256: str) -> None:
        """Nothing: what runs, runs. Said where that is another one than was activated last."""
        if manifest_sha256 != self.running:
            log.warning(
                "another agent runs than the one that was activated last",
                extra={"running": self.running[:12] or "the package", "was": manifest_sha256[:12]},
            )

    def start_candidate(self, manifest_sha256: str) -> None:
        self.stop_candidate()
        self._testing = manifest_sha256

    def activate_candidate(self) -> None:
        self._activating, self._testing = self._testing or self._activating, ""
        if not self._activating and self.driver is not None and self.driver.desired_now is not None:
            release = self.driver.desired_now.release
            self._activating = release.manifest.sha256 if release is not None else ""
        self._forget()

    def stop_candidate(self) -> None:
        self._testing = self._activating = ""
        self._forget()
        self.end()

    def end(self) -> None:
        """This process ends: so does a check. What was asked of the helper stays asked."""
        if self._check is not None:
            self._check.kill()
            self._check.wait()
            self._check = None

    def stop_active(self) -> None:
        """Nothing: an agent that is not wanted any more is still the one that is here."""

    def report(self, status: Status) -> None:
        self._on_report(status)

    def event(self, kind: str, text: str, details: Mapping[str, Json]) -> None:
        self._on_event(KINDS.get(kind, f"agent-{kind}"), text, details)

    # What the supervisor's loop calls.

    def tick(self, now_s: float) -> float | None:
        """Do what is due; when to call again at the latest, or None."""
        self._now_s = now_s
        if not (self._testing or self._activating or self._tried):
            return None
        if now_s < self._look_s:
            return self._look_s
        self._look_s = now_s + POLL_S
        record = self._journal()
        self._tried = self._on_trial(record)
        if self._tried:
            self._watch(record)
        if self._testing:
            self._test(record)
        elif self._activating:
            self._activate(record)
        return self._look_s

    def _journal(self) -> Record:
        try:
            return load(self._places.journal) or Record()
        except DeviceError as reason:
            log.debug("%s", reason)
            return Record()

    def _on_trial(self, record: Record) -> bool:
        """Whether this very process is what the helper tries."""
        return (
            record.state is State.TRIAL
            and record.candidate is not None
            and record.candidate.manifest_sha256 == self.running
        )

    # On trial: this is the new agent.

    def _watch(self, record: Record) -> None:
        now, lacks = self._standing(), ""
        if record.serving and not now.serving:
            lacks = "no bundle serves, as one did before"
        elif record.connected and not now.connected:
            lacks = "the broker is not connected, as it was before"
        if lacks != self._said:
            self._said = lacks
            requests.say_standing(self._state, lacks)
        if lacks:
            self._well_since_s = None
            return
        if self._well_since_s is None:
            self._well_since_s = self._now_s
        if self._now_s - self._well_since_s >= self._healthy_s and record.candidate is not None:
            self._well_since_s = self._now_s  # Asked again after as long, if it did not arrive.
            self._leave(Request(CONFIRM, record.candidate))

    # The driver's candidate.

    def _test(self, record: Record) -> None:
        digest = self._testing
        refusal = record.refusal(digest, self._attempt)
        if refusal is not None:
            self._tested(digest, refusal.reason)
        elif self.running == digest:
            self._tested(digest, "")
        elif self._is(record, State.STAGED, digest):
            self._examine(record.tree, digest)
        else:
            self._ask(record, STAGE)

    def _activate(self, record: Record) -> None:
        digest = self._activating
        refusal = record.refusal(digest, self._attempt)
        if refusal is not None:
            self._tested(digest, refusal.reason)
        elif self.running == digest and record.state is State.IDLE:
            self._activating = ""
            self._forget()
            if self.driver is not None:
                self.driver.activated(self._now_s)
        elif self._is(record, State.STAGED, digest):
            if self._calm():
                self._ask(record, ACTIVATE)
        elif record.state is State.IDLE:
            self._ask(record, STAGE)  # What was unpacked is gone, with the helper's journal.

    def _is(self, record: Record, state: State, digest: str) -> bool:
        found = record.candidate.manifest_sha256 if record.candidate is not None else ""
        return record.state is state and found == digest

    def _tested(self, digest: str, fault: str) -> None:
        """To the driver; without a fault it passed."""
        self.stop_candidate()
        if not fault:
            self._testing = digest  # So that `activate_candidate` knows which.
        if self.driver is not None:
            self.driver.tested(digest, not fault, fault, self._now_s)

    @property
    def _attempt(self) -> int:
        desired = self.driver.desired_now if self.driver is not None else None
        return desired.attempt if desired is not None else 0

    # The helper.

    def _ask(self, record: Record, action: str) -> None:
        """Leave the request, unless it waits for an answer; give up where none comes."""
        if self._token and record.answered == self._token:
            self._token = ""
            if record.problem:
                self._tries += 1
                self._again_s = self._now_s + AGAIN_S
                log.warning("helper: %s", record.problem, extra={"action": action})
                if self._tries >= TRIES:
                    self._tested(self._testing or self._activating, record.problem)
                return
        if self._token:
            if record.state in (State.STAGING, State.FLIPPING):
                self._asked_s = self._now_s
            elif self._now_s - self._asked_s > SILENT_S:
                why = "edge-agent-upgrade.service does not answer; is edge-agent-upgrade.path on?"
                self._tested(self._testing or self._activating, why)
            return
        if self._now_s < self._again_s or self.driver is None:
            return
        desired = self.driver.desired_now
        release = desired.release if desired is not None else None
        if release is None:
            return
        now = self._standing()
        candidate = Candidate(release.version, release.manifest.sha256, self._attempt)
        self._leave(
            Request(
                action,
                candidate,
                release if action == STAGE else None,
                serving=now.serving,
                connected=now.connected,
            )
        )

    def _leave(self, request: Request) -> None:
        try:
            self._token = request.leave(self._state)
        except EdgeError as reason:
            log.warning("helper cannot be asked: %s", reason)
            self._again_s = self._now_s + AGAIN_S
        self._asked_s = self._now_s

    def _forget(self) -> None:
        """The next question is a new one; what was asked and not answered is asked no more."""
        if self._token:
            requests.withdraw(self._state)
        self._token, self._tries, self._again_s = "", 0, 0.0

    # The new tree's own check.

    def _examine(self, tree: str, digest: str) -> None:
        if self._check is None:
            self._check_end_s = self._now_s + CHECK_S
            fault = self._start_check(self._places.releases / tree)
        elif self._check.poll() is not None:
            fault = _said(self._check)
            self._check = None
        elif self._now_s > self._check_end_s:
            fault = f"its check did not end within {CHECK_S:g} s"
        else:
            return
        if fault is not None:
            self._tested(digest, fault)

    def _path_of(self, tree: Path) -> str:
        """Where the new tree's modules are looked for: as ours are, with it in our tree's place."""
        ours = self._places.running()
        folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        found = [str(tree) if folder == str(ours) else folder for folder in folders if folder]
        return os.pathsep.join(found if str(tree) in found else [str(tree), *found])

    def _start_check(self, tree: Path) -> str | None:
        """Why it cannot be started, or None."""
        command = [sys.executable, "-m", "edge_runtime.agent.upgrade.check"]
        if self._config_file is not None:
            command += ["--config", str(self._config_file)]
        try:
            self._check = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                cwd=tree,
                env={**os.environ, "PYTHONPATH": self._path_of(tree), "ORT_DISABLE_TELEMETRY": "1"},
                start_new_session=True,
            )
        except OSError as reason:
            return f"its check cannot be started ({reason.strerror})"
        return None


def _said(process: subprocess.Popen[bytes]) -> str:
    """What a check that has ended found; empty where all is well."""
    assert process.stdout is not None
    with process.stdout as stream:
        lines = stream.read(16 << 10).splitlines()
    try:
        found = json.loads(lines[-1])["fault"]
    except (IndexError, ValueError, KeyError, TypeError):
        return f"its check ended with exit code {process.returncode} and no word"
    return f"its own check: {plain(str(found), 400)}" if found else ""
