"""A real web server on loopback, with or without TLS, that can be told to misbehave."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import itertools
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Identity:
    """PEM files: an authority, and a certificate with its key that the authority signed."""

    ca: Path
    cert: Path
    key: Path


def make_identity(folder: Path, name: str = "127.0.0.1", *, expired: bool = False) -> Identity:
    """A server that is called `name`, an IP address or a host, by an authority of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    until = now - day if expired else now + day
    called: x509.GeneralName = x509.DNSName(name)
    with suppress(ValueError):
        called = x509.IPAddress(ipaddress.ip_address(name))
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {name}")])

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 10 * day)
            .not_valid_after(until)
        )

    # From Python 3.13 on a chain without key identifiers and key usage is not accepted.
    ca = (
        builder(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False)
        .sign(ca_key, hashes.SHA256())
    )
    cert = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        .add_extension(x509.SubjectAlternativeName([called]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False
        )
        .sign(ca_key, hashes.SHA256())
    )
    identity = Identity(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    identity.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    identity.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    identity.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return identity


class Exchange(http.server.BaseHTTPRequestHandler):
    """One connection. What a test puts under a path may call anything of it."""

    protocol_version = "HTTP/1.1"
    web: WebServer

    def setup(self) -> None:
        super().setup()
        self.number = next(self.web.numbers)

    def do_GET(self) -> None:
        web = self.web
        with web.lock:
            web.requests.append(self.path)
            web.headers.append({name.lower(): value for name, value in self.headers.items()})
            web.served.append(self.number)
        if self.path in web.faults:
            web.faults[self.path](self)
        elif self.path in web.files:
            self.answer(200, web.files[self.path])
        else:
            self.answer(404, b"there is nothing\n")

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        """A whole answer, in one write."""
        lines = {"Content-Length": str(len(body)), **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
        self.raw(f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + body)

    def raw(self, data: bytes) -> None:
        """These bytes, as they are."""
        self.connection.sendall(data)

    def hang_up(self) -> None:
        """End the connection after this."""
        self.close_connection = True

    def reset(self) -> None:
        """End it now, without a goodbye."""
        self.close_connection = True
        linger = b"\x01\0\0\0\0\0\0\0"
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def drip(self, data: bytes, every_s: float) -> None:
        """A byte at a time, until all of `data` is out, the client leaves or the test ends."""
        for byte in data:
            with suppress(OSError):
                self.raw(bytes([byte]))
                if not self.web.over.wait(every_s):
                    continue
            break
        self.close_connection = True

    def handle(self) -> None:
        with suppress(OSError):  # The client is gone.
            super().handle()

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    context: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """On the connection's own thread, so that one bad handshake holds nobody else."""
        if self.context is not None:
            request.settimeout(10.0)
            try:
                request = self.context.wrap_socket(request, server_side=True)
            except OSError:
                return
            request.settimeout(None)
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with suppress(OSError):
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class WebServer:
    """Serves `files` by their path, byte for byte, but for the paths in `faults`."""

    def __init__(self, identity: Identity | None = None, *, ask_client: bool = False) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, Callable[[Exchange], None]] = {}
        self.lock = threading.Lock()
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.served: list[int] = []  # By which connection, for every request.
        self.numbers = itertools.count()
        self.over = threading.Event()
        handler = type("Bound", (Exchange,), {"web": self})
        self._server = _Server(("127.0.0.1", 0), cast(Any, handler))
        self.tls = identity is not None
        if identity is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(identity.cert, identity.key)
            if ask_client:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(identity.ca)
            self._server.context = context
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def context(self) -> ssl.SSLContext:
        """Of the server's side of TLS."""
        if self._server.context is None:
            raise RuntimeError("a server without TLS")
        return self._server.context

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Of its root, by IP address."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many of them brought a request."""
        return len(set(self.served))

    def __enter__(self) -> WebServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Listen no more; connections end when their client or their fault does."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
