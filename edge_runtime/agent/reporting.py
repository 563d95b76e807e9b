"""What the device says of itself: `online`, `reported`, events, telemetry.

`online` and `reported` are retained: only the last matters, and every connection begins with
both. Events and telemetry are numbered and each matters: while the broker is away they wait on
disk, within a bound, and go out a few at a time once it is back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.state_folder import REPORTED
from edge_runtime.bundle import durable
from edge_runtime.errors import DeviceError, EdgeError
from edge_runtime.fields import Json
from edge_runtime.link import Link, Will
from edge_runtime.messages.fleet import (
    Accelerator,
    Event,
    Online,
    Reported,
    ReportedAgent,
    to_bytes,
)
from edge_runtime.messages.topics import DELIVERY, Topics
from edge_runtime.profile import DeviceProfile
from edge_runtime.telemetry import Probes, Reporter, Snapshot, Spool, new_boot_id
from edge_runtime.text import plain
from edge_runtime.update.driver import Status

log = logging.getLogger(__name__)

MAX_TEXT = 2048
BATCH = 16
BATCH_S = 0.2


class Reporting:
    """Of one life of the agent. Without a link, nothing leaves and nothing is kept.

    Args:
        profile: its name is what bundles are made for, not where its file stands; it says where
            this board measures itself.

    Raises:
        DeviceError: the folder of what waits cannot be used.
    """

    def __init__(
        self, config: AgentConfig, profile: DeviceProfile, version: str, now_s: float
    ) -> None:
        self.boot_id = new_boot_id()
        self.link: Link | None = None
        self._device_id = config.device_id
        self._topics = Topics(config.prefix)
        self._profile = profile.name
        self._version = version
        self._connected = False
        self._events = 0
        self._batch_s = now_s
        self._reported: Reported | None = None
        self._folder = config.state_dir
        self._kept: Accelerator | None = None
        self._untold: set[str] = set()
        self._reporter = Reporter(
            self.boot_id, started_s=now_s, interval_s=config.telemetry.interval_s
        )
        self._probes = Probes(config.state_dir, profile.probes)
        self._spools: dict[str, Spool] = {}
        if config.broker is not None:
            folder, size_bytes = config.state_dir / "spool", config.telemetry.spool_bytes
            # Events are few and matter most: telemetry must not push them out.
            self._spools = {
                "event": Spool(folder / "event", max_bytes=max(size_bytes // 4, 1 << 16)),
                "telemetry": Spool(folder / "telemetry", max_bytes=max(size_bytes, 1 << 16)),
            }

    @property
    def will(self) -> Will:
        """What the broker says of us when we vanish."""
        delivery = DELIVERY["online"]
        return Will(
            self._topics.device(self._device_id, "online"),
            to_bytes(Online(False, self.boot_id)),
            qos=delivery.qos,
            retain=delivery.retain,
        )

    def connected(self, yes: bool) -> None:
        """The link came up or went down."""
        self._connected = yes
        self._untold = {"online", "reported"}
        self._tell()

    @property
    def is_connected(self) -> bool:
        """Whether the broker hears us now."""
        return self._connected

    def report(
        self,
        status: Status,
        accelerator: Accelerator | None,
        agent: ReportedAgent | None = None,
    ) -> None:
        """Say what the device does, unless that was said last."""
        reported = Reported(
            revision=status.revision,
            state=status.state,
            active=status.active,
            previous=status.previous,
            accelerator=accelerator,
            refused=status.refused,
            progress=status.progress,
            fetched_bytes=status.fetched_bytes,
            update_s=status.update_s,
            reason=status.reason,
            profile=self._profile,
            trust=status.trust,
            agent_version=self._version,
            boot_id=self.boot_id,
            agent=agent,
        )
        if reported != self._reported:
            if accelerator is not None and accelerator != self._kept:
                self._keep(reported)
            self._reported = reported
            self._untold.add("reported")
            self._tell()

    def _keep(self, reported: Reported) -> None:
        """On disk, where the doctor finds it. Nothing else depends on it."""
        try:
            durable.replace(self._folder / REPORTED, to_bytes(reported))
        except DeviceError as reason:
            log.warning("%s", reason)
        else:
            self._kept = reported.accelerator

    def _tell(self) -> None:
        """What the link has no room for now is told later: the fleet steers by it."""
        if not self._connected:
            return
        messages: dict[str, Online | Reported | None] = {
            "online": Online(True, self.boot_id),
            "reported": self._reported,
        }
        for what in sorted(self._untold):
            message = messages[what]
            if message is None or self._publish(what, to_bytes(message)):
                self._untold.discard(what)

    def event(self, kind: str, text: str, details: Mapping[str, Json]) -> None:
        """Say, once, that something happened. A text may quote names that are not even UTF-8."""
        words = plain(text, MAX_TEXT)
        event = Event(self.boot_id, self._events, time.time(), kind, words, dict(details))
        self._events += 1
        self._keep_or_publish("event", to_bytes(event))

    def counted(self, pid: int, snapshot: Snapshot | None) -> None:
        """A worker has told its counters; None: it is gone."""
        if snapshot is None:
            self._reporter.ended(pid)
        else:
            self._reporter.heard(pid, snapshot)

    def tick(self, now_s: float, pids: Mapping[str, int]) -> float | None:
        """Send what is due; when to call again at the latest."""
        if self.link is None:
            return None
        self._empty_spools(now_s)
        self._tell()
        active = self._reported.active if self._reported else None
        accelerator = self._reported.accelerator if self._reported else None
        bundle = active if accelerator else None
        if self._reporter.wait_s(now_s, bundle, accelerator) <= 0:
            message = self._reporter.build(
                now_s,
                time_s=time.time(),
                gauges=self._probes.sample(now_s, pids),
                bundle=bundle,
                accelerator=accelerator,
                dropped=sum(s.dropped for s in self._spools.values()),
            )
            self._keep_or_publish("telemetry", to_bytes(message))
        due_s = now_s + self._reporter.wait_s(now_s, bundle, accelerator)
        if self._connected and self._untold:
            due_s = min(due_s, now_s + BATCH_S)
        waiting = self._connected and any(self._spools.values())
        return min(due_s, self._batch_s) if waiting else due_s

    def goodbye(self, flush_s: float) -> None:
        """Say that we end on purpose, then close the link."""
        if self.link is not None:
            self._publish("online", to_bytes(Online(False, self.boot_id)))
            self.link.close(flush_s if self._connected else 0.0)
        for spool in self._spools.values():
            spool.close()

    def _empty_spools(self, now_s: float) -> None:
        """A batch at a time, events first, so that the link's own bound is never reached."""
        if not self._connected or now_s < self._batch_s:
            return
        self._batch_s = now_s + BATCH_S
        for what, spool in self._spools.items():
            lines = spool.read(BATCH)
            sent = 0
            while sent < len(lines) and self._publish(what, lines[sent]):
                sent += 1
            spool.done(sent)
            if lines:
                return

    def _keep_or_publish(self, what: str, payload: bytes) -> None:
        if self.link is None:
            return
        spool = self._spools[what]
        if not self._connected or len(spool) or not self._publish(what, payload):
            try:
                spool.append(payload, time.monotonic())
            except RuntimeError:
                log.warning("%s is too large to be kept", what)

    def _publish(self, what: str, payload: bytes) -> bool:
        if self.link is None:
            return False
        delivery = DELIVERY[what]
        try:
            return self.link.publish(
                self._topics.device(self._device_id, what),
                payload,
                qos=delivery.qos,
                retain=delivery.retain,
            )
        except EdgeError as reason:
            log.warning("%s cannot be sent: %s", what, reason)
            return False
