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
long as chunk follows chunk; workers are not taken for silent because nobody listened.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from edge_runtime.agent.asks import Asks
from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.doorman import Doorman
from edge_runtime.agent.inbox import Allowance, Inbox
from edge_runtime.agent.notify import Notifier
from edge_runtime.agent.order import Order
from edge_runtime.agent.reporting import Reporting
from edge_runtime.agent.state_folder import Hold, not_writable
from edge_runtime.agent.workers import Workers
from edge_runtime.bundle.archive import Reader, open_bundle
from edge_runtime.bundle.files import MAX_CHUNK_BYTES
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import DeviceError, EdgeError, InputError
from edge_runtime.fields import Json
from edge_runtime.link import Connector, Message
from edge_runtime.messages.topics import Topics
from edge_runtime.messages.worker import Answer
from edge_runtime.profile import load_profile
from edge_runtime.telemetry import Snapshot
from edge_runtime.update.driver import Driver, Status

log = logging.getLogger(__name__)

FLUSH_S = 2.0
MAX_SLEEP_S = 60.0
MAX_REQUESTS = 128
MAX_REQUESTS_BYTES = 8 << 20


class Supervisor:
    """One device. `run` returns when a signal, or `stop`, has ended it in order.

    It is the update driver's host and transport, and hears from the workers.

    Raises:
        InputError: the profile or the API's address cannot be used.
        DeviceError: the state folder cannot be used, or another agent uses it.
    """

    def __init__(
        self, config: AgentConfig, version: str, connector: Connector | None = None
    ) -> None:
        self.config = config
        self._profile = load_profile(config.profile)
        self._topics = Topics(config.prefix)
        # Before anything there is read: two agents would undo each other's work.
        self._hold = Hold(config.state_dir)
        self._selector = selectors.DefaultSelector()
        self._listener = Doorman(config.api.host, config.api.port, self._selector)
        self._inbox = Inbox()
        self._requests = Allowance(MAX_REQUESTS, MAX_REQUESTS_BYTES)
        # All that is asked for at a time, and again after a reconnect.
        chunks = 2 * config.update.window
        self._chunks = Allowance(chunks, chunks * MAX_CHUNK_BYTES)
        self._selector.register(self._inbox, selectors.EVENT_READ, self._on_inbox)
        self._notifier = Notifier()
        self._stopping = False
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
        self._workers = Workers(order, self._listener, self._selector, self)
        try:
            self._driver = Driver(
                config.state_dir,
                self._profile,
                self,
                self,
                config.update,
                pulse=lambda: self._notifier.alive(time.monotonic()),
            )
        except DeviceError as reason:
            raise DeviceError(not_writable(config.state_dir) or str(reason)) from None
        self._reporting = Reporting(config, self._profile.name, version, now_s)
        self._asks: Asks | None = None
        if connector is not None:
            self._reporting.link = connector(
                config.device_id, self._on_message, self._on_connection, will=self._reporting.will
            )
            self._asks = Asks(self._topics, self._reporting.link, self._workers.ask)

    @property
    def port(self) -> int:
        """Of the local API."""
        return self._listener.port

    # The loop.

    def run(self, bundle: Path | None = None) -> None:
        """Until stopped. `bundle` is installed first, whatever the device has.

        Raises:
            InputError, UntrustedError, IncompatibleError: `bundle` is none, or not for this
                device; or there is no bundle here, and no broker to get one from.
            DeviceError: there is no bundle here, and none can be kept.
        """
        wakeup = self._catch_signals()
        try:
            # Before the driver starts: a mistyped name must leave no trace in the journal.
            given = self._examined(bundle) if bundle is not None else None
            self._begin(given)
            while not self._stopping:
                self._step()
            self._end()
        finally:
            self._workers.kill()
            self._listener.close()
            self._restore_signals(wakeup)
            self._hold.close()

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._inbox.put(self._stop)

    def _stop(self) -> None:
        self._stopping = True

    def _examined(self, bundle: Path) -> tuple[Reader, str]:
        """The bundle and its manifest's digest; whatever of it is new here was read and checked.

        Raises:
            InputError, UntrustedError, IncompatibleError, DeviceError: as for `run`.
        """
        reader = open_bundle(bundle)
        verified = verify(reader, files=False)
        self._profile.fits(verified.manifest)
        for entry in verified.manifest.files:
            # Whole files grow this process's heap: at every start but the first none is read.
            if self._driver.store.missing((entry,)):
                entry.check_chunks(verified.read(entry.path), reader.where)
        return reader, verified.manifest_sha256

    def _begin(self, given: tuple[Reader, str] | None) -> None:
        log.warning(
            "trust is none: bundles are not signed, who writes to the broker decides what runs"
        )
        log.info(
            "started",
            extra={
                "device": self.config.device_id,
                "profile": self._profile.name,
                "api": self._listener.address,
                "broker": self._reporting.link.address if self._reporting.link else "none",
            },
        )
        self._listener.answer()
        self._driver.start(time.monotonic())
        self._install(given)
        link = self._reporting.link
        if link is not None:
            link.subscribe(
                [
                    self._topics.device(self.config.device_id, "desired"),
                    self._topics.infer(self.config.device_id),
                ]
            )
            link.start()
        self._notifier.ready(f"profile {self._profile.name}, api {self._listener.address}")

    def _install(self, given: tuple[Reader, str] | None) -> None:
        """Bring in the bundle from the command line, or the configuration's where none is here."""
        status = self._driver.status
        fault = not_writable(self.config.state_dir)
        if fault and status.active is None:
            raise DeviceError(fault)
        if given is not None:
            reader, digest = given
            # Naming it again is asking to try again.
            tried = [r.attempt + 1 for r in status.refused if r.manifest_sha256 == digest]
            try:
                self._driver.install(reader, time.monotonic(), attempt=max(tried, default=0))
            except DeviceError as reason:
                if status.active is None:
                    raise
                # A full disk: what is installed goes on serving.
                log.error("bundle cannot be installed: %s", reason)
                self.event("install-failed", str(reason), {})
            return
        first = self.config.first_bundle
        if status.active is not None or status.state != "idle":
            return
        if first is None:
            if self._reporting.link is None:
                raise InputError(
                    "there is no bundle on this device and no [broker] to get one from: "
                    "give --bundle FILE, first_bundle or [broker]"
                )
            log.info("no bundle yet, waiting for the broker to name one")
            return
        try:
            self._driver.install(open_bundle(first), time.monotonic())
        except EdgeError as reason:
            if self._reporting.link is None:
                raise
            log.error("first bundle cannot be installed: %s", reason)
            self.event("install-failed", str(reason), {})

    def _step(self) -> None:
        """What is due now, then sleep until something happens."""
        now_s = time.monotonic()
        due = [
            self._driver.tick(now_s),
            self._workers.watch(now_s),
            self._listener.watch(now_s),
            self._reporting.tick(now_s, {"supervisor": os.getpid(), **self._workers.pids}),
            self._notifier.watchdog_s and now_s + self._notifier.watchdog_s,
        ]
        self._notifier.alive(now_s)
        wake_s = min((s for s in due if s is not None), default=now_s + MAX_SLEEP_S)
        for key, mask in self._selector.select(max(0.0, min(wake_s - now_s, MAX_SLEEP_S))):
            key.data(mask)

    def _end(self) -> None:
        """Requests under way are finished, the broker is told, within a bound."""
        log.info("ending")
        self._notifier.stopping()
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
        return ours

    def _restore_signals(self, wakeup: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        wakeup.close()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._stopping = True

    # From the broker, on its thread.

    def _on_message(self, message: Message) -> None:
        digest = self._topics.chunk_of(message.topic)
        _, what = self._topics.device_of(message.topic) or ("", "")
        if digest is not None:
            self._keep_chunk(digest, message.payload)
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
        if not self._stopping:
            self._driver.connected(connected, time.monotonic())

    def _chunk(self, sha256: str, data: bytes) -> None:
        if not self._stopping:
            self._driver.chunk(sha256, data, time.monotonic())

    def _desired(self, payload: bytes) -> None:
        if not self._stopping:
            self._driver.desired(payload, time.monotonic())

    def _ask(self, message: Message) -> None:
        if self._asks is not None:
            self._asks.receive(message)

    # The driver's transport and host.

    def want(self, digests: Sequence[str]) -> None:
        """Subscribe to these chunks."""
        if self._reporting.link is not None:
            self._reporting.link.subscribe([self._topics.chunk(d) for d in digests])

    def drop(self, digests: Sequence[str]) -> None:
        """Unsubscribe from them."""
        if self._reporting.link is not None:
            self._reporting.link.unsubscribe([self._topics.chunk(d) for d in digests])

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

    def counted(self, pid: int, snapshot: Snapshot | None) -> None:
        """Counters of a worker."""
        self._reporting.counted(pid, snapshot)

    def answered(self, answer: Answer) -> None:
        """An answer to a question from the broker."""
        if self._asks is not None:
            self._asks.answered(answer)

    def _report(self) -> None:
        if self._status is not None:
            self._reporting.report(self._status, self._workers.accelerator)
