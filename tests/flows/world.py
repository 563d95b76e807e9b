"""What a flow may do and see: an operator, one device and the broker between them.

The operator's half is here, once: the code behind `edge-fleet`, over whatever link the world has.
The device's half and the passing of time differ: `tests.flows.memory` has a driver, fake workers
and a manual clock on the in-memory broker, `tests.flows.processes` a real agent on mosquitto.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar
from zlib import crc32

from edge_runtime.bundle.archive import FolderReader
from edge_runtime.bundle.chunks import file_entry
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from edge_runtime.fleet import inventory, rollout
from edge_runtime.fleet.connection import Connection
from edge_runtime.fleet.publish import Publication, publish
from edge_runtime.fleet.rollout import Outcome, Plan
from edge_runtime.link import Connector, Message
from edge_runtime.messages.fleet import Desired, Event, Release, Reported
from edge_runtime.messages.topics import Topics
from edge_runtime.update.policy import Policy
from tests.fakes.bundles import noise
from tests.fakes.tiny import faulty_tokenizer, tiny_folder, variant_json

DEVICE = "device-1"
SLACK_BYTES = 16 << 10
"""What may reach a device besides chunks: topics, acknowledgements, desired states."""
QUICK = Policy(
    trial_s=0.3,
    restart_s=0.1,
    wait_s=1.0,
    chunk_timeout_s=1.0,
    chunk_tries=2,
    report_s=0.1,
    trial_slowdown=100.0,  # A test machine that is busy says nothing of a bundle.
)
PATIENT = dataclasses.replace(QUICK, trial_s=60.0, trial_slowdown=3.0, max_boots=2)
"""Long enough for anything to happen in a trial."""
FOLLOW_S = 10.0

T = TypeVar("T")


@dataclass(frozen=True)
class Made:
    """A bundle in a folder. Versions share their backbone and differ in their small head."""

    folder: Path

    @cached_property
    def manifest_bytes(self) -> bytes:
        """As the folder has it."""
        return FolderReader(self.folder).read(MANIFEST_NAME, MAX_MANIFEST_BYTES)

    @cached_property
    def manifest(self) -> Manifest:
        """As a device reads it."""
        return Manifest.from_bytes(self.manifest_bytes)

    @cached_property
    def release(self) -> Release:
        """As it is published."""
        m, entry = self.manifest, file_entry(MANIFEST_NAME, self.manifest_bytes)
        return Release(m.name, m.version, m.profile, m.size_bytes, entry)

    @property
    def digest(self) -> str:
        """Of its manifest."""
        return self.release.manifest.sha256

    @cached_property
    def files(self) -> dict[str, int]:
        """Bytes of every chunk of its files, by digest."""
        return {c.sha256: c.size_bytes for entry in self.manifest.files for c in entry.chunks}

    @cached_property
    def chunks(self) -> dict[str, int]:
        """The same, with the manifest's."""
        return self.files | {c.sha256: c.size_bytes for c in self.release.manifest.chunks}

    def without(self, other: Made) -> dict[str, int]:
        """Chunks that a device which holds `other` lacks."""
        return {digest: size for digest, size in self.chunks.items() if digest not in other.chunks}


class Asking(Protocol):
    """A client that keeps asking for answers."""

    @property
    def sent(self) -> int:
        """Requests so far."""

    @property
    def failures(self) -> list[str]:
        """What became of those without a right answer."""


class World(ABC):
    """One device, one broker. A context manager; what it started ends with it.

    `reported` is what the device said last since it was booted, `events` everything that it told.
    """

    def __init__(self, folder: Path, connect: Connector, topics: Topics) -> None:
        self.folder = folder
        self.topics = topics
        self.reported: Reported | None = None
        self.events: list[Event] = []
        self.stack = ExitStack()
        self._revisions = 0
        self._operator = Connection(connect, topics, timeout_s=20.0)
        self._watcher = connect(f"watcher-{folder.name}"[:60], self._hear)
        self._watcher.subscribe([topics.device(DEVICE, what) for what in ("reported", "event")])

    def __enter__(self) -> World:
        self.stack.callback(self._watcher.close)
        self._watcher.start()
        self.operator = self.stack.enter_context(self._operator)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stack.close()

    def _hear(self, message: Message) -> None:
        if message.topic.endswith("/reported"):
            self.reported = Reported.from_bytes(message.payload)
        else:
            self.events.append(Event.from_bytes(message.payload))

    # The operator.

    def bundle(
        self,
        version: str,
        *,
        backbone: int = 1,
        passes: bool = True,
        profile: str = "",
        fault: str = "",
    ) -> Made:
        """A new bundle; not `passes`: no device's self-test lets it serve.

        With a `fault`, "fails" or "slow", it passes, and then fails or slows whoever asks TROUBLE.
        """
        variant = variant_json("ort-int8", "model-int8.onnx")
        if not passes:
            variant["tolerance"]["floor"] = 1.0
        tokenizer = {"tokenizer.json": faulty_tokenizer(fault)} if fault else {}
        made = Made(
            tiny_folder(
                self.folder / "bundles" / version,
                [variant],
                {
                    "backbone.bin": noise(600_000, backbone),
                    "head.bin": noise(5_000, crc32(version.encode())),
                    **tokenizer,
                },
                version=version,
                profile=profile or "generic-x86_64",
            )
        )
        self.made(made, passes, fault)
        return made

    def publish(self, made: Made) -> Publication:
        """As `edge-fleet publish` does."""
        return publish(self.operator, FolderReader(made.folder))

    def deploy(self, made: Made, *, retry: bool = False) -> Plan:
        """As `edge-fleet deploy` does."""
        (device,) = inventory.read_devices(self.operator, [DEVICE])
        plan = rollout.plan(device, made.release, retry=retry)
        rollout.deploy(self.operator, [plan])
        return plan

    def desire(self, payload: bytes) -> None:
        """Put these bytes where the device's desired state stands."""
        self._put("desired", self.topics.device(DEVICE, "desired"), payload)

    def desire_nothing(self) -> None:
        """No bundle is wanted."""
        current = self.device.desired
        self.desire(Desired(current.revision + 1 if current else 1, None).to_bytes())

    def withhold(self, digests: Iterable[str]) -> None:
        """The broker has these chunks no more."""
        for digest in digests:
            self.spoil(digest, b"")

    def spoil(self, digest: str, payload: bytes) -> None:
        """The broker keeps other bytes under a chunk's name."""
        self._put("chunk", self.topics.chunk(digest), payload)

    def _put(self, kind: str, topic: str, payload: bytes) -> None:
        self.operator.send(kind, topic, payload)
        self.operator.settle()

    @property
    def device(self) -> inventory.Device:
        """As `edge-fleet status` sees it: what the broker keeps."""
        found = inventory.read_inventory(self.operator)
        return next((row for row in found if row.id == DEVICE), inventory.Device(DEVICE))

    def outcome(self, plan: Plan) -> tuple[Outcome, str]:
        """What `edge-fleet deploy` says in the end, and why."""
        self.until(
            "the device serves or refuses",
            lambda: rollout.verdict(plan.desired, self.reported).outcome is not Outcome.WAITING,
        )
        found = rollout.follow(self.operator, [plan], FOLLOW_S)[DEVICE]
        return found.outcome, found.reason

    # What becomes of it.

    def told(self, kind: str) -> list[str]:
        """Texts of the events of that kind."""
        return [event.text for event in list(self.events) if event.kind == kind]

    def said(self, **expected: object) -> bool:
        """Whether the device reports this now."""
        reported = self.reported
        return reported is not None and all(
            getattr(reported, name) == value for name, value in expected.items()
        )

    def until_serves(self, made: Made, *, state: str = "idle") -> Reported:
        """Until it serves and says so in `state`: "trial" before it is marked good, or "idle"."""
        self.until(f"{made.manifest.version} serves", lambda: self.serves() == made)
        title = f"{made.manifest.version} is reported in {state}"
        self.until(title, lambda: self.said(active=made.release.ref, state=state))
        assert self.reported is not None
        return self.reported

    def run_first(self, made: Made, policy: Policy = QUICK) -> None:
        """A new device that has come to serve `made` and marked it good."""
        self.publish(made)
        self.boot(policy)
        self.deploy(made)
        self.until_serves(made)

    def update(self, made: Made) -> Reported:
        """Publish, deploy, and until it is marked good."""
        self.publish(made)
        self.deploy(made)
        return self.until_serves(made)

    def fetch_partly(self, made: Made, held: Made) -> dict[str, int]:
        """Begin to update to `made` and come to a halt; the chunks that the broker lacks."""
        missing = [digest for digest in made.without(held) if digest in made.files]
        late = {digest: made.files[digest] for digest in missing[len(missing) // 2 :]}
        self.publish(made)
        self.withhold(late)
        self.deploy(made)

        def halted() -> bool:
            progress = self.reported.progress if self.reported else None
            if progress is None or progress.chunks_needed != len(made.files):
                return False
            return progress.chunks_needed - progress.chunks_held == len(late)

        self.until(f"only withheld chunks of {made.manifest.version} are missing", halted)
        return late

    @contextmanager
    def measured(self, expected: Iterable[int]) -> Iterator[None]:
        """Inside, these chunks reach the device, and hardly anything else."""
        before = self.received_bytes()
        yield
        crossed, payload = self.received_bytes() - before, sum(expected)
        assert payload <= crossed <= payload + SLACK_BYTES

    # The device, the broker and time; each world has its own.

    @abstractmethod
    def made(self, made: Made, passes: bool, fault: str) -> None:
        """A bundle was made."""

    @abstractmethod
    def until(self, what: str, found: Callable[[], T]) -> T:
        """Let time pass until `found` answers with something true; fails, naming `what`."""

    @abstractmethod
    def boot(self, policy: Policy = QUICK) -> None:
        """Power on."""

    @abstractmethod
    def power_cut(self) -> None:
        """Every process of the device is gone at once."""

    @abstractmethod
    def crash(self) -> None:
        """The worker that serves dies."""

    @abstractmethod
    def serves(self) -> Made | None:
        """The bundle that clients on the device get answers from."""

    @abstractmethod
    def asking(self, text: str = "mail server") -> AbstractContextManager[Asking]:
        """A client asks this all the time inside."""

    @abstractmethod
    def workers_started(self) -> int:
        """Since the device was booted."""

    @abstractmethod
    def received_bytes(self) -> int:
        """Bytes that came to the device over its network so far."""

    @abstractmethod
    def make_unfit(self, made: Made) -> None:
        """This device's self-test does not let `made` serve, until `mend`."""

    @abstractmethod
    def mend(self) -> None:
        """Self-tests are passed again."""

    @abstractmethod
    def hold_swap(self, made: Made) -> None:
        """The swap to `made` will not come to its end before the power is cut."""

    @abstractmethod
    def go_offline(self) -> None:
        """The device's network is gone."""

    @abstractmethod
    def go_online(self) -> None:
        """It is back."""

    @abstractmethod
    def stop_broker(self) -> None:
        """It is gone, and forgets what it kept."""

    @abstractmethod
    def start_broker(self) -> None:
        """It is back, empty."""


def changed(policy: Policy, **fields: float) -> Policy:
    """`policy` with other bounds."""
    return dataclasses.replace(policy, **fields)  # type: ignore[arg-type]
