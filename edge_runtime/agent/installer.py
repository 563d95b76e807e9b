"""Local installs: what the command line, the configuration or a person beside the board asks for.

A running agent owns its state folder, so `edge-agent install` leaves a request there and knocks
(SIGUSR1); the agent takes it up on its own thread, through the same checks as a bundle from afar.
What became of it stands in the journal, for the asker to read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.agent.config import AgentConfig
from edge_runtime.agent.given import Given, look_through
from edge_runtime.agent.state_folder import not_writable
from edge_runtime.bundle import durable
from edge_runtime.errors import DeviceError, EdgeError, InputError
from edge_runtime.fields import Fields, decode_json, encode_json
from edge_runtime.profile import DeviceProfile
from edge_runtime.update.driver import Driver

log = logging.getLogger(__name__)

REQUEST = "install.json"
MAX_REQUEST_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Request:
    """What `edge-agent install` asks a running agent for: a path, and a release in it, or None."""

    path: Path
    release: str | None = None

    def leave(self, state: Path) -> None:
        """In the state folder.

        Raises:
            DeviceError: it cannot be written.
        """
        value = {"path": str(self.path), "release": self.release}
        durable.replace(state / REQUEST, encode_json(value))

    @classmethod
    def take(cls, state: Path) -> Request | None:
        """What was left there, and is there no more; None where nothing was.

        Raises:
            InputError, DeviceError: it is no request, or cannot be read.
        """
        path = state / REQUEST
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_REQUEST_BYTES + 1)
            path.unlink()
        except FileNotFoundError:
            return None
        except OSError as reason:
            raise DeviceError(f"{path}: cannot be taken up ({reason.strerror})") from None
        where = str(path)
        value = decode_json(data, max_bytes=MAX_REQUEST_BYTES, where=where, error=InputError)
        f = Fields(value, where, InputError)
        release = f.text("release", max_len=512) if f.present("release") else None
        return cls(Path(f.text("path", max_len=4096)), release)


class Installer:
    """Of one supervisor; called from its one thread.

    Args:
        at: told where the metadata beside a bundle is, before the driver hears of the bundle.
        event: as `Host.event`.
    """

    def __init__(
        self,
        config: AgentConfig,
        profile: DeviceProfile,
        driver: Driver,
        at: Callable[[str | None], None],
        event: Callable[[str, str], None],
    ) -> None:
        self._config = config
        self._profile = profile
        self._driver = driver
        self._at = at
        self._event = event

    def look_through(self, path: Path, release: str | None = None) -> Given:
        """See `given.look_through`."""
        return look_through(path, release, self._profile, self._driver.store)

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
            if request is not None:
                log.info("asked to install", extra={"path": str(request.path)})
                self.install(self.look_through(request.path, request.release))
        except EdgeError as reason:
            self._failed("bundle", reason)

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
        self._event("install-failed", str(reason))
