"""The enrolment server: HTTPS for boards that are being set up, while somebody sets them up.

It says no more than it must: a script and packages to whoever asks, an identity to whoever brings a
good token. Whoever connects is a stranger, so everything is bounded: connections in all and of one
address, the seconds that one may take (also where every byte comes in time), the bytes that it may
send, downloads at a time, and wrong tokens of one address. What goes wrong with one connection ends
that one.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseServer, TCPServer, ThreadingMixIn
from typing import Any, BinaryIO

from edge_runtime.errors import EdgeError, IncompatibleError, InputError, UntrustedError
from edge_runtime.fleet.enrollment.place import Place
from edge_runtime.fleet.enrollment.redeem import key_digest, redeem
from edge_runtime.fleet.enrollment.script import Packages, script
from edge_runtime.fleet.home import Home
from edge_runtime.messages.enrollment import (
    ENROLL_PATH,
    MAX_REQUEST_BYTES,
    PACKAGES_PATH,
    SCRIPT_PATH,
    EnrollRequest,
    refusal_bytes,
)
from edge_runtime.text import plain

log = logging.getLogger(__name__)

ASK_THE_OPERATOR = "this fleet cannot enrol the board now; the operator's enroll-server says why"
BUSY = "this fleet is busy with something else; try again"
MAX_ADDRESSES = 4096
COPY_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Limits:
    """What strangers may cost. `failures` wrong tokens of one address are answered a minute."""

    connections: int = 64
    per_address: int = 16
    downloads: int = 24
    silence_s: float = 10.0
    request_s: float = 20.0
    download_s: float = 900.0
    failures: int = 10


@dataclass(frozen=True, slots=True)
class Happening:
    """Something for the operator's eyes: a board that was enrolled, or one that was refused.

    `crl`: the revocation list that the broker needs, where the device had another certificate.
    """

    device: str
    address: str
    refused: str = ""
    again: bool = False
    agent_version: str = ""
    arch: str = ""
    python: str = ""
    crl: str = ""


class Failures:
    """How many wrong tokens an address may still bring; it gets one more after every few seconds.

    An IPv6 client owns a whole /64. Of very many addresses the oldest are forgotten.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = float(per_minute)
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def allowed(self, address: str) -> bool:
        """Whether one more may be tried."""
        with self._lock:
            return self._now(address) >= 1.0

    def spend(self, address: str) -> None:
        """One was wrong."""
        with self._lock:
            left = self._now(address) - 1.0
            self._left.pop(network(address), None)
            self._left[network(address)] = (left, self._clock())
            while len(self._left) > MAX_ADDRESSES:
                del self._left[next(iter(self._left))]

    def _now(self, address: str) -> float:
        left, when_s = self._left.get(network(address), (self._most, 0.0))
        return min(self._most, left + (self._clock() - when_s) * self._most / 60.0)


def network(address: str) -> str:
    """Whom an address belongs to: itself, or the /64 that it is in."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


class EnrollmentServer(ThreadingMixIn, TCPServer):
    """Listens from the start; `serve_forever` serves, `shutdown` from another thread ends that.

    Args:
        certificate: files of certificate and key, as of `place.certificate_files`.
        passphrase: opens the authority's key.
        on: told of each board, on the thread of its connection.

    Raises:
        InputError: the address cannot be listened on.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        home: Home,
        passphrase: str | None,
        listen: tuple[str, int],
        place: Place,
        certificate: tuple[Path, Path],
        packages: Packages,
        on: Callable[[Happening], None],
        limits: Limits | None = None,
    ) -> None:
        self.home = home
        self.passphrase = passphrase
        self.place = place
        self.packages = packages
        self.on = on
        self.limits = limits or Limits()
        self.failures = Failures(self.limits.failures)
        self.downloads = threading.BoundedSemaphore(self.limits.downloads)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_cert_chain(*certificate)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, tuple[str, float]] = {}
        if ":" in listen[0]:
            self.address_family = socket.AF_INET6
        try:
            super().__init__(listen, Handler)
        except (OSError, OverflowError) as reason:
            why = getattr(reason, "strerror", None) or str(reason)
            raise InputError(
                f"listen {listen[0]} port {listen[1]}: cannot be used ({why})"
            ) from None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, Any]:
        """The handshake waits for the connection's own thread: a stranger may take his time."""
        raw, address = super().get_request()
        raw.settimeout(self.limits.silence_s)
        try:
            tls = self._context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        except BaseException:
            raw.close()
            raise
        return tls, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more."""
        who = network(client_address[0])
        with self._lock:
            same = sum(1 for other, _ in self._open.values() if other == who)
            if len(self._open) >= self.limits.connections or same >= self.limits.per_address:
                return False
            self._open[request] = (who, time.monotonic() + self.limits.request_s)
        return True

    def extend(self, request: socket.socket, seconds: float) -> None:
        """What is under way may take so long from now."""
        with self._lock:
            if request in self._open:
                self._open[request] = (self._open[request][0], time.monotonic() + seconds)

    def service_actions(self) -> None:
        """Cut off whoever takes too long: a byte now and then keeps each read from timing out."""
        now_s = time.monotonic()
        with self._lock:
            late = [request for request, (_, end_s) in self._open.items() if now_s > end_s]
        for request in late:
            with contextlib.suppress(OSError):
                # Of the socket under TLS: the connection's own thread is at work on the rest.
                socket.socket.shutdown(request, socket.SHUT_RDWR)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """On the connection's own thread."""
        request.do_handshake()
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The connection is over, however it ended."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that failed is its owner's matter; a fault of ours is told."""
        reason = sys.exc_info()[1]
        if isinstance(reason, OSError):  # SSLError and timeouts among it
            log.debug("connection of %s: %s", client_address[0], reason)
        else:
            log.error(
                "connection of %s: a fault of this server's (%r); please report it",
                client_address[0],
                reason,
                exc_info=reason,
            )


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: EnrollmentServer
    protocol_version = "HTTP/1.0"
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(message)s\n"

    def __init__(self, request: Any, client_address: Any, server: BaseServer) -> None:
        assert isinstance(server, EnrollmentServer)
        super().__init__(request, client_address, server)

    def version_string(self) -> str:
        return "edge-fleet"

    def log_message(self, format: str, *arguments: object) -> None:
        log.debug("%s: %s", self.client_address[0], plain(format % arguments))

    def do_GET(self) -> None:
        """The script, or a package that it names."""
        if self.path == SCRIPT_PATH:
            text = script(self._asked(), self.server.place, self.server.packages)
            self._send(HTTPStatus.OK, text.encode(), "text/x-shellscript; charset=utf-8")
        elif self.path.startswith(PACKAGES_PATH):
            self._package(self.path[len(PACKAGES_PATH) :])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")

    def do_POST(self) -> None:
        """An identity for a token."""
        if self.path != ENROLL_PATH:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")
            return
        where = self.client_address[0]
        if not self.server.failures.allowed(where):
            self._refuse(
                HTTPStatus.TOO_MANY_REQUESTS, "too many wrong tokens came from there; wait a minute"
            )
            return
        data = self._body()
        if data is None:
            return
        try:
            request = EnrollRequest.from_bytes(data)
            key_digest(request.csr)
        except (InputError, IncompatibleError) as reason:
            self._refuse(HTTPStatus.BAD_REQUEST, str(reason))
            return
        status, body, happening = self._redeemed(request)
        if status == HTTPStatus.FORBIDDEN:
            self.server.failures.spend(where)
        self.server.on(happening)
        self._send(status, body, "application/json")

    def _redeemed(self, request: EnrollRequest) -> tuple[HTTPStatus, bytes, Happening]:
        where = self.client_address[0]
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.server.home.hold(self.server.limits.silence_s / 2))
            except EdgeError as reason:
                told = Happening(request.device, where, str(reason))
                return HTTPStatus.SERVICE_UNAVAILABLE, refusal_bytes(BUSY), told
            try:
                done = redeem(self.server.home, request, self.server.passphrase)
            except UntrustedError as reason:
                told = Happening(request.device, where, str(reason))
                return HTTPStatus.FORBIDDEN, refusal_bytes(str(reason)), told
            except InputError as reason:
                # Our own files are named in it: nothing for the other side.
                told = Happening(request.device, where, str(reason))
                return HTTPStatus.CONFLICT, refusal_bytes(ASK_THE_OPERATOR), told
            except EdgeError as reason:
                told = Happening(request.device, where, str(reason))
                return HTTPStatus.SERVICE_UNAVAILABLE, refusal_bytes(BUSY), told
        told = Happening(
            request.device, where, "", done.again, request.agent_version, request.arch,
            request.python, str(done.crl or ""),
        )  # fmt: skip
        return HTTPStatus.OK, done.answer.to_bytes(), told

    def _body(self) -> bytes | None:
        """What was posted; None: it was refused."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or len(length) > 9:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
            return None
        if int(length) > MAX_REQUEST_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{length} bytes, at most {MAX_REQUEST_BYTES} are accepted",
            )
            return None
        data = self.rfile.read(int(length))
        return data if len(data) == int(length) else None

    def _package(self, name: str) -> None:
        found = self.server.packages.find(name)
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such package")
            return
        if not self.server.downloads.acquire(blocking=False):
            self._refuse(
                HTTPStatus.SERVICE_UNAVAILABLE, "too many downloads at a time; try again",
                {"Retry-After": "5"},
            )  # fmt: skip
            return
        try:
            try:
                file = open(found.path, "rb")  # noqa: SIM115 - closed below
            except OSError:
                self._refuse(HTTPStatus.NOT_FOUND, "there is no such package any more")
                return
            with file:
                self.server.extend(self.request, self.server.limits.download_s)
                self._stream(file, found.size_bytes)
        finally:
            self.server.downloads.release()

    def _stream(self, file: BinaryIO, size_bytes: int) -> None:
        self._head(HTTPStatus.OK, size_bytes, "application/vnd.debian.binary-package")
        left = size_bytes
        while left > 0 and (piece := file.read(min(COPY_BYTES, left))):
            self.wfile.write(piece)
            left -= len(piece)

    def _asked(self) -> str:
        """What the board calls us, if that can be a name."""
        return self.headers.get("Host", "")

    def _refuse(
        self, status: HTTPStatus, reason: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._send(status, refusal_bytes(reason), "application/json", headers)

    def _send(
        self,
        status: HTTPStatus,
        body: bytes,
        kind: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._head(status, len(body), kind, headers)
        self.wfile.write(body)

    def _head(
        self,
        status: HTTPStatus,
        size_bytes: int,
        kind: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size_bytes))
        self.send_header("Cache-Control", "no-store")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
