"""Local installs: what the command line, the configuration or a person beside the board asks for.

A running agent owns its state folder, so `edge-agent install` leaves a request there and knocks
(SIGUSR1); the agent takes it up on its own thread, through the same checks as a bundle from afar.
It leaves a result beside the request: refused at once, and why; or taken up, and then the journal
says what becomes of it. The journal from before the result says nothing about the request.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.given import Given, look_through
from edge_runtime.agent.state_folder import not_writable
from edge_runtime.bundle import durable
from edge_runtime.errors import DeviceError, EdgeError, InputError, UntrustedError, exit_code
from edge_runtime.fields import Fields, Json, decode_json, encode_json
from edge_runtime.profile import DeviceProfile
from edge_runtime.text import MAX_ERROR, plain
from edge_runtime.update.driver import Driver

log = logging.getLogger(__name__)

REQUEST = "install.json"
RESULT = "install.result.json"
MAX_REQUEST_BYTES = 16 << 10
MAX_RESULT_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Request:
    """What `edge-agent install` asks a running agent for: a path, and a release in it, or None.

    The result names the request by its `token`.
    """

    path: Path
    release: str | None = None
    token: str = ""

    def leave(self, state: Path) -> None:
        """In the state folder, and remove the result of the one before.

        Raises:
            InputError: the path or the release is no text.
            DeviceError: it cannot be written.
        """
        value = {"path": str(self.path), "release": self.release, "token": self.token}
        try:
            data = encode_json(value)
        except ValueError:
            raise InputError(
                f"{plain(str(self.path))}: an agent that runs is asked by names in UTF-8; "
                "rename what is not"
            ) from None
        with contextlib.suppress(OSError):  # It names another request anyway.
            os.unlink(state / RESULT)
        durable.replace(state / REQUEST, data)

    @classmethod
    def take(cls, state: Path) -> Request | None:
        """What was left there, and is there no more; None where nothing was.

        Raises:
            InputError, DeviceError: it is no request, or cannot be read.
        """
        path = state / REQUEST
        try:
            data = _read(path, MAX_REQUEST_BYTES)
            path.unlink()
        except FileNotFoundError:
            return None
        except OSError as reason:
            raise DeviceError(f"{path}: cannot be taken up ({reason.strerror})") from None
        f = _fields(data, path, MAX_REQUEST_BYTES)
        release = f.text("release", max_len=512) if f.present("release") else None
        return cls(Path(f.text("path", max_len=4096)), release, f.text("token", "", max_len=64))


@dataclass(frozen=True, slots=True)
class Result:
    """What an agent did with a request: refused it, for `reason`; or took it up."""

    token: str
    reason: str = ""
    untrusted: bool = False

    @classmethod
    def of(cls, token: str, refusal: EdgeError | None) -> Result:
        """As the agent says it."""
        if refusal is None:
            return cls(token)
        return cls(token, plain(str(refusal), MAX_ERROR), exit_code(refusal) == 3)

    def leave(self, state: Path) -> None:
        """In the state folder.

        Raises:
            DeviceError: it cannot be written.
        """
        value: Json = {"token": self.token, "reason": self.reason, "untrusted": self.untrusted}
        durable.replace(state / RESULT, encode_json(value))

    @classmethod
    def find(cls, state: Path, token: str) -> Result | None:
        """That of the request `token`, if it is there.

        Raises:
            InputError, DeviceError: it is none, or cannot be read.
        """
        path = state / RESULT
        try:
            data = _read(path, MAX_RESULT_BYTES)
        except FileNotFoundError:
            return None
        except OSError as reason:
            raise DeviceError(f"{path}: cannot be read ({reason.strerror})") from None
        f = _fields(data, path, MAX_RESULT_BYTES)
        found = cls(
            f.text("token", max_len=64), f.sentence("reason", ""), f.boolean("untrusted", False)
        )
        return found if found.token == token else None

    def demand_taken(self) -> None:
        """Raises UntrustedError, DeviceError: the request was refused."""
        if self.reason:
            raise (UntrustedError if self.untrusted else DeviceError)(self.reason)


def _read(path: Path, max_bytes: int) -> bytes:
    """A little more than `max_bytes` at most; nothing that is there can hold us. Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(path, flags), "rb") as file:
        return file.read(max_bytes + 1)


def _fields(data: bytes, path: Path, max_bytes: int) -> Fields:
    value = decode_json(data, max_bytes=max_bytes, where=str(path), error=InputError)
    return Fields(value, str(path), InputError)


class Installer:
    """Of one supervisor; called from its one thread.

    Args:
        at: told where the metadata beside a bundle is, before the driver hears of the bundle.
        event: as `Host.event`.
        pulse: called with every chunk of a bundle that is looked through.
    """

    def __init__(
        self,
        config: AgentConfig,
        profile: DeviceProfile,
        driver: Driver,
        at: Callable[[str | None], None],
        event: Callable[[str, str], None],
        pulse: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._profile = profile
        self._driver = driver
        self._at = at
        self._event = event
        self._pulse = pulse

    def look_through(self, path: Path, release: str | None = None) -> Given:
        """See `given.look_through`."""
        return look_through(path, release, self._profile, self._driver.store, self._pulse)

    def begin(self, given: Given | None) -> None:
        """At the start: the bundle from the command line, or the configuration's if none is here.

        Raises:
            InputError: there is no bundle here, and no broker to get one from.
            DeviceError: there is no bundle here, and none can be kept.
        """
        status = self._driver.status
        fault = not_writable(self._config.state_dir)
        if fault and status.active is None:
            raise DeviceError(fault)
        if given is not None:
            try:
                self.install(given)
            except DeviceError as reason:
                if status.active is None:
                    raise
                self._failed("bundle", reason)  # A full disk: what is installed goes on serving.
        elif status.active is None and status.state == "idle":
            self._first()

    def _first(self) -> None:
        first = self._config.first_bundle
        if first is None:
            if self._config.broker is None:
                raise InputError(
                    "there is no bundle on this device and no [broker] to get one from: "
                    "give --bundle FILE, first_bundle or [broker]"
                )
            log.info("no bundle yet, waiting for the broker to name one")
            return
        try:
            self.install(self.look_through(first))
        except EdgeError as reason:
            if self._config.broker is None:
                raise
            self._failed("first bundle", reason)

    def requested(self) -> None:
        """Somebody knocked."""
        try:
            request = Request.take(self._config.state_dir)
        except EdgeError as reason:
            self._failed("bundle", reason)
            return
        if request is None:
            return
        log.info("asked to install", extra={"path": str(request.path)})
        refusal: EdgeError | None = None
        try:
            self.install(self.look_through(request.path, request.release))
            # An update that waits goes on at once: what the journal says from here on is new.
            self._driver.tick(time.monotonic())
        except EdgeError as reason:
            refusal = reason
            self._failed("bundle", reason)
        try:
            Result.of(request.token, refusal).leave(self._config.state_dir)
        except DeviceError as reason:
            log.warning("who asked to install cannot be told: %s", reason)

    def install(self, given: Given) -> None:
        """Through the driver. Naming a refused bundle again is asking to try again.

        Raises:
            UntrustedError, IncompatibleError, DeviceError: as `Driver.install`.
        """
        self._at(given.repository)
        digest, refused = given.manifest_sha256, self._driver.status.refused
        tried = [r.attempt + 1 for r in refused if r.manifest_sha256 == digest]
        attempt = max(tried, default=0)
        self._driver.install(given.reader, time.monotonic(), attempt=attempt)

    def _failed(self, what: str, reason: EdgeError) -> None:
        log.error("%s cannot be installed: %s", what, reason)
        self._event("install-failed", plain(str(reason), MAX_ERROR))
