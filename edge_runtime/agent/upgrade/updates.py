"""The second driver of a supervisor: for releases of the agent itself.

It shares the sources of chunks and, in turn, the trust with the driver of bundles, and keeps its
state in a folder of its own, so that the two know nothing of each other. Only where the agent was
started from its package: elsewhere there is no helper, and nothing is said of an own update.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.turns import Turn, Turns
from edge_runtime.agent.upgrade.host import HEALTHY_S, AgentHost, Standing
from edge_runtime.agent.upgrade.places import DRIVER, Places
from edge_runtime.bundle.agent_package import BACKEND, TASK, own_platform
from edge_runtime.errors import EdgeError
from edge_runtime.fields import Json
from edge_runtime.messages.fleet import Desired, ReportedAgent
from edge_runtime.profile import Budget, DeviceProfile, Engine
from edge_runtime.update.driver import Driver, Policy, Status, Transport
from edge_runtime.update.ledger import TRIED
from edge_runtime.update.lifecycle import State

ANY = 1 << 50
_TRIED = {state.value for state in TRIED}
_IDLE = {State.IDLE.value, State.WAITING.value}


@dataclass(frozen=True, slots=True)
class Upgrades:
    """What an agent that comes from its package knows about its own update."""

    places: Places
    config_file: Path | None
    healthy_s: float = HEALTHY_S


def platform_profile(of: str) -> DeviceProfile:
    """The platform `of` as a board: whose bundles are packages."""
    engine = Engine(backend=BACKEND, quantization="", providers=(), threads=1, options={})
    return DeviceProfile(
        name=of,
        title=of,
        arch=of.partition("-")[2],
        ram_bytes=ANY,
        storage_bytes=ANY,
        cpu_features=(),
        python=(),
        engines=(engine,),
        sequence_lengths=(),
        budget=Budget(0.0, 0),
        sources={},
        sha256="0" * 64,
        tasks=(TASK,),
    )


def policy_of(config: AgentConfig) -> Policy:
    """Of the agent's own update: the helper bounds a trial, so the driver waits for it."""
    return dataclasses.replace(
        config.update,
        trust_tries=config.update.trust_tries if config.trust == "tuf" else 1,
        test_timeout_s=1800.0,
        activate_timeout_s=3600.0,
        trial_s=1.0,
        max_boots=30,
    )


class AgentUpdates:
    """Of one supervisor; called from its one thread.

    Args:
        bundle: how the update of the bundle stands, None before it has begun.
        on_change: told when `reported` has changed.
        on_event: as `Host.event`.
    """

    def __init__(
        self,
        config: AgentConfig,
        upgrades: Upgrades,
        transport: Transport,
        turns: Turns,
        bundle: Callable[[], Status | None],
        standing: Callable[[], Standing],
        on_change: Callable[[], None],
        on_event: Callable[[str, str, Mapping[str, Json]], None],
        pulse: Callable[[], None],
    ) -> None:
        self._platform = own_platform()
        self._bundle = bundle
        self._on_change = on_change
        self._status: Status | None = None
        self._now_s = 0.0
        turn = Turn(turns, self._authenticated, may=lambda: self._bundle_in(_IDLE))
        self._host = AgentHost(
            upgrades.places,
            config.state_dir,
            upgrades.config_file,
            turn,
            self._report,
            on_event,
            standing,
            calm=lambda: not self._bundle_in(_TRIED),
            signed=config.trust == "tuf",
            healthy_s=upgrades.healthy_s,
        )
        self._driver = Driver(
            config.state_dir / DRIVER,
            platform_profile(self._platform),
            transport,
            self._host,
            policy_of(config),
            pulse=pulse,
            trust=config.trust,
        )
        self._host.driver = self._driver

    def _bundle_in(self, states: set[str]) -> bool:
        status = self._bundle()
        return status is not None and status.state in states

    @property
    def on_trial(self) -> bool:
        """Whether this very agent is being tried: what fails now may be its own fault."""
        return self._host.on_trial

    @property
    def reported(self) -> ReportedAgent | None:
        """How it stands; None before `start`."""
        s = self._status
        if s is None:
            return None
        return ReportedAgent(
            platform=self._platform,
            running=self._host.running,
            revision=s.revision,
            state=s.state,
            active=s.active,
            refused=s.refused,
            progress=s.progress,
            reason=s.reason,
        )

    def start(self, now_s: float) -> None:
        """Go on where the journal says. Once, before anything else."""
        self._driver.start(now_s)

    def desired(self, payload: bytes, now_s: float) -> None:
        """A `desired` message arrived; one that cannot be read is the other driver's to tell."""
        try:
            desired = Desired.from_bytes(payload)
        except EdgeError:
            return
        agent, known = desired.agent, self._driver.desired_now
        if agent is not None:
            wanted = Desired(desired.revision, agent.release, agent.attempt)
        elif known is not None and known.release is not None:
            wanted = Desired(desired.revision, None)  # Called off; what runs goes on running.
        else:
            return
        self._driver.desired(wanted.to_bytes(), now_s)

    def chunk(self, sha256: str, data: bytes, now_s: float) -> None:
        """Bytes arrived under the name of a chunk, for whichever of the two drivers."""
        self._driver.chunk(sha256, data, now_s)

    def connected(self, yes: bool, now_s: float) -> None:
        """Whether chunks can be asked for."""
        self._driver.connected(yes, now_s)

    def tick(self, now_s: float) -> list[float | None]:
        """Do what is due; when to call again at the latest."""
        self._now_s = now_s
        return [self._host.tick(now_s), self._driver.tick(now_s)]

    def stop(self) -> None:
        """The agent ends: so does what it tests."""
        self._host.end()

    def _authenticated(self, manifest_sha256: str, refusal: EdgeError | None) -> None:
        self._driver.authenticated(manifest_sha256, refusal, self._now_s)

    def _report(self, status: Status) -> None:
        self._status = status
        self._on_change()
