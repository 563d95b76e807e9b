"""An enrolment server for tests: the real one, over TLS on loopback, of a real fleet home."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.fleet.enrollment.place import Place, certificate_files, take_place
from edge_runtime.fleet.enrollment.script import Packages
from edge_runtime.fleet.enrollment.server import EnrollmentServer, Happening, Limits
from edge_runtime.fleet.enrollment.tokens import Tokens
from edge_runtime.fleet.home import Home
from edge_runtime.messages.enrollment import Address, Token
from tests.fakes.brokers import free_port

PROFILE = "generic-x86_64"


@dataclass
class Enrolling:
    """A server that runs, and what it told."""

    home: Home
    place: Place
    server: EnrollmentServer
    told: list[Happening] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://{self.place.addresses[0]}"

    def token(self, device: str = "press-7", profile: str = PROFILE, **more: object) -> Token:
        with self.home.hold():
            return Tokens(self.home).make(device, profile, self.place, **more)[0]  # type: ignore[arg-type]


@contextlib.contextmanager
def enrolling(
    home: Home,
    *,
    passphrase: str | None = None,
    packages: Path | None = None,
    limits: Limits | None = None,
    host: str = "127.0.0.1",
) -> Iterator[Enrolling]:
    """Serve boards while the block runs; it must end well, whatever they did.

    `host` is how boards reach it; on another address than loopback's it listens everywhere.
    """
    address = Address(host, free_port())
    listen = host if host == "127.0.0.1" else "0.0.0.0"
    place = take_place(home, [address], address)
    told: list[Happening] = []
    server = EnrollmentServer(
        home,
        passphrase,
        (listen, address.port),
        place,
        certificate_files(home, place.addresses),
        Packages(packages),
        told.append,
        limits,
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield Enrolling(home, place, server, told)
        assert thread.is_alive(), "no client stops the server"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
