"""A small device: the real driver, store and journal, in virtual time, over a folder of chunks.

    python -m tests.reliability.device STATE REPOSITORY DESIRED [--root ROOT] [--crash-in-trial]

Boots from the state folder STATE without a network, serves what it can, then is online, is told the
desired state in the file DESIRED, and goes on until the update is over. One thread, one process, so
that system calls can be counted. Its worker is a function that reads and checks every chunk; its
notary, where ROOT is the first trusted metadata, is the agent's own code called in this process.

What happens is said on standard output, a JSON object a line: `serving` (a manifest's digest, or
null), `event` with its `text`, and in the end `end`, the last status. Said with writev(2), which
nothing else here uses: a fault that is injected into write(2) hits the state folder only.

Exit code 0; 1 where the state folder cannot be used, with a sentence; 3 where it does not come to
rest.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TypeAlias

from edge_runtime.bundle import durable
from edge_runtime.bundle.manifest import MAX_MANIFEST_BYTES
from edge_runtime.bundle.store import ChunkStore, StoreReader
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import EdgeError
from edge_runtime.fields import Json
from edge_runtime.messages.fleet import Desired, Release
from edge_runtime.profile import load_profile
from edge_runtime.update.driver import Driver, Status

PROFILE = "generic-x86_64"
OFFLINE_S = 300.0
LIMIT_S = 48 * 3600.0
MAX_STEPS = 20_000


Trust: TypeAlias = Callable[[Release], EdgeError | None]
"""Why a release is not to be believed, or None."""


def say(**what: Json) -> None:
    """One line on standard output."""
    os.writev(1, [json.dumps(what).encode() + b"\n"])


class Device:
    """The driver's host and transport. `now_s` moves only where nothing else is left to do."""

    fault = ""

    def __init__(
        self, state: Path, repository: Path, trust: Trust, *, crash_in_trial: bool = False
    ) -> None:
        self.now_s = 1000.0
        self.serving: str | None = None
        self._state = state
        self._chunks = repository / "chunks"
        self._candidate: str | None = None
        self._trust = trust
        self._crash_in_trial = crash_in_trial
        self._inputs: deque[Callable[[], None]] = deque()
        self._steps = 0
        self.driver = Driver(state, load_profile(PROFILE), self, self, random=Random(0))

    def run(self, desired: bytes) -> bool:
        """Boot, then update; whether it came to rest."""
        self.driver.start(self.now_s)
        self._until(lambda: self.serving is not None, OFFLINE_S)
        say(phase="online")
        self.driver.connected(True, self.now_s)
        self.driver.desired(desired, self.now_s)
        wanted = Desired.from_bytes(desired).release
        ended = self._until(lambda: self._rests(wanted.manifest.sha256 if wanted else ""), LIMIT_S)
        status = self.driver.status
        say(
            end=status.state,
            active=status.active.manifest_sha256 if status.active else None,
            serving=self.serving,
            refused=[refusal.manifest_sha256 for refusal in status.refused],
            reason=status.reason,
        )
        return ended

    def _rests(self, wanted: str) -> bool:
        """The desired bundle serves and was marked good, or was refused."""
        s = self.driver.status
        if s.state != "idle" or self.serving is None:
            return False
        active = s.active.manifest_sha256 if s.active else ""
        refused = any(refusal.manifest_sha256 == wanted for refusal in s.refused)
        return (active == wanted) != refused and active == self.serving

    def _until(self, done: Callable[[], bool], patience_s: float) -> bool:
        """Let inputs and time pass until `done`, or nothing is left to happen."""
        end_s = self.now_s + patience_s
        while self._steps < MAX_STEPS:
            self._steps += 1
            if self._inputs:
                self._inputs.popleft()()
                continue
            if done():
                return True
            due_s = self.driver.tick(self.now_s)
            if self._inputs:
                continue
            if due_s is None or due_s > end_s:
                return done()
            self.now_s = max(due_s, self.now_s + 0.001)
        return False

    # The transport.

    def want(self, digests: Sequence[str]) -> None:
        for digest in digests:
            path = self._chunks / digest[:2] / digest
            self._inputs.append(
                lambda digest=digest, path=path: self.driver.chunk(  # type: ignore[misc]
                    digest, path.read_bytes(), self.now_s
                )
            )

    def drop(self, digests: Sequence[str]) -> None:
        pass

    def arrived(self) -> None:
        pass

    def failed(self) -> bool:
        return False

    # The host.

    def authenticate(self, release: Release) -> None:
        refusal = self._trust(release)
        self._inputs.append(
            lambda: self.driver.authenticated(release.manifest.sha256, refusal, self.now_s)
        )

    def stop_authenticating(self) -> None:
        pass

    def start_active(self, manifest_sha256: str) -> None:
        if self.serving == manifest_sha256:
            return
        reason = self._self_test(manifest_sha256)
        if reason:
            self._serve(None)
            self._inputs.append(lambda: self.driver.failed(reason, self.now_s))
        else:
            self._serve(manifest_sha256)

    def start_candidate(self, manifest_sha256: str) -> None:
        self._candidate = manifest_sha256
        reason = self._self_test(manifest_sha256)
        self._inputs.append(
            lambda: self.driver.tested(manifest_sha256, not reason, reason, self.now_s)
        )

    def activate_candidate(self) -> None:
        if self._candidate is None:
            return
        self._serve(self._candidate)
        self._candidate = None
        self._inputs.append(lambda: self.driver.activated(self.now_s))
        if self._crash_in_trial:
            self._inputs.append(self._crash)

    def stop_candidate(self) -> None:
        self._candidate = None

    def stop_active(self) -> None:
        self._serve(None)

    def report(self, status: Status) -> None:
        pass

    def event(self, kind: str, text: str, details: Mapping[str, Json]) -> None:
        say(event=kind, text=text)

    def _crash(self) -> None:
        self._serve(None)
        self.driver.failed("the worker died of signal 11", self.now_s)

    def _serve(self, manifest_sha256: str | None) -> None:
        if self.serving != manifest_sha256:
            self.serving = manifest_sha256
            say(serving=manifest_sha256)

    def _self_test(self, manifest_sha256: str) -> str:
        """Why the bundle cannot serve, or nothing. Reads what a worker reads: all of it."""
        try:
            path = self._state / "manifests" / f"{manifest_sha256}.json"
            data = durable.read(path, MAX_MANIFEST_BYTES + 1)
            verify(StoreReader(ChunkStore(self._state / "chunks"), data),
                   manifest_sha256=manifest_sha256)  # fmt: skip
        except OSError as reason:
            return f"manifest {manifest_sha256}: cannot be read ({reason.strerror})"
        except EdgeError as reason:
            return str(reason)
        return ""


def _signed_by(root: Path, options: argparse.Namespace) -> Trust:
    """The agent's own code over a folder, as in its notary process."""
    # Loaded only where it is used: python-tuf and cryptography take a moment.
    from edge_runtime.agent.notary import decide
    from edge_runtime.link.repository import open_repository

    data, url = root.read_bytes(), f"file://{options.repository.absolute()}"

    def judge(release: Release) -> EdgeError | None:
        folder = options.state / "trust"
        try:
            decide(release, folder, data, [("folder", lambda: open_repository(url))])
        except EdgeError as reason:
            return reason
        return None

    return judge


class _Lines(logging.Handler):
    """Log lines on standard error, by writev(2) as well."""

    def emit(self, record: logging.LogRecord) -> None:
        os.writev(2, [self.format(record).encode() + b"\n"])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.device")
    parser.add_argument("state", type=Path)
    parser.add_argument("repository", type=Path)
    parser.add_argument("desired", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--crash-in-trial", action="store_true")
    options = parser.parse_args()
    os.getpid = lambda: 1  # Temporary files are named after it: the same in every run.
    logging.basicConfig(level=logging.WARNING, handlers=[_Lines()])
    desired = options.desired.read_bytes()
    try:
        device = Device(
            options.state,
            options.repository,
            _signed_by(options.root, options) if options.root else lambda _release: None,
            crash_in_trial=options.crash_in_trial,
        )
    except EdgeError as reason:
        os.writev(2, [f"{reason}\n".encode()])
        return 1
    return 0 if device.run(desired) else 3


if __name__ == "__main__":
    sys.exit(main())
