"""A fleet in memory: drivers on the in-memory broker, hosts without workers, an operator, a clock.

A device drives its update and reports with the agent's own code; only its workers are fake. Nothing
moves until `Fleet.settle` (messages and answers, no time) or `Fleet.pass_time`. A device's
host self-tests by verifying every byte of the first fitting variant that is here, as a worker takes
the next one where it cannot read a file, and keeps book of what served when.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from zlib import crc32

from edge_runtime.agent.config import AgentConfig, TelemetryConfig
from edge_runtime.agent.reporting import Reporting
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.files import FileEntry
from edge_runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edge_runtime.bundle.store import ChunkStore, StoreReader
from edge_runtime.bundle.verify import verify
from edge_runtime.errors import EdgeError
from edge_runtime.fields import Json
from edge_runtime.link import BrokerConfig, Message
from edge_runtime.link.memory import MemoryBroker
from edge_runtime.messages.fleet import Accelerator, Desired, Release
from edge_runtime.messages.topics import DELIVERY, Topics
from edge_runtime.profile import DeviceProfile, load_profile
from edge_runtime.update.driver import Driver, Status
from edge_runtime.update.policy import Policy
from tests.fakes import bundles

TOPICS = Topics()
PROFILE = load_profile("generic-x86_64")
PI = load_profile("raspberry-pi-5")
ENGINE = Accelerator("fake", "CPU", "CPU")
REPORT_S = 600.0
QUICK = Policy(trial_s=60.0, chunk_timeout_s=10.0, chunk_tries=3, wait_s=30.0)


class Bundle:
    """A bundle as the operator has it: manifest, and every chunk by digest."""

    def __init__(self, version: str, files: Mapping[str, bytes], **changed: Json) -> None:
        self.files = dict(files)
        self.manifest = bundles.manifest(files, version=version, **changed)
        self.bytes = self.manifest.to_bytes()
        entry = file_entry(MANIFEST_NAME, self.bytes)
        m = self.manifest
        self.release = Release(m.name, m.version, m.profile, m.size_bytes, entry)
        self.digest = entry.sha256
        self.chunks: dict[str, bytes] = {}
        self._add(entry, self.bytes)
        for file in m.files:
            self._add(file, self.files[file.path])

    def _add(self, entry: FileEntry, data: bytes) -> None:
        for chunk, piece in entry.cut(data):
            self.chunks[chunk.sha256] = bytes(piece)

    def for_board(self, profile: str) -> Bundle:
        """The same bundle, as the release that boards of `profile` get."""
        m, made = self.manifest, copy.copy(self)
        size_bytes = sum(entry.size_bytes for entry in self.entries(profile))
        made.release = Release(m.name, m.version, profile, size_bytes, self.release.manifest)
        return made

    def entries(self, profile: str) -> tuple[FileEntry, ...]:
        """The files that boards of `profile` need."""
        return self.manifest.files_of(self.manifest.variants_for(profile))

    where = "bundle in memory"

    def names(self) -> tuple[str, ...]:
        """As a Reader."""
        return (MANIFEST_NAME, *self.files)

    def read(self, path: str, max_bytes: int) -> bytes:
        """As a Reader."""
        return self.bytes if path == MANIFEST_NAME else self.files[path]

    def pieces(self, entry: FileEntry) -> Iterator[bytes]:
        """As a Reader."""
        return (bytes(piece) for _, piece in entry.cut(self.files[entry.path]))


def bundle(version: str, *, backbone: int = 1, size: int = 600_000, **changed: Json) -> Bundle:
    """A bundle whose versions share their backbone and differ in their small head."""
    files = dict(bundles.FILES)
    files["model.onnx"] = bundles.noise(size, backbone) + bundles.noise(
        5_000, crc32(version.encode())
    )
    files["head.txt"] = version.encode()
    return Bundle(version, files, **changed)


def for_boards(version: str, models: Mapping[str, bytes]) -> Bundle:
    """A bundle for PROFILE and PI; `models` are the files that `bundles.BOARDS` names."""
    shared = ("tokenizer.json", "golden.safetensors", "empty.txt")
    files = {name: bundles.FILES[name] for name in shared} | {"head.txt": version.encode()}
    return Bundle(version, {**files, **models}, variants=bundles.variants_for_boards())


class FakeHost:
    """Workers without processes. Answers wait in `answers` until the device works them off."""

    def __init__(self, state: Path, flaws: Flaws, profile: DeviceProfile) -> None:
        self._state = state
        self._profile = profile
        self.variant = ""
        self._flaws = flaws
        self._serving: str | None = None
        self.driver: Driver
        self.reporting: Reporting | None = None
        self.served: list[str | None] = []
        self.candidate: str | None = None
        self.answers: list[Callable[[float], None]] = []
        self.calls = Calls()
        self.events: list[tuple[str, str]] = []
        self.statuses: list[Status] = []

    @property
    def serving(self) -> str | None:
        """What serves now; `served` is everything that did, None where nothing did."""
        return self._serving

    @serving.setter
    def serving(self, manifest_sha256: str | None) -> None:
        self._serving = manifest_sha256
        self.served.append(manifest_sha256)

    def authenticate(self, release: Release) -> None:
        self.calls.append("authenticate")
        digest = release.manifest.sha256
        if digest in self._flaws.unanswered:
            return
        refusal = self._flaws.untrusted.get(digest)
        self.answers.append(lambda now_s: self.driver.authenticated(digest, refusal, now_s))

    def stop_authenticating(self) -> None:
        self.calls.append("stop_authenticating")

    def start_active(self, manifest_sha256: str) -> None:
        # Whatever serves goes on until this one can.
        self.calls.append("start_active")
        reason = self._self_test(manifest_sha256)
        if reason:
            self.answers.append(lambda now_s: self.driver.failed(reason, now_s))
        else:
            self.serving = manifest_sha256

    def start_candidate(self, manifest_sha256: str) -> None:
        self.calls.append("start_candidate")
        self.candidate = manifest_sha256
        if manifest_sha256 in self._flaws.hang:
            return
        reason = self._self_test(manifest_sha256)
        self.answers.append(
            lambda now_s: self.driver.tested(manifest_sha256, not reason, reason, now_s)
        )

    def activate_candidate(self) -> None:
        self.calls.append("activate_candidate")
        if self.candidate is None:
            return
        if self.candidate in self._flaws.die_in_swap:
            self.candidate = None
            self.answers.append(lambda now_s: self.driver.failed("died in the swap", now_s))
            return
        self.serving, self.candidate = self.candidate, None
        if self.serving not in self._flaws.never_drain:
            self.answers.append(lambda now_s: self.driver.activated(now_s))

    def stop_candidate(self) -> None:
        self.calls.append("stop_candidate")
        self.candidate = None

    def stop_active(self) -> None:
        self.calls.append("stop_active")
        self.serving = None

    def report(self, status: Status) -> None:
        self.statuses.append(status)
        if self.reporting is not None:
            self.reporting.report(status, ENGINE if self.serving else None)

    def event(self, kind: str, text: str, details: Mapping[str, Json]) -> None:
        self.events.append((kind, text))
        if self.reporting is not None:
            self.reporting.event(kind, text, details)

    def kinds(self) -> list[str]:
        """Kinds of the events so far."""
        return [kind for kind, _ in self.events]

    def _self_test(self, digest: str) -> str:
        """Why the bundle cannot serve here, or nothing."""
        if digest in self._flaws.fail:
            return "golden vectors: cosine 0.07, floor 0.99"
        try:
            data = (self._state / "manifests" / f"{digest}.json").read_bytes()
            store = ChunkStore(self._state / "chunks")
            bundle = verify(StoreReader(store, data), manifest_sha256=digest, files=False)
            faults = []
            for variant in self._profile.fits(bundle.manifest):
                try:
                    for entry in bundle.manifest.files_of((variant,)):
                        bundle.read(entry.path)
                except EdgeError as reason:
                    faults.append(str(reason))
                else:
                    self.variant = variant.id
                    return ""
        except (OSError, EdgeError) as reason:
            return str(reason)
        return "; ".join(faults)


class Calls(list[str]):
    """Calls of a host, by name. A test may have the power cut after one."""

    after: Callable[[], None] = staticmethod(lambda: None)

    def append(self, name: str) -> None:
        super().append(name)
        Calls.after()


class Flaws:
    """Digests that fail their self-test, hang in it or die in the swap, on one device.

    Those in `never_drain` serve after the swap, but the worker before them does not end. Those in
    `untrusted` are not believed, for the reason given; whether `unanswered` are is never known.
    """

    def __init__(self) -> None:
        self.untrusted: dict[str, EdgeError] = {}
        self.unanswered: set[str] = set()
        self.fail: set[str] = set()
        self.hang: set[str] = set()
        self.die_in_swap: set[str] = set()
        self.never_drain: set[str] = set()


class Device:
    """One device; its folder and its flaws outlive `power_cut`, all else does not.

    `profile` may be changed while it is off: an update of the agent brought another.
    """

    def __init__(self, fleet: Fleet, name: str, policy: Policy, profile: DeviceProfile) -> None:
        self.fleet = fleet
        self.profile = profile
        self.name = name
        self.state = fleet.folder / name
        self.flaws = Flaws()
        self.policy = policy
        self.free_bytes = 1 << 40
        self.alive = False
        self.most_wanted = 0
        self.boot()

    def boot(self) -> None:
        """Power on."""
        self._inbox: list[Callable[[float], None]] = []
        self.wanted: set[str] = set()
        config = AgentConfig(
            device_id=self.name,
            profile=self.profile.name,
            state_dir=self.state,
            trust="none",
            broker=BrokerConfig("memory", 1883),
            telemetry=TelemetryConfig(interval_s=REPORT_S),
        )
        self.reporting = Reporting(config, self.profile, "0", self.fleet.now_s)
        self.host = FakeHost(self.state, self.flaws, self.profile)
        self.link = self.fleet.broker.link(
            self.name, self._on_message, self._on_connection, will=self.reporting.will
        )
        self.reporting.link = self.link
        self.driver = Driver(
            self.state,
            self.profile,
            self,
            self.host,
            self.policy,
            Random(0),
            lambda _folder: self.free_bytes,
        )
        self.host.driver = self.driver
        self.host.reporting = self.reporting
        self.link.subscribe([TOPICS.device(self.name, "desired")])
        self.link.start()
        self.alive = True
        self.driver.start(self.fleet.now_s)

    def power_cut(self) -> None:
        """Everything in memory is gone."""
        self.alive = False
        self.fleet.broker.kill(self.name)

    def reboot(self) -> None:
        """Power off and on."""
        self.power_cut()
        self.boot()

    def crash(self) -> None:
        """The active worker dies."""
        self.host.serving = None
        self.driver.failed("worker died of signal 11", self.fleet.now_s)

    @property
    def status(self) -> Status:
        """What was reported last."""
        return self.host.statuses[-1]

    @property
    def serving(self) -> str | None:
        """Digest of the bundle that serves."""
        return self.host.serving

    def want(self, digests: Sequence[str]) -> None:
        """As a Transport."""
        self.wanted |= set(digests)
        self.most_wanted = max(self.most_wanted, len(self.wanted))
        self.link.subscribe([TOPICS.chunk(digest) for digest in digests])

    def drop(self, digests: Sequence[str]) -> None:
        """As a Transport."""
        self.wanted -= set(digests)
        self.link.unsubscribe([TOPICS.chunk(digest) for digest in digests])

    fault = ""

    def arrived(self) -> None:
        """As a Transport."""

    def failed(self) -> bool:
        """As a Transport with one source."""
        return False

    def tick(self, now_s: float) -> float:
        """Do what is due; when to call again at the latest."""
        due = (self.driver.tick(now_s), self.reporting.tick(now_s, {}))
        return min(due_s for due_s in due if due_s is not None)

    def work(self) -> bool:
        """Hand the driver what has arrived; whether there was anything."""
        if not self.alive:
            return False
        inputs, self._inbox = self._inbox + self.host.answers, []
        self.host.answers = []
        for act in inputs:
            act(self.fleet.now_s)
        return bool(inputs)

    def _on_message(self, message: Message) -> None:
        digest = TOPICS.chunk_of(message.topic)
        data = message.payload
        if digest is not None:
            self._inbox.append(lambda now_s: self.driver.chunk(digest, data, now_s))
        else:
            self._inbox.append(lambda now_s: self.driver.desired(data, now_s))

    def _on_connection(self, connected: bool, _reason: str) -> None:
        self._inbox.append(lambda now_s: self._connected(connected, now_s))

    def _connected(self, connected: bool, now_s: float) -> None:
        self.reporting.connected(connected)
        self.driver.connected(connected, now_s)


class Fleet:
    """Broker, clock, devices, and an operator's link."""

    def __init__(self, folder: Path, *, queue_limit: int = 1000) -> None:
        self.folder = folder
        self.broker = MemoryBroker(queue_limit=queue_limit)
        self.now_s = 1000.0
        self.devices: list[Device] = []
        self._operator = self.broker.link("operator", lambda _message: None)
        self._operator.start()
        self._revision = 0

    def add(self, name: str, policy: Policy = QUICK, profile: DeviceProfile = PROFILE) -> Device:
        """A new device, powered on."""
        device = Device(self, name, policy, profile)
        self.devices.append(device)
        return device

    def publish(self, made: Bundle) -> None:
        """Every chunk, retained."""
        for digest, data in made.chunks.items():
            self.put(TOPICS.chunk(digest), data)

    def put(self, topic: str, payload: bytes) -> None:
        """One retained message. An empty one clears it."""
        self._operator.publish(topic, payload, retain=DELIVERY["chunk"].retain, wait_s=1.0)

    def deploy(self, device: Device, made: Bundle | None, *, attempt: int = 0) -> Desired:
        """Set the device's desired state."""
        self._revision += 1
        release = made.release if made is not None else None
        desired = Desired(self._revision, release, attempt)
        self.put(TOPICS.device(device.name, "desired"), desired.to_bytes())
        return desired

    def settle(self) -> bool:
        """Messages and answers until nobody has any left; whether there were any. No time."""
        for rounds in range(10_000):
            moved = self.broker.pump()
            for device in self.devices:
                moved += device.work()
            if not moved:
                return rounds > 0
        raise RuntimeError("the fleet never comes to rest")

    def pass_time(self, seconds: float) -> None:
        """Let time pass; every device is ticked when it asked to be."""
        end_s = self.now_s + seconds
        self.settle()
        while True:
            due = [device.tick(self.now_s) for device in self.devices if device.alive]
            if self.settle():
                continue
            if self.now_s >= end_s:
                return
            # A driver that asks for a moment already past would spin: move at least a little.
            self.now_s = min(end_s, max(min([*due, end_s]), self.now_s + 0.001))

    def update(self, device: Device, made: Bundle) -> None:
        """Publish, deploy, and outlast the trial."""
        self.publish(made)
        self.deploy(device, made)
        self.settle()
        self.pass_time(device.policy.trial_s + 1.0)


def journal(device: Device) -> dict[str, Json]:
    """What the device's journal holds."""
    value = json.loads((device.state / "journal.json").read_bytes())
    assert isinstance(value, dict)
    return value


def parsed(made: Bundle) -> Manifest:
    """The bundle's manifest as a device reads it."""
    return Manifest.from_bytes(made.bytes)
