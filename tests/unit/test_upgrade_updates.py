"""The agent's side of its own update: a second driver, its host, the real helper, no processes.

What a restart would do is done by hand: another `AgentUpdates` in the same folder, which says that
it runs from the new tree. The new tree's own check is a real process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.turns import Turn, Turns
from edge_runtime.agent.upgrade import host as module
from edge_runtime.agent.upgrade.host import Standing
from edge_runtime.agent.upgrade.states import State
from edge_runtime.agent.upgrade.updates import AgentUpdates, Upgrades
from edge_runtime.bundle.agent_package import own_platform
from edge_runtime.bundle.archive import Reader
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edge_runtime.errors import EdgeError, UntrustedError
from edge_runtime.fields import Json
from edge_runtime.messages.fleet import Desired, DesiredAgent, Release, ReportedAgent
from edge_runtime.update.record import Status
from tests.fakes import debs
from tests.fakes.agents import wait_for
from tests.fakes.upgrades import BOUNDS, Board, Fleet, release_of

CHECK = "edge_runtime/agent/upgrade/check.py"


def package(version: str = "0.2.0", fault: str = "") -> bytes:
    """One whose own check says that."""
    said = '{"fault": "%s"}' % fault  # noqa: UP031 - braces
    files = {f"edge_runtime/{part}__init__.py": b"" for part in ("", "agent/", "agent/upgrade/")}
    files[CHECK] = f"print({said!r})\n".encode()
    return debs.deb(debs.tree(files), debs.control(version))


class Chunks:
    """Where chunks come from: all that was published, at once."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.to: AgentUpdates | None = None
        self.wanted: list[str] = []

    def publish(self, reader: Reader) -> Release:
        release = release_of(reader)
        data = reader.read(MANIFEST_NAME, 1 << 20)
        for entry in (release.manifest, *Manifest.from_bytes(data).files):
            for chunk, piece in entry.cut(reader.read(entry.path, entry.size_bytes)):
                self.held[chunk.sha256] = bytes(piece)
        return release

    fault = ""

    def want(self, digests: Sequence[str]) -> None:
        self.wanted += digests

    def drop(self, digests: Sequence[str]) -> None:
        self.wanted = [digest for digest in self.wanted if digest not in digests]

    def arrived(self) -> None:
        """Good."""

    def failed(self) -> bool:
        return False


class FakeTrust:
    """Answers at once; signed is what is in `signed`."""

    def __init__(self, turns: Turns) -> None:
        self.signed: set[str] = set()
        self.asked: list[str] = []
        self._turns = turns

    def authenticate(self, release: Release) -> None:
        self.asked.append(release.manifest.sha256)
        known = release.manifest.sha256 in self.signed
        refusal: EdgeError | None = None if known else UntrustedError("nobody signed it")
        self._turns.answered(release.manifest.sha256, refusal)

    def stop(self) -> None:
        """Nothing is under way."""


class Device:
    """One life of the agent after the other, on one board."""

    def __init__(self, board: Board, trust: str = "tuf") -> None:
        self.board = board
        self.chunks = Chunks()
        self.turns = Turns()
        self.trust = FakeTrust(self.turns)
        self.turns.trust = self.trust  # type: ignore[assignment]
        self.events: list[tuple[str, str]] = []
        self.standing = Standing(serving=True, connected=True)
        self.bundle_state = "idle"
        self.now_s = 0.0
        self._config = AgentConfig("d", "generic-x86_64", board.places.state, trust)
        self.start()

    def start(self, running: str = "") -> None:
        """The agent starts, from the tree of that release, or from the package's."""
        self.updates = AgentUpdates(
            self._config,
            Upgrades(self.board.places, None, healthy_s=0.5),
            self.chunks,
            self.turns,
            bundle=lambda: Status(1, self.bundle_state, None, None, (), None, 0, 0.0, "", "tuf"),
            standing=lambda: self.standing,
            on_change=lambda: None,
            on_event=self._event,
            pulse=lambda: None,
        )
        self.updates._host.running = running
        self.updates._host._tried = bool(running)
        self.chunks.wanted.clear()
        self.updates.start(self.now_s)
        self.updates.connected(True, self.now_s)

    def _event(self, kind: str, text: str, details: Mapping[str, Json]) -> None:
        self.events.append((kind, text))

    def desire(self, release: Release | None, attempt: int = 0, revision: int = 1) -> None:
        wish = DesiredAgent(release, attempt) if release is not None else None
        self.updates.desired(Desired(revision, None, 0, wish).to_bytes(), self.now_s)

    def step(self) -> None:
        """A little time, and the helper if somebody asks for it."""
        self.now_s += 0.6
        for digest in list(self.chunks.wanted):
            if digest in self.chunks.held:
                self.updates.chunk(digest, self.chunks.held[digest], self.now_s)
        self.updates.tick(self.now_s)
        self.turns.tick()

    def until(self, found: Callable[[], Any]) -> Any:
        def look() -> Any:
            self.step()
            return found()

        return wait_for("it comes to that", look, 30.0)

    @property
    def reported(self) -> ReportedAgent:
        found = self.updates.reported
        assert found is not None
        return found


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    (tmp_path / "fleet").mkdir()
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def device(tmp_path: Path, fleet: Fleet) -> Device:
    return Device(Board(tmp_path / "board", fleet))


def signed(fleet: Fleet, device: Device, data: bytes, version: str = "0.2.0") -> Release:
    """Published, signed, and the metadata on the device."""
    reader = fleet.package(version, data)
    release = device.chunks.publish(reader)
    fleet.sign(reader)
    device.board.follow(fleet.repository.files)
    device.trust.signed.add(release.manifest.sha256)
    return release


def staged(device: Device) -> bool:
    """Let the helper work where it is asked."""
    if (device.board.places.state / "upgrade/request.json").exists():
        device.board.run()
    return device.board.record.state is State.STAGED


def test_from_a_desired_release_to_a_new_agent_that_stays(fleet: Fleet, device: Device) -> None:
    release = signed(fleet, device, package())
    assert device.reported.platform == own_platform()
    device.desire(release)
    device.until(lambda: staged(device))
    assert device.reported.state == "testing"
    device.until(lambda: device.reported.state == "activating")
    helper = device.board.helper(lambda _: new_life())

    def new_life() -> None:
        # The service manager has started the new tree.
        device.board.readings.wait(0.1)
        if device.updates._host.running == "":
            device.start(release.manifest.sha256)
        device.step()

    device.until(lambda: (device.board.places.state / "upgrade/request.json").exists())
    helper.run()
    assert device.board.record.state is State.IDLE
    device.until(lambda: device.reported.state == "idle" and device.reported.active is not None)
    assert device.reported.active == release.ref
    assert device.reported.running == release.manifest.sha256
    assert device.reported.revision == 1
    kinds = [kind for kind, _ in device.events]
    assert kinds == ["agent-update-started", "agent-activated", "agent-good"]


def test_a_tree_whose_own_check_fails_is_never_started(fleet: Fleet, device: Device) -> None:
    release = signed(fleet, device, package(fault="numpy does not load"))
    device.desire(release)
    device.until(lambda: staged(device) or device.reported.refused)
    device.until(lambda: device.reported.refused)
    assert device.reported.refused[0].reason == "its own check: numpy does not load"
    assert device.board.service.restarts == 0
    device.step()
    assert device.reported.state == "idle"


def test_the_reason_of_the_helper_is_the_reason_that_is_reported(
    fleet: Fleet, device: Device
) -> None:
    release = signed(fleet, device, package())
    device.desire(release)
    device.until(lambda: staged(device) and device.reported.state == "activating")
    device.until(lambda: (device.board.places.state / "upgrade/request.json").exists())
    device.standing = Standing(serving=False, connected=True)
    device.board.run()
    assert device.board.service.restarts == 2
    device.start()  # The old tree again, after a trial in which nothing was said.
    device.until(lambda: device.reported.refused)
    assert device.reported.refused[0].reason == (
        f"it was not healthy within {BOUNDS.trial_s:g} s: it said nothing"
    )
    asked = len(device.trust.asked)
    device.desire(release, revision=2)
    for _ in range(5):
        device.step()
    assert len(device.trust.asked) == asked, "not tried again before the attempt is raised"
    device.desire(release, attempt=1, revision=3)
    device.until(lambda: len(device.trust.asked) > asked)


def test_without_a_root_of_trust_no_agent_is_replaced(tmp_path: Path, fleet: Fleet) -> None:
    device = Device(Board(tmp_path / "board", fleet), trust="none")
    release = device.chunks.publish(fleet.package("0.2.0", package()))
    device.desire(release)
    device.until(lambda: device.reported.refused)
    assert "trust is none" in device.reported.refused[0].reason
    assert device.trust.asked == []
    assert device.chunks.wanted == []


def test_an_agent_waits_until_no_bundle_is_tried(fleet: Fleet, device: Device) -> None:
    release = signed(fleet, device, package())
    device.bundle_state = "fetching"
    device.desire(release)
    for _ in range(5):
        device.step()
    assert device.trust.asked == []
    device.bundle_state = "idle"
    device.until(lambda: staged(device))
    device.bundle_state = "trial"
    device.until(lambda: device.reported.state == "activating")
    for _ in range(10):
        device.step()
    assert not (device.board.places.state / "upgrade/request.json").exists()
    device.bundle_state = "idle"
    device.until(lambda: (device.board.places.state / "upgrade/request.json").exists())


def test_what_is_not_desired_any_more_is_called_off(fleet: Fleet, device: Device) -> None:
    release = signed(fleet, device, package())
    device.desire(release)
    device.until(lambda: staged(device))
    device.desire(None, revision=2)
    device.step()
    assert device.reported.state == "idle"
    assert device.reported.active is None
    assert not (device.board.places.state / "upgrade/request.json").exists()


def test_a_helper_that_never_answers_is_named(
    fleet: Fleet, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_S", 3.0)
    device.desire(signed(fleet, device, package()))
    device.until(lambda: device.reported.refused)
    assert "edge-agent-upgrade.path" in device.reported.refused[0].reason


def test_a_helper_that_cannot_now_is_asked_again_before_the_release_is_given_up(
    fleet: Fleet, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 2.0)
    release = signed(fleet, device, package())
    root = device.board.places.root.read_bytes()
    device.board.places.root.unlink()
    device.desire(release)
    device.until(lambda: staged(device) or "only a board" in device.board.record.problem)
    assert device.reported.refused == ()
    device.board.places.root.write_bytes(root)
    device.until(lambda: staged(device))


def test_two_who_ask_whom_to_trust_ask_one_after_the_other() -> None:
    asked: list[Release] = []
    stopped: list[int] = []

    class Slow:
        def authenticate(self, release: Release) -> None:
            asked.append(release)

        def stop(self) -> None:
            stopped.append(1)

    turns = Turns()
    turns.trust = Slow()  # type: ignore[assignment]
    answers: list[str] = []
    may = [False]
    first = Turn(turns, lambda digest, _: answers.append(f"first {digest}"))
    second = Turn(turns, lambda digest, _: answers.append(f"second {digest}"), lambda: may[0])
    entry = release_entry()
    one, two = (Release(n, "1.0.0", "p", 1, entry) for n in ("one", "two"))
    second.authenticate(two)
    turns.tick()
    assert asked == []
    first.authenticate(one)
    may[0] = True
    turns.tick()
    assert asked == [one]
    turns.answered("a", None)
    assert (asked, answers) == ([one, two], ["first a"])
    first.authenticate(one)
    second.stop()
    assert (asked, stopped) == ([one, two, one], [1])
    turns.answered("b", None)
    turns.answered("c", None)
    assert answers == ["first a", "first b"]


def release_entry() -> Any:
    from edge_runtime.bundle.chunks import file_entry

    return file_entry(MANIFEST_NAME, b"{}")
