"""The supervisor: the process that updates, reports and watches, and never runs a model.

One thread, one loop. What the broker's thread brings, what workers say, and time itself arrive
there one after another, and go to the update driver, to the workers and out to the broker. It
holds the API's socket, so that workers come and go unseen by clients, and answers there in one
sentence while nothing serves. It loads no engine and no numpy: a crash or a leak in vendor code
costs a worker, never the updater.

What the broker brings gets a slice of the loop's time, then everything else has its turn, so the
loop comes round in about `SLICE_S` and one write to the disk. Two things take longer, and bound
what SIGTERM, requests and telemetry may have to wait: a bundle that is written (`install`) or read
and verified whole (after its last chunk). The service manager's watchdog is fed meanwhile, for as
long as chunk follows chunk; workers are not taken for silent because nobody listened. Nothing else
feeds it: not a thread, not a timer. It is told that we are ready once the API answers, be it in one
sentence; after a restart clients may first wait for the bundle that served them, see `Doorman`.
Whether a bundle serves is in the status line, and at /v2/health/ready.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from edge_runtime.agent.asks import Asks
from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.doorman import Doorman
from edge_runtime.agent.drivers import Drivers
from edge_runtime.agent.given import Given
from edge_runtime.agent.health import Recent
from edge_runtime.agent.inbox import Allowance, Inbox
from edge_runtime.agent.installer import Installer
from edge_runtime.agent.notify import Notifier
from edge_runtime.agent.order import Order
from edge_runtime.agent.reporting import Reporting
from edge_runtime.agent.sources import MQTT, Broker, Sources, open_sources
from edge_runtime.agent.standing import standing
from edge_runtime.agent.state_folder import Hold, not_writable
from edge_runtime.agent.trust import Trust
from edge_runtime.agent.turns import Turn, Turns
from edge_runtime.agent.upgrade.host import Standing
from edge_runtime.agent.upgrade.updates import AgentUpdates, Upgrades
from edge_runtime.agent.workers import Workers
from edge_runtime.bundle.files import MAX_CHUNK_BYTES
from edge_runtime.errors import DeviceError, EdgeError
from edge_runtime.fields import Json
from edge_runtime.link import Connector, Message
from edge_runtime.link.address import TlsFiles
from edge_runtime.link.metadata import Asking
from edge_runtime.messages.fleet import Release
from edge_runtime.messages.topics import Topics
from edge_runtime.messages.worker import Answer
from edge_runtime.profile import load_profile
from edge_runtime.telemetry import Snapshot
from edge_runtime.update.driver import Driver, Status

log = logging.getLogger(__name__)

FLUSH_S = 2.0
STOP_SLACK_S = 15.0
"""What the end may take on top of `worker.drain_s`: goodbyes, processes that end slowly."""
MAX_SLEEP_S = 60.0
MAX_REQUESTS = 128
MAX_REQUESTS_BYTES = 8 << 20
MAX_METADATA = 8
MAX_METADATA_BYTES = 4 << 20


class Supervisor:
    """One device. `run` returns when a signal, or `stop`, has ended it in order.

    It is the update driver's host, and hears from the workers and the sources. With `upgrades`
    there is a second driver beside, for releases of the agent itself.

    Raises:
        InputError: the profile or the API's address cannot be used.
        DeviceError: the state folder cannot be used, or another agent uses it.
    """

    def __init__(
        self,
        config: AgentConfig,
        version: str,
        connector: Connector | None = None,
        upgrades: Upgrades | None = None,
    ) -> None:
        self.config = config
        self._profile = replace(load_profile(config.profile), tasks=config.tasks)
        self._topics = Topics(config.prefix)
        # Before anything there is read: two agents would undo each other's work.
        self._hold = Hold(config.state_dir)
        self._selector = selectors.DefaultSelector()
        self._notifier = Notifier()
        self._listener = Doorman(
            config.api.host, config.api.port, self._selector, keep=self._notifier.keep
        )
        self._inbox = Inbox()
        self._requests = Allowance(MAX_REQUESTS, MAX_REQUESTS_BYTES)
        # All that is asked for at a time, by each driver, and again after a reconnect.
        chunks = 2 * config.update.window * (1 if upgrades is None else 2)
        self._chunks = Allowance(chunks, chunks * MAX_CHUNK_BYTES)
        self._missing = Allowance(chunks, 0)
        self._metadata = Allowance(MAX_METADATA, MAX_METADATA_BYTES)
        self._selector.register(self._inbox, selectors.EVENT_READ, self._on_inbox)
        self._stopping = self._knocked = False
        self._status: Status | None = None
        now_s = time.monotonic()
        order = Order(
            control=-1,
            listener=-1,
            state_dir=str(config.state_dir),
            manifest_sha256="",
            profile=config.profile,
            version=version,
            log_level=config.log_level,
            api=config.api,
            worker=config.worker,
        )
        self._sources = Sources(
            open_sources(
                config.sources or (MQTT,),
                Broker(self._subscribe_chunks, self._unsubscribe_chunks),
                self._keep_chunk,
                self._missing_chunk,
                TlsFiles(config.sources_ca),
            ),
            self._ready,
        )
        self._turns = Turns()
        self._turn = Turn(self._turns, self._authenticated)
        self._trust = self._turns.trust = Trust(config, self._selector, self._turns.answered)
        self._workers = Workers(order, self._listener, self._selector, self)
        self._drivers = Drivers(self._profile, config.worker.drivers_s, now_s)
        try:
            self._driver = Driver(
                config.state_dir,
                self._profile,
                self._sources,
                self,
                config.update,
                pulse=lambda: self._notifier.alive(time.monotonic()),
                trust=config.trust,
                spares=lambda: self._agent is not None and self._agent.on_trial,
            )
            self._agent = self._agent_updates(upgrades)
        except DeviceError as reason:
            raise DeviceError(not_writable(config.state_dir) or str(reason)) from None
        self._installer = Installer(
            config,
            self._profile,
            self._driver,
            self._trust.beside,
            self._install_event,
            lambda: self._notifier.alive(time.monotonic()),
        )
        self._reporting = Reporting(config, self._profile, version, now_s)
        self._recent = Recent(config.update.trial_s, config.update.trial_min_requests)
        self._asks: Asks | None = None
        if connector is not None:
            self._reporting.link = connector(
                config.device_id, self._on_message, self._on_connection, will=self._reporting.will
            )
            self._asks = Asks(self._topics, self._reporting.link, self._workers.ask)
            self._trust.asking = Asking(self._reporting.link, self._topics)

    def _agent_updates(self, upgrades: Upgrades | None) -> AgentUpdates | None:
        if upgrades is None:
            return None
        return AgentUpdates(
            self.config,
            upgrades,
            self._sources,
            self._turns,
            bundle=lambda: self._status,
            standing=lambda: Standing(
                serving=self._workers.accelerator is not None,
                connected=self._reporting.is_connected,
            ),
            on_change=self._report,
            on_event=self.event,
            pulse=lambda: self._notifier.alive(time.monotonic()),
        )

    @property
    def status(self) -> Status | None:
        """How the update stands; None before `run`."""
        return self._status

    @property
    def port(self) -> int:
        """Of the local API."""
        return self._listener.port

    # The loop.

    def run(
        self,
        bundle: Path | None = None,
        release: str | None = None,
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Until stopped. `bundle` is installed first, whatever the device has.

        Args:
            bundle: a bundle, or a repository's folder.
            release: `NAME==VERSION` out of a repository.
            over: asked after every turn of the loop; True ends it.

        Raises:
            InputError, UntrustedError, IncompatibleError: `bundle` is none, or not for this
                device; or there is no bundle here, and no broker to get one from.
            DeviceError: there is no bundle here, and none can be kept.
        """
        wakeup = self._catch_signals()
        try:
            # Before the driver starts: a mistyped name must leave no trace in the journal.
            given = self._installer.look_through(bundle, release) if bundle is not None else None
            self._begin(given)
            while not self._stopping and not over():
                self._step()
            self._end()
        finally:
            self._trust.stop()
            self._sources.close()
            self._workers.kill()
            self._listener.close()
            self._restore_signals(wakeup)
            self._hold.close()

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._inbox.put(self._stop)

    def _stop(self) -> None:
        self._stopping = True

    def _begin(self, given: Given | None) -> None:
        if self.config.trust == "none":
            log.warning(
                "trust is none: bundles are not signed, who writes to the broker decides what runs"
            )
        log.info(
            "started",
            extra={
                "device": self.config.device_id,
                "profile": self._profile.name,
                "trust": self.config.trust,
                "api": self._listener.address,
                "broker": self._reporting.link.address if self._reporting.link else "none",
            },
        )
        self._notifier.alive(time.monotonic())
        self._notifier.status("starting")
        if not self._listener.passed:
            self._listener.answer()
        self._driver.start(time.monotonic())
        if self._agent is not None:
            self._agent.start(time.monotonic())
        if self._listener.passed:
            # Who came while the agent was away waits for what served them, not for a refusal.
            (self._listener.hold if self._workers.starting else self._listener.answer)()
        self._take_up_clients()
        self._sources.start()
        self._installer.begin(given)
        link = self._reporting.link
        if link is not None:
            link.subscribe(
                [
                    self._topics.device(self.config.device_id, "desired"),
                    self._topics.infer(self.config.device_id),
                ]
            )
            link.start()
        self._tell_status()
        self._notifier.ready()

    def _take_up_clients(self) -> None:
        """Connections that the agent before us left wait for who will serve, or are answered."""
        kept, self._listener.kept = self._listener.kept, []
        if kept:
            self._notifier.kept_no_more()
            log.info("clients' connections go on", extra={"count": len(kept)})
        for descriptor in kept:
            self._workers.adopt(descriptor)

    def _step(self) -> None:
        """What is due now, then sleep until something happens."""
        if self._knocked:
            self._knocked = False
            self._installer.requested()
        now_s = time.monotonic()
        if self._drivers.changed(now_s):
            log.info("a driver, a device or an engine has changed")
            self._workers.drivers_changed()
        due = [
            self._drivers.due_s,
            self._driver.tick(now_s),
            *(self._agent.tick(now_s) if self._agent is not None else ()),
            self._trust.tick(now_s),
            self._sources.tick(now_s),
            self._workers.watch(now_s),
            self._listener.watch(now_s),
            self._reporting.tick(now_s, {"supervisor": os.getpid(), **self._workers.pids}),
            self._notifier.watchdog_s and now_s + self._notifier.watchdog_s,
        ]
        self._turns.tick()
        self._notifier.alive(now_s)
        wake_s = min((s for s in due if s is not None), default=now_s + MAX_SLEEP_S)
        for key, mask in self._selector.select(max(0.0, min(wake_s - now_s, MAX_SLEEP_S))):
            key.data(mask)

    def _end(self) -> None:
        """Requests under way are finished, the broker is told, within a bound."""
        log.info("ending")
        self._notifier.stopping(self.config.worker.drain_s + STOP_SLACK_S)
        self._notifier.status("ending")
        self._trust.stop()
        if self._agent is not None:
            self._agent.stop()
        self._sources.close()
        self._listener.close()
        self._workers.stop_candidate()
        self._workers.stop_active()
        end_s = time.monotonic() + self.config.worker.drain_s + 1.0
        while not self._workers.finished() and (now_s := time.monotonic()) < end_s:
            self._workers.watch(now_s)
            self._notifier.alive(now_s)
            for key, mask in self._selector.select(0.1):
                key.data(mask)
        self._workers.kill()  # What is left; whoever asked it something can still be told.
        self._reporting.tick(time.monotonic(), {"supervisor": os.getpid()})
        self._reporting.goodbye(FLUSH_S)
        log.info("ended")

    def _on_inbox(self, _: int) -> None:
        for call in self._inbox.take():
            call()

    def _catch_signals(self) -> socket.socket:
        """SIGTERM and SIGINT end the loop; a byte in a socket ends its sleep."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._selector.register(theirs, selectors.EVENT_READ, lambda _: theirs.recv(4096))
        signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGUSR1, self._on_knock)
        return ours

    def _restore_signals(self, wakeup: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        wakeup.close()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._stopping = True

    def _on_knock(self, number: int, _: FrameType | None) -> None:
        self._knocked = True

    def _install_event(self, kind: str, text: str) -> None:
        self.event(kind, text, {})

    # From the broker, on its thread.

    def _on_message(self, message: Message) -> None:
        digest = self._topics.chunk_of(message.topic)
        _, what = self._topics.device_of(message.topic) or ("", "")
        if digest is not None:
            self._keep_chunk(digest, message.payload)
        elif self._topics.is_metadata(message.topic):
            # What finds no room is asked for again when its time is up.
            self._inbox.put(
                lambda: self._trust.heard(message),
                within=self._metadata,
                size_bytes=len(message.payload),
            )
        elif not message.payload or self._asks is None:
            return  # Empty is how a retained message is deleted.
        elif what == "desired":
            self._inbox.put_latest(what, lambda: self._desired(message.payload))
        elif not self._inbox.put(
            lambda: self._ask(message), within=self._requests, size_bytes=len(message.payload)
        ):
            self._asks.refuse(message, "too many requests wait already, try again soon")

    def _keep_chunk(self, digest: str, data: bytes) -> None:
        """Until the loop has time. What finds no room is asked for again when its time is up."""
        if len(data) > MAX_CHUNK_BYTES:
            data = b""  # No chunk: the driver counts it as spoiled, its bytes need not wait here.
        if not self._inbox.put(
            lambda: self._chunk(digest, data), within=self._chunks, size_bytes=len(data)
        ):
            log.debug("no room for a chunk", extra={"sha256": digest})

    def _on_connection(self, connected: bool, _reason: str) -> None:
        self._inbox.put(lambda: self._connected(connected))

    # The same, on ours. Once the end has begun, no update goes on: what is desired is retained, and
    # the journal knows where to go on after the next start.

    def _connected(self, connected: bool) -> None:
        self._reporting.connected(connected)
        self._tell_status()
        self._trust.connected = connected
        if not self._stopping:
            self._sources.connected(connected)

    def _ready(self, yes: bool) -> None:
        if not self._stopping:
            self._driver.connected(yes, time.monotonic())
            if self._agent is not None:
                self._agent.connected(yes, time.monotonic())

    def _missing_chunk(self, source: str, sha256: str, reason: str) -> None:
        """On a source's thread. What finds no room is missed when its time is up."""
        self._inbox.put(lambda: self._sources.missing(source, sha256, reason), within=self._missing)

    def _chunk(self, sha256: str, data: bytes) -> None:
        if not self._stopping:
            self._driver.chunk(sha256, data, time.monotonic())
            if self._agent is not None:
                self._agent.chunk(sha256, data, time.monotonic())

    def _desired(self, payload: bytes) -> None:
        if not self._stopping:
            self._driver.desired(payload, time.monotonic())
            if self._agent is not None:
                self._agent.desired(payload, time.monotonic())

    def _ask(self, message: Message) -> None:
        if self._asks is not None:
            self._asks.receive(message)

    # The broker as a source, and the driver's host.

    def _subscribe_chunks(self, digests: Sequence[str]) -> None:
        if self._reporting.link is not None:
            self._reporting.link.subscribe([self._topics.chunk(d) for d in digests])

    def _unsubscribe_chunks(self, digests: Sequence[str]) -> None:
        if self._reporting.link is not None:
            self._reporting.link.unsubscribe([self._topics.chunk(d) for d in digests])

    def authenticate(self, release: Release) -> None:
        """Ask who signed it, with the same exception as `start_active`."""
        if not self._stopping:
            self._turn.authenticate(release)

    def stop_authenticating(self) -> None:
        """Ask no more."""
        self._turn.stop()

    def _authenticated(self, manifest_sha256: str, refusal: EdgeError | None) -> None:
        self._driver.authenticated(manifest_sha256, refusal, time.monotonic())

    def start_active(self, manifest_sha256: str) -> None:
        """Load, self-test and serve; nothing once the end has begun, which is no failure."""
        if not self._stopping:
            self._workers.start_active(manifest_sha256)

    def start_candidate(self, manifest_sha256: str) -> None:
        """Load and self-test, with the same exception."""
        if not self._stopping:
            self._workers.start_candidate(manifest_sha256)

    def activate_candidate(self) -> None:
        """Swap."""
        self._workers.activate_candidate()

    def stop_candidate(self) -> None:
        """End the candidate."""
        self._workers.stop_candidate()

    def stop_active(self) -> None:
        """Serve nothing."""
        self._workers.stop_active()

    def report(self, status: Status) -> None:
        """Say what changed."""
        self._status = status
        self._report()

    def event(self, kind: str, text: str, details: Mapping[str, Json]) -> None:
        """Say what happened."""
        log.info("event", extra={"kind": kind, "text": text})
        self._reporting.event(kind, text, details)

    # What becomes of the workers.

    def tested(self, manifest_sha256: str, passed: bool, reason: str) -> None:
        """The candidate passed or not."""
        self._driver.tested(manifest_sha256, passed, reason, time.monotonic())

    def activated(self) -> None:
        """The swap is over."""
        self._driver.activated(time.monotonic())
        self._report()

    def failed(self, reason: str) -> None:
        """The active worker is gone."""
        log.warning("active worker failed: %s", reason)
        self._driver.failed(reason, time.monotonic())
        self._report()

    def served(self) -> None:
        """Another worker serves now."""
        self._report()

    def unreachable(self, reason: str) -> None:
        """Clients cannot connect, for the port cannot be listened on."""
        log.error("api cannot be opened: %s", reason)
        self.event("api-unreachable", reason, {})

    def counted(self, pid: int, manifest_sha256: str, snapshot: Snapshot | None) -> None:
        """Counters of a worker."""
        self._reporting.counted(pid, snapshot)
        now_s = time.monotonic()
        if snapshot is None:
            self._recent.ended(pid)
        elif not self._stopping:
            self._driver.served(manifest_sha256, self._recent.heard(pid, snapshot, now_s), now_s)

    def answered(self, answer: Answer) -> None:
        """An answer to a question from the broker."""
        if self._asks is not None:
            self._asks.answered(answer)

    def _report(self) -> None:
        if self._status is not None:
            agent = self._agent.reported if self._agent is not None else None
            self._reporting.report(self._status, self._workers.accelerator, agent)
        self._tell_status()

    def _tell_status(self) -> None:
        """To the service manager, for whoever stands beside the board."""
        if self._stopping:
            return
        broker = self._reporting.is_connected if self._reporting.link is not None else None
        accelerator, where = self._workers.accelerator, self._listener.address
        self._notifier.status(standing(self._status, accelerator, api=where, broker=broker))
