"""The agent's configuration: one TOML file, then `EDGE_AGENT_*` variables, as one frozen value.

`load_config` is the way to make one. It reports every fault of file and environment in one go and
says which of the two each came from; a key that it does not know is an error, with the nearest
that it knows. Trust is never a default: the file says `trust = "tuf"` and names the fleet's root
of trust, or it says `trust = "none"` in so many words.

A variable is named after its key: `EDGE_AGENT_DEVICE_ID`, `EDGE_AGENT_BROKER_URL`,
`EDGE_AGENT_API_PORT`. Relative paths stand relative to the file's folder.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.errors import InputError
from edge_runtime.fields import MAX_FAULTS, MAX_SENTENCE, Fields, all_of
from edge_runtime.link import BrokerConfig
from edge_runtime.link.address import parse_source
from edge_runtime.messages.fleet import MAX_REQUEST_BYTES
from edge_runtime.messages.topics import DEFAULT_PREFIX, DEVICE_ID, Topics
from edge_runtime.profile import load_toml
from edge_runtime.text import plain
from edge_runtime.update.policy import Policy

MAX_CONFIG_BYTES = 64 << 10
MAX_PAYLOAD_BYTES = 2 * MAX_REQUEST_BYTES
"""Accepted from the broker: a request that is a little too large is told so, not lost."""
MIN_HANG_S = 5.0
"""A worker is heard once a second, and half of `hang_s` is how long it may be silent."""
DRAIN_SLACK_S = 2.0
"""What a worker gets on top of `drain_s` before it is ended."""
ENVIRONMENT = "EDGE_AGENT_"
TRUST = ("tuf", "none")
BROKER = "mqtt"
"""The broker as a source of metadata and chunks."""
MAX_SOURCES = 8
TRUST_IS_MISSING = (
    'trust is missing, expected "tuf" with root = "root.json" (edge-fleet enroll writes both), or '
    '"none": then whoever may write to the broker decides what this device runs'
)

_POLICY = {f.name: "integer" if isinstance(f.default, int) else "number"
           for f in dataclasses.fields(Policy)}  # fmt: skip
KEYS: Mapping[str, Mapping[str, str]] = {
    "": {
        "device_id": "text",
        "profile": "text",
        "state_dir": "text",
        "trust": "text",
        "root": "text",
        "sources": "texts",
        "sources_ca": "text",
        "tasks": "texts",
        "first_bundle": "text",
        "log_level": "text",
    },
    "broker": {
        "url": "text",
        "username": "text",
        "password_file": "text",
        "ca": "text",
        "cert": "text",
        "key": "text",
        "prefix": "text",
        "version": "text",
    },
    "api": {
        "host": "text",
        "port": "integer",
        "max_connections": "integer",
        "max_body_bytes": "integer",
        "max_waiting": "integer",
        "request_timeout_s": "number",
        "idle_timeout_s": "number",
    },
    "telemetry": {"interval_s": "number", "spool_bytes": "integer"},
    "worker": {
        "start_timeout_s": "number",
        "prove_timeout_s": "number",
        "hang_s": "number",
        "drain_s": "number",
        "max_crashes": "integer",
        "crash_window_s": "number",
        "recheck_s": "number",
        "recheck_max_s": "number",
        "drivers_s": "number",
    },
    "update": _POLICY,
}
"""Every key there is, by table, and the kind of its value."""


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """The local HTTP API. Port 0 takes a free one, which the log names.

    `max_waiting` requests may wait for the engine; one more is told to come back later. A request
    must have arrived whole within `request_timeout_s`; a connection may idle for `idle_timeout_s`.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    max_connections: int = 64
    max_body_bytes: int = 4 << 20
    max_waiting: int = 32
    request_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How long a worker may take: to load and test itself, to answer at all, to finish.

    `prove_timeout_s` bounds the proof of one variant in a process of its own, and the load that
    follows it; `start_timeout_s` all that comes before the first proof, or between two.
    `hang_s` is at least MIN_HANG_S. A swap is over once the old worker has finished its requests,
    so `drain_s` must fit into the update's `activate_timeout_s`.

    A worker that crashes on an accelerator more than `max_crashes` times within `crash_window_s`
    goes on with the next variant. A device that does not run the variant that it should tries
    again after `recheck_s`, then twice that, up to `recheck_max_s`. Every `drivers_s` it looks
    whether a driver has changed, which proves anew what runs.
    """

    start_timeout_s: float = 300.0
    prove_timeout_s: float = 60.0
    hang_s: float = 30.0
    drain_s: float = 10.0
    max_crashes: int = 2
    crash_window_s: float = 600.0
    recheck_s: float = 60.0
    recheck_max_s: float = 3600.0
    drivers_s: float = 60.0


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """How often to report, and how much to keep on disk while nobody listens."""

    interval_s: float = 10.0
    spool_bytes: int = 4 << 20


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Everything that a person decides about one device. `broker` None: nobody to report to.

    `profile` is a name, or the path of a .toml file. With trust "tuf", `root` is the file of the
    initial trusted root metadata. `sources` is where metadata and chunks come from, in order: the
    broker, "mqtt", or URLs; `sources_ca` vouches for https ones in place of the system's
    authorities. `tasks` are those that a bundle may be for; none means any.
    """

    device_id: str
    profile: str
    state_dir: Path
    trust: str
    root: Path | None = None
    sources: tuple[str, ...] = (BROKER,)
    sources_ca: Path | None = None
    tasks: tuple[str, ...] = ()
    first_bundle: Path | None = None
    log_level: str = "info"
    broker: BrokerConfig | None = None
    prefix: str = DEFAULT_PREFIX
    api: ApiConfig = ApiConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    worker: WorkerConfig = WorkerConfig()
    update: Policy = field(default_factory=Policy)


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> AgentConfig:
    """Read `path`, then what `environment` overrides.

    Raises:
        InputError: the file cannot be read, or everything that is wrong with file and variables.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as reason:
        raise InputError(f"{path}: cannot be read ({reason.strerror})") from None
    faults: list[str] = []
    raw = load_toml(data, MAX_CONFIG_BYTES, str(path))
    variables = _variables(os.environ if environment is None else environment, faults)
    sections = {name: _Section(name, raw, variables.get(name, {}), path, faults) for name in KEYS}
    config = _build(sections, path.parent, faults)
    if faults:
        raise InputError(all_of(faults))
    return config


class _Section:
    """One table of the file under what the environment says of it."""

    def __init__(
        self,
        name: str,
        raw: Mapping[str, object],
        variables: Mapping[str, object],
        path: Path,
        faults: list[str],
    ) -> None:
        self.where = f"{path}: [{name}]" if name else str(path)
        value = raw.get(name, {}) if name else {k: v for k, v in raw.items() if k not in KEYS}
        self.present = not name or name in raw or bool(variables)
        self._file = Fields(value, self.where, InputError, faults)
        upper = f"{ENVIRONMENT}{name.upper()}_*" if name else f"{ENVIRONMENT}*"
        self._variables = Fields(variables, f"environment {upper}", InputError, faults)
        for key in KEYS[name]:
            self._file.present(key)
        unknown = self._file.unknown()
        for key in unknown[:MAX_FAULTS]:  # To look for the nearest takes a while.
            known = [*KEYS[name], *(table for table in KEYS if table and not name)]
            near = _nearest(key[:MAX_SENTENCE], known)
            faults.append(plain(f"{self.where}: {key} is not a setting{near}", MAX_SENTENCE))
        if len(unknown) > MAX_FAULTS:
            faults.append(f"{self.where}: {len(unknown)} keys are no settings")

    def of(self, key: str) -> Fields:
        """Whichever of environment and file has `key`."""
        return self._variables if key in self._variables else self._file

    def has(self, key: str) -> bool:
        """Whether either sets `key`."""
        return key in self._variables or key in self._file

    def text(self, key: str, default: Any = None, **checks: Any) -> Any:
        """A string, or `default`."""
        return self.of(key).text(key, default, **checks) if self.has(key) else default

    def required(self, key: str, **checks: Any) -> str:
        """A string that must be there."""
        return self.of(key).text(key, **checks)

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """A list of strings, or `default`."""
        if not self.has(key):
            return default
        return self.of(key).texts(key, max_items=MAX_SOURCES, max_len=1024)

    def path(self, key: str, folder: Path) -> Path | None:
        """A path, relative to the file's folder."""
        text = self.text(key, max_len=4096)
        return folder / text if text else None

    def numbers(self, defaults: Any, **low: float) -> dict[str, Any]:
        """The numeric fields of the dataclass value `defaults`, each above 0 or its own `low`."""
        found: dict[str, Any] = {}
        for item in dataclasses.fields(defaults):
            value, of = getattr(defaults, item.name), self.of(item.name)
            if isinstance(value, int):
                found[item.name] = of.integer(
                    item.name, value, low=int(low.get(item.name, 1)), high=1 << 40
                )
            elif isinstance(value, float):
                found[item.name] = of.number(
                    item.name, value, low=low.get(item.name, 0.01), high=1e9
                )
        return found


def _build(sections: Mapping[str, _Section], folder: Path, faults: list[str]) -> AgentConfig:
    top, api = sections[""], sections["api"]
    trust, root = _trust(top, folder, faults)
    broker = _broker(sections["broker"], folder, faults)
    level = top.text("log_level", "info")
    if level not in ("debug", "info", "warning", "error"):
        faults.append(
            f"{top.where}: log_level is {level!r}, expected one of debug, info, warning, error"
        )
    profile = top.required("profile", max_len=4096)
    if profile.endswith(".toml"):
        profile = str(folder / profile)
    worker, policy = _worker_and_policy(sections["worker"], sections["update"], faults)
    numbers = api.numbers(ApiConfig(), port=0)
    if numbers["port"] > 65535:
        faults.append(f"{api.of('port').where}: port is {numbers['port']}, expected 0..65535")
    return AgentConfig(
        device_id=top.required("device_id", pattern=DEVICE_ID),
        profile=profile,
        state_dir=top.path("state_dir", folder) or Path("/var/lib/edge-agent"),
        trust=trust,
        root=root,
        sources=_sources(top, sections["broker"].present, faults),
        sources_ca=top.path("sources_ca", folder),
        tasks=top.texts("tasks", ()),
        first_bundle=top.path("first_bundle", folder),
        log_level=level,
        broker=broker,
        prefix=_prefix(sections["broker"], faults),
        api=ApiConfig(host=api.text("host", "127.0.0.1"), **numbers),
        telemetry=TelemetryConfig(**sections["telemetry"].numbers(TelemetryConfig())),
        worker=worker,
        update=policy,
    )


def _trust(top: _Section, folder: Path, faults: list[str]) -> tuple[str, Path | None]:
    """What bundles are held to, and the root of it. Half of it is a fault, never less trust."""
    trust, root = top.text("trust"), top.path("root", folder)
    if trust is None:
        faults.append(f"{top.where}: {TRUST_IS_MISSING}")
    elif trust not in TRUST:
        faults.append(f"{top.of('trust').where}: trust is {trust!r}, expected {' or '.join(TRUST)}")
    elif trust == "tuf" and root is None:
        faults.append(
            f'{top.where}: trust is "tuf" but root is missing, expected the file of the fleet\'s '
            "initial root metadata (edge-fleet enroll writes root.json)"
        )
    elif trust == "none" and root is not None:
        faults.append(
            f'{top.of("root").where}: root is given, but trust is "none": nothing uses it'
        )
    elif root is not None and not root.is_file():
        faults.append(f"{top.of('root').where}: root {root} is no file")
    return trust or "", root


def _sources(top: _Section, broker: bool, faults: list[str]) -> tuple[str, ...]:
    """In order, each once; the broker only where there is one."""
    sources = top.texts("sources", (BROKER,) if broker else ())
    where = top.of("sources").where
    for source in sources:
        if source != BROKER:
            try:
                parse_source(source)
            except InputError as error:
                faults.append(f"{where}: {error}")
        elif not broker:
            faults.append(f"{where}: sources names {BROKER!r}, but there is no [broker]")
    if len(set(sources)) < len(sources):
        faults.append(f"{where}: sources names one twice")
    return sources


def _broker(section: _Section, folder: Path, faults: list[str]) -> BrokerConfig | None:
    if not section.present:
        return None
    url = section.required("url", max_len=1024)
    if not url:
        return None
    try:
        config = BrokerConfig.parse(
            url,
            username=section.text("username"),
            password_file=section.path("password_file", folder),
            ca_file=section.path("ca", folder),
            cert_file=section.path("cert", folder),
            key_file=section.path("key", folder),
            version=section.text("version", "auto"),
        )
        return dataclasses.replace(config, max_payload_bytes=MAX_PAYLOAD_BYTES)
    except InputError as error:
        faults.append(f"{section.where}: {error}")
        return None


def _prefix(section: _Section, faults: list[str]) -> str:
    prefix: str = section.text("prefix", DEFAULT_PREFIX)
    try:
        return Topics(prefix).prefix
    except InputError as error:
        faults.append(f"{section.where}: {error}")
        return DEFAULT_PREFIX


def _worker_and_policy(
    section: _Section, update: _Section, faults: list[str]
) -> tuple[WorkerConfig, Policy]:
    """Both, for the one must fit into the other."""
    before = len(faults)
    worker, policy = WorkerConfig(**section.numbers(WorkerConfig())), _policy(update, faults)
    if len(faults) > before:
        return worker, policy  # What stands in for a faulty number has no meaning.
    if worker.hang_s < MIN_HANG_S:
        faults.append(
            f"{section.of('hang_s').where}: hang_s is {worker.hang_s:g}, expected at least "
            f"{MIN_HANG_S:g}: a healthy worker would be taken for one that hangs"
        )
    if not section.has("prove_timeout_s"):
        fits_s = min(worker.prove_timeout_s, worker.start_timeout_s / 2)
        worker = dataclasses.replace(worker, prove_timeout_s=fits_s)
    elif worker.prove_timeout_s >= worker.start_timeout_s:
        faults.append(
            f"{section.of('prove_timeout_s').where}: prove_timeout_s is "
            f"{worker.prove_timeout_s:g}, expected less than start_timeout_s, "
            f"{worker.start_timeout_s:g}: a worker would be ended while it waits for a proof"
        )
    if worker.drain_s + DRAIN_SLACK_S >= policy.activate_timeout_s:
        faults.append(
            f"{section.of('drain_s').where}: drain_s is {worker.drain_s:g}, expected more than "
            f"{DRAIN_SLACK_S:g} s below activate_timeout_s of [update], "
            f"{policy.activate_timeout_s:g}: a swap ends only when the old worker has finished"
        )
    return worker, policy


def _policy(section: _Section, faults: list[str]) -> Policy:
    try:
        return Policy(**section.numbers(Policy(), trial_p95_ms=0, trial_error_ratio=1e-6))
    except InputError as error:
        faults.append(f"{section.where}: {error}")
        return Policy()


def _variables(environment: Mapping[str, str], faults: list[str]) -> dict[str, dict[str, object]]:
    """What the environment sets, by table, each value of the kind that its key has."""
    known = {
        ENVIRONMENT + (f"{table}_{key}" if table else key).upper(): (table, key, kind)
        for table, keys in KEYS.items()
        for key, kind in keys.items()
    }
    found: dict[str, dict[str, object]] = {}
    for name, text in sorted(environment.items()):
        if not name.startswith(ENVIRONMENT):
            continue
        if name not in known:
            faults.append(f"environment: {name} is not a setting{_nearest(name, list(known))}")
            continue
        table, key, kind = known[name]
        try:
            value = _FROM_TEXT[kind](text)
        except ValueError:
            faults.append(f"environment: {name} must be a number, found {text[:40]!r}")
            continue
        found.setdefault(table, {})[key] = value
    return found


_FROM_TEXT: Mapping[str, Callable[[str], object]] = {
    "text": str,
    "texts": lambda text: [item.strip() for item in text.split(",") if item.strip()],
    "integer": int,
    "number": float,
}
"""A variable's value by the kind of its key; a list is parted by commas."""


def _nearest(word: str, known: list[str]) -> str:
    import difflib  # Only a mistake needs it.

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"
