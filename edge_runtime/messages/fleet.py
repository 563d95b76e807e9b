"""What devices and operators say to each other over the broker: bytes to dataclass and back.

Every message is one JSON object with a `format`, read after its size was checked. `from_bytes`
raises UntrustedError on whatever a broken or hostile peer may send; unknown fields pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.bundle.delta import MAX_REFS, DeltaRef
from edge_runtime.bundle.files import SHA256, FileEntry
from edge_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, NAME, VERSION
from edge_runtime.errors import IncompatibleError, UntrustedError
from edge_runtime.fields import Fields, Json, decode_json, encode_json

FORMAT = 1
MAX_MESSAGE_BYTES = 128 << 10
MAX_REQUEST_BYTES = 1 << 20
MAX_INPUTS = 64


def open_message(data: bytes, where: str, max_bytes: int = MAX_MESSAGE_BYTES) -> Fields:
    """The fields of a message whose size, JSON and format were checked.

    Raises:
        UntrustedError: too large or malformed.
        IncompatibleError: another format.
    """
    f = Fields(
        decode_json(data, max_bytes=max_bytes, where=where, error=UntrustedError),
        where,
        UntrustedError,
    )
    found = f.integer("format", FORMAT)
    if found != FORMAT:
        raise IncompatibleError(f"{where}: format {found}, this software reads {FORMAT}")
    return f


def to_bytes(message: Any) -> bytes:
    """Canonical bytes of a message, of any dataclass here."""
    return encode_json({"format": FORMAT, **dataclasses.asdict(message)})


@dataclass(frozen=True, slots=True)
class BundleRef:
    """Which bundle: name, version, and the digest of its manifest, which covers every file."""

    name: str
    version: str
    manifest_sha256: str

    @classmethod
    def parse(cls, f: Fields) -> BundleRef:
        """From an object."""
        return cls(
            name=f.text("name", pattern=NAME),
            version=f.text("version", pattern=VERSION),
            manifest_sha256=f.text("manifest_sha256", pattern=SHA256),
        )


def release_file(name: str, version: str, profile: str) -> str:
    """Name of the metadata file of a release, `<name>@<version>@<profile>.json`.

    No part holds an `@`, so no two releases share a file, and one version is published for several
    profiles side by side. A version's `+` is a wildcard in a topic, so it becomes `_`, which no
    version holds.
    """
    return f"{name}@{version}@{profile}.json".replace("+", "_")


@dataclass(frozen=True, slots=True)
class Release:
    """A published bundle: what it is called, for which profile, how its manifest is fetched.

    `repo/metadata/<name>@<version>@<profile>.json` holds one. `deltas` say how devices that hold
    an older bundle may come by it with fewer bytes; they are no part of which release it is.
    """

    name: str
    version: str
    profile: str
    size_bytes: int
    manifest: FileEntry
    deltas: tuple[DeltaRef, ...] = field(default=(), compare=False)

    @property
    def ref(self) -> BundleRef:
        """The bundle's name, version and manifest digest."""
        return BundleRef(self.name, self.version, self.manifest.sha256)

    @property
    def file(self) -> str:
        """Name of the metadata file that holds this release."""
        return release_file(self.name, self.version, self.profile)

    @classmethod
    def parse(cls, f: Fields) -> Release:
        """From an object."""
        manifest = FileEntry.parse(f.object("manifest"))
        if manifest.path != MANIFEST_NAME or not 0 < manifest.size_bytes <= MAX_MANIFEST_BYTES:
            f.fault(
                f"{f.where}: manifest must be {MANIFEST_NAME} of 1..{MAX_MANIFEST_BYTES} bytes, "
                f"found {manifest.path!r} of {manifest.size_bytes}"
            )
        return cls(
            name=f.text("name", pattern=NAME),
            version=f.text("version", pattern=VERSION),
            profile=f.text("profile", pattern=NAME),
            size_bytes=f.integer("size_bytes"),
            manifest=manifest,
            deltas=tuple(map(DeltaRef.parse, f.objects("deltas", (), max_items=MAX_REFS))),
        )

    def as_json(self) -> dict[str, Json]:
        """The object that `parse` reads."""
        deltas: dict[str, Json] = {"deltas": [ref.as_json() for ref in self.deltas]}
        return {
            "name": self.name,
            "version": self.version,
            "profile": self.profile,
            "size_bytes": self.size_bytes,
            "manifest": self.manifest.as_json(),
            **(deltas if self.deltas else {}),
        }

    @classmethod
    def from_bytes(cls, data: bytes) -> Release:
        """Of a retained `repo/metadata/<name>@<version>@<profile>.json`."""
        return cls.parse(open_message(data, "release"))

    def to_bytes(self) -> bytes:
        """The payload that `from_bytes` reads."""
        return encode_json({"format": FORMAT, **self.as_json()})


@dataclass(frozen=True, slots=True)
class DesiredAgent:
    """The release of the agent itself that a device should run; `attempt` as in `Desired`."""

    release: Release
    attempt: int = 0

    @classmethod
    def parse(cls, f: Fields) -> DesiredAgent:
        """From an object."""
        return cls(Release.parse(f.object("release")), f.integer("attempt", 0))

    def as_json(self) -> dict[str, Json]:
        """The object that `parse` reads."""
        return {"release": self.release.as_json(), "attempt": self.attempt}


@dataclass(frozen=True, slots=True)
class Desired:
    """What the operator wants of one device. Repeating it changes nothing.

    `release` None, an explicit null on the wire, means: no bundle is wanted. `attempt` raised by
    the operator lets a bundle be tried again that was refused before. `agent` is the agent's own
    release, None where nothing is said of it. `keeps`: nothing is said of the bundle, and the
    device goes on with the one that it has; only where something is said of the agent.
    """

    revision: int
    release: Release | None
    attempt: int = 0
    agent: DesiredAgent | None = None
    keeps: bool = False

    @classmethod
    def from_bytes(cls, data: bytes) -> Desired:
        """Of a retained `desired`."""
        f = open_message(data, "desired")
        revision = f.integer("revision")
        agent = DesiredAgent.parse(f.object("agent")) if f.present("agent") else None
        if "release" not in f and agent is None:
            # A message cut short must not take a device's bundle away: nobody asked for that.
            f.fault(f"{f.where}: release is missing, expected an object, or null for no bundle")
        return cls(
            revision=revision,
            release=Release.parse(f.object("release")) if f.present("release") else None,
            attempt=f.integer("attempt", 0),
            agent=agent,
            keeps="release" not in f,
        )

    def to_bytes(self) -> bytes:
        """The payload that `from_bytes` reads."""
        release: dict[str, Json] = {"release": self.release.as_json() if self.release else None}
        agent: dict[str, Json] = {"agent": self.agent.as_json()} if self.agent else {}
        return encode_json(
            {
                "format": FORMAT,
                "revision": self.revision,
                **({} if self.keeps else release),
                "attempt": self.attempt,
                **agent,
            }
        )


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The truth about the engine: what was asked for, what runs, and why they differ."""

    variant: str
    requested: str
    actual: str
    degraded: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A bundle that this device will not try again until `attempt` is raised.

    `name` and `version` are those that it was wanted under: what is unsigned under one name may be
    signed under another. Empty in reports of older agents.
    """

    manifest_sha256: str
    attempt: int
    reason: str
    name: str = ""
    version: str = ""

    def is_of(self, bundle: BundleRef) -> bool:
        """Whether it is of `bundle`, whatever the attempt."""
        named = not self.name or (self.name, self.version) == (bundle.name, bundle.version)
        return named and self.manifest_sha256 == bundle.manifest_sha256


@dataclass(frozen=True, slots=True)
class Progress:
    """Chunks of the bundle being fetched: held and needed, and bytes fetched so far."""

    chunks_held: int
    chunks_needed: int
    fetched_bytes: int


@dataclass(frozen=True, slots=True)
class ReportedAgent:
    """How the agent's own update stands, on a device whose agent can have one.

    `platform` is what its releases are made for. `running` is the manifest digest of the release
    that runs, empty for the installed package. The rest is as in `Reported`, for releases of the
    agent.
    """

    platform: str
    running: str
    revision: int
    state: str
    active: BundleRef | None
    refused: tuple[Refusal, ...]
    progress: Progress | None
    reason: str

    @classmethod
    def parse(cls, f: Fields) -> ReportedAgent:
        """From an object."""
        return cls(
            platform=f.text("platform"),
            running=f.text("running", "", pattern=f"{SHA256}|"),
            revision=f.integer("revision", 0),
            state=f.text("state", ""),
            active=BundleRef.parse(f.object("active")) if f.present("active") else None,
            refused=tuple(_refusal(r) for r in f.objects("refused", (), max_items=64)),
            progress=_progress(f.object("progress")) if f.present("progress") else None,
            reason=f.sentence("reason", ""),
        )


@dataclass(frozen=True, slots=True)
class Reported:
    """What a device is and does; retained. `state` is a state of the update lifecycle.

    `fetched_bytes` counts the chunk payload of the last update, `update_s` its seconds from the
    desired state's arrival to serving.
    """

    revision: int
    state: str
    active: BundleRef | None
    previous: BundleRef | None
    accelerator: Accelerator | None
    refused: tuple[Refusal, ...]
    progress: Progress | None
    fetched_bytes: int
    update_s: float
    reason: str
    profile: str
    trust: str
    agent_version: str
    boot_id: str
    agent: ReportedAgent | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> Reported:
        """Of a retained `reported`."""
        f = open_message(data, "reported")
        return cls(
            revision=f.integer("revision"),
            state=f.text("state"),
            active=BundleRef.parse(f.object("active")) if f.present("active") else None,
            previous=BundleRef.parse(f.object("previous")) if f.present("previous") else None,
            accelerator=_accelerator(f.object("accelerator")) if f.present("accelerator") else None,
            refused=tuple(_refusal(r) for r in f.objects("refused", (), max_items=64)),
            progress=_progress(f.object("progress")) if f.present("progress") else None,
            fetched_bytes=f.integer("fetched_bytes", 0),
            update_s=f.number("update_s", 0.0, low=0),
            reason=f.sentence("reason", ""),
            profile=f.text("profile", ""),
            trust=f.text("trust", ""),
            agent_version=f.text("agent_version", ""),
            boot_id=f.text("boot_id", ""),
            agent=ReportedAgent.parse(f.object("agent")) if f.present("agent") else None,
        )


def _accelerator(f: Fields) -> Accelerator:
    return Accelerator(
        variant=f.text("variant"),
        requested=f.text("requested"),
        actual=f.text("actual"),
        degraded=f.sentence("degraded", ""),
    )


def _refusal(f: Fields) -> Refusal:
    return Refusal(
        manifest_sha256=f.text("manifest_sha256", pattern=SHA256),
        attempt=f.integer("attempt", 0),
        reason=f.sentence("reason", ""),
        name=f.text("name", ""),
        version=f.text("version", ""),
    )


def _progress(f: Fields) -> Progress:
    return Progress(
        chunks_held=f.integer("chunks_held"),
        chunks_needed=f.integer("chunks_needed"),
        fetched_bytes=f.integer("fetched_bytes"),
    )


@dataclass(frozen=True, slots=True)
class Online:
    """Whether a device is connected; retained, and false is its last will."""

    online: bool
    boot_id: str = ""

    @classmethod
    def from_bytes(cls, data: bytes) -> Online:
        """Of a retained `online`."""
        f = open_message(data, "online")
        return cls(online=f.boolean("online"), boot_id=f.text("boot_id", ""))


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Counters and gauges since boot. (`boot_id`, `sequence`) names a message for ever.

    `latency` and `queue_wait` are histograms as `telemetry.metrics` writes them; a gauge that the
    board lacks is absent. `time_s` is the board's own clock, Unix seconds, and may be wrong.
    """

    boot_id: str
    sequence: int
    time_s: float
    uptime_s: float
    requests: int
    errors: int
    latency: Mapping[str, Json]
    queue_wait: Mapping[str, Json]
    gauges: Mapping[str, float]
    bundle: BundleRef | None
    accelerator: Accelerator | None
    dropped: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> Telemetry:
        """Of a `telemetry`."""
        f = open_message(data, "telemetry")
        gauges = f.object("gauges", {})
        return cls(
            boot_id=f.text("boot_id"),
            sequence=f.integer("sequence"),
            time_s=f.number("time_s"),
            uptime_s=f.number("uptime_s", low=0),
            requests=f.integer("requests"),
            errors=f.integer("errors"),
            latency=f.mapping("latency"),
            queue_wait=f.mapping("queue_wait"),
            gauges={name: gauges.number(name) for name in f.mapping("gauges", {})},
            bundle=BundleRef.parse(f.object("bundle")) if f.present("bundle") else None,
            accelerator=_accelerator(f.object("accelerator")) if f.present("accelerator") else None,
            dropped=f.integer("dropped", 0),
        )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened once: a refusal, a rollback, a crash. `kind` is a short key."""

    boot_id: str
    sequence: int
    time_s: float
    kind: str
    text: str
    details: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, data: bytes) -> Event:
        """Of an `event`."""
        f = open_message(data, "event")
        return cls(
            boot_id=f.text("boot_id"),
            sequence=f.integer("sequence"),
            time_s=f.number("time_s"),
            kind=f.text("kind"),
            text=f.sentence("text"),
            details=f.mapping("details", {}),
        )


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a device's model is to answer, over MQTT: texts, or whatever else its task takes.

    Each input is as `edge_runtime.inference.tasks.sent` reads it; only the device knows its task.
    """

    inputs: tuple[Json, ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> InferRequest:
        """Of an `infer/<request>`."""
        f = open_message(data, "infer request", MAX_REQUEST_BYTES)
        return cls(inputs=tuple(f.items("inputs", max_items=MAX_INPUTS)))


@dataclass(frozen=True, slots=True)
class InferResult:
    """The answers, one for each input, or the one sentence that says why there are none."""

    results: tuple[Mapping[str, Json], ...] = ()
    error: str = ""

    @classmethod
    def from_bytes(cls, data: bytes) -> InferResult:
        """Of an `infer/<request>/result`."""
        f = open_message(data, "infer result", MAX_REQUEST_BYTES)
        return cls(
            results=tuple(r.rest() for r in f.objects("results", (), max_items=64)),
            error=f.sentence("error", ""),
        )
