"""The broker: is it found, does it answer, does it prove who it is, does it take our certificate.

No MQTT is spoken: whoever connects under this device's name throws the agent that runs out.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from edge_runtime.agent.doctor.finding import Finding, obstacle, ok, unknown, warning
from edge_runtime.agent.doctor.scene import Scene
from edge_runtime.errors import InputError
from edge_runtime.link import BrokerConfig
from edge_runtime.text import plain

CONNECT_S = 1.0
REFUSAL_S = 0.2
"""TLS 1.3 tells of a client certificate that it does not take only after the handshake."""


def broker(scene: Scene) -> Iterator[Finding]:
    """Address, connection and encryption, as far as each leads to the next."""
    if scene.config is None:
        return
    b = scene.config.broker
    if b is None:
        yield ok("broker.address", "none configured: nobody to report to, no updates from afar")
        return
    if scene.offline:
        yield ok("broker.address", f"{b.address}, not contacted")
        return
    try:
        found = socket.getaddrinfo(b.host, b.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as reason:
        yield obstacle(
            "broker.address",
            f"{b.host} has no address ({_why(reason)})",
            "correct url of [broker], or look into the network and its name server: getent hosts "
            f"{plain(b.host)}",
        )
        return
    addresses = list(dict.fromkeys(str(where[4][0]) for where in found))
    where = "" if b.host in addresses else f", at {', '.join(addresses)}"
    yield ok("broker.address", f"{b.address}{where}", values={"addresses": addresses})
    try:
        connection = socket.create_connection((b.host, b.port), CONNECT_S)
    except OSError as reason:
        yield obstacle(
            "broker.connection",
            f"{b.address} cannot be connected to ({_why(reason)})",
            "is the broker running, and does a firewall let port "
            f"{b.port} through? --offline leaves this out",
        )
        return
    with connection:
        yield ok("broker.connection", f"{b.address} answers")
        yield from _encryption(b, addresses, connection)


def _encryption(
    b: BrokerConfig, addresses: list[str], connection: socket.socket
) -> Iterator[Finding]:
    if not b.tls:
        near = all(ipaddress.ip_address(a.partition("%")[0]).is_loopback for a in addresses)
        if near:
            yield ok("broker.encryption", "none; the broker is on this machine")
        else:
            yield warning(
                "broker.encryption",
                "none: whoever is on the way reads and changes everything",
                "use mqtts:// with certificates, as docs/broker.md shows",
            )
        return
    try:
        context = b.tls_context()
        with context.wrap_socket(connection, server_hostname=b.host) as wrapped:
            version, subject = wrapped.version() or "TLS", _name(wrapped)
            wrapped.settimeout(REFUSAL_S)
            with suppress(TimeoutError):
                if not wrapped.recv(1):
                    yield obstacle(
                        "broker.encryption",
                        "the broker ends the connection after the handshake",
                        "look into the broker's log; it may not take this device's certificate",
                    )
                    return
    except ssl.SSLCertVerificationError as reason:
        yield obstacle(
            "broker.encryption",
            f"the broker's certificate is not to be trusted: {plain(reason.verify_message)}",
            "ca of [broker] must be the authority that signed it, the host in url one of its "
            "names, and this machine's clock right",
        )
    except ssl.SSLError as reason:
        yield obstacle(
            "broker.encryption",
            f"the broker refuses: {_why(reason)}",
            "enroll this device anew if its certificate was revoked or has expired "
            "(edge-fleet enroll); is the port one for TLS?",
        )
    except (OSError, InputError) as reason:
        yield unknown("broker.encryption", f"the handshake did not end ({_why(reason)})")
    else:
        yield ok(
            "broker.encryption", f"{version}, the broker is {subject}", values={"version": version}
        )


def _name(connection: ssl.SSLSocket) -> str:
    """The common name in the broker's certificate."""
    found: Any = connection.getpeercert() or {}
    for part in found.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return plain(str(value))
    return "certified"


def _why(reason: Exception) -> str:
    told = getattr(reason, "reason", None) or getattr(reason, "strerror", None) or str(reason)
    return plain(str(told)) or type(reason).__name__
