"""Where boards find the enrolment server, and the key by which they know it.

Owns `server.key`, `server.pem` and `server.json` of the home's `enrollment/`. Tokens hold the
SHA-256 of the public key, so the key is made once and stays; its certificate says nothing that a
board believes and is made anew at each start. The addresses are remembered because tokens are made
by another command than the one that listens.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from edge_runtime.bundle.durable import replace
from edge_runtime.errors import InputError
from edge_runtime.fields import Fields, decode_json, encode_json
from edge_runtime.fleet.certificates import (
    VALID,
    Key,
    Role,
    alternative_names,
    key_pem,
    new_key,
    pem,
    read_key,
    self_signed,
)
from edge_runtime.fleet.home import Home, make_secret_folder, write_secret
from edge_runtime.fleet.issued import utc
from edge_runtime.messages.enrollment import DEFAULT_PORT, MAX_ADDRESSES, Address

log = logging.getLogger(__name__)

FORMAT = 1
MAX_FILE_BYTES = 64 << 10
EVERYWHERE = ("0.0.0.0", "::")
SOMEWHERE = "192.0.2.1"
"""An address that no machine has (RFC 5737): the way there is asked for, nothing is sent."""


@dataclass(frozen=True, slots=True)
class Place:
    """An enrolment server: `pin_sha256` is of its public key, as SPKI in DER."""

    addresses: tuple[Address, ...]
    pin_sha256: str

    @property
    def curl_pin(self) -> str:
        """As curl's --pinnedpubkey takes it."""
        return "sha256//" + base64.b64encode(bytes.fromhex(self.pin_sha256)).decode()


def place(home: Home, given: Sequence[Address] = ()) -> Place:
    """The server of this home, for tokens. Its key is made where there is none.

    The caller holds the home.

    Args:
        given: where it is; none: where it was last, or else what this machine seems to be called
            by others.

    Raises:
        InputError: the key, or what is remembered, cannot be read.
        DeviceError: the home cannot be written.
    """
    addresses = tuple(dict.fromkeys(given)) or _remembered(home)[0] or _guessed(DEFAULT_PORT)
    return Place(addresses, _pin(_key(home)))


def take_place(home: Home, given: Sequence[Address], listen: Address) -> Place:
    """The same for the server itself, whose place is remembered for tokens. The caller holds it.

    Warns where it is remembered at another port than the one that it listens on.

    Args:
        given: how boards reach it, as a person said; none: as a person said last, or else the
            address that it listens on, or what this machine seems to be called.

    Raises:
        InputError, DeviceError: as `place`.
    """
    addresses, said = tuple(dict.fromkeys(given)), True
    if not addresses:
        addresses, said = _remembered(home)
    if not said or not addresses:
        everywhere = listen.host in EVERYWHERE
        addresses, said = _guessed(listen.port) if everywhere else (listen,), False
    elif not given and (elsewhere := [one for one in addresses if one.port != listen.port]):
        log.warning(
            "boards are told %s, as --host said last time, but this listens on port %d; say --host "
            "again, unless that port leads here",
            ", ".join(map(str, elsewhere)), listen.port,
        )  # fmt: skip
    make_secret_folder(home.enrollment)
    texts = [str(address) for address in addresses]
    value = {"format": FORMAT, "addresses": texts, "said": said}
    replace(home.enrollment / "server.json", encode_json(value))
    return Place(addresses, _pin(_key(home)))


def _remembered(home: Home) -> tuple[tuple[Address, ...], bool]:
    """Where the server was last, and whether a person said so. Raises InputError."""
    path = home.enrollment / "server.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return (), False
    except OSError as reason:
        raise InputError(f"{path}: cannot be read ({reason.strerror})") from None
    value = decode_json(data, max_bytes=MAX_FILE_BYTES, where=str(path), error=InputError)
    f = Fields(value, str(path), InputError)
    texts = f.texts("addresses", max_items=MAX_ADDRESSES, max_len=300)
    return tuple(map(Address.parse, texts)), f.boolean("said", False)


def certificate_files(
    home: Home, addresses: Sequence[Address], now: datetime | None = None
) -> tuple[Path, Path]:
    """A fresh certificate, and the key, for a TLS server. The caller holds the home.

    Raises:
        InputError: an address is no host's, or the key cannot be read.
        DeviceError: the home cannot be written.
    """
    key = _key(home)
    names = alternative_names(Role.BROKER, "", [address.host for address in addresses])
    certificate = self_signed(key, "edge fleet enrolment", names, utc(now) + VALID[Role.BROKER])
    replace(home.enrollment / "server.pem", pem(certificate))
    return home.enrollment / "server.pem", home.enrollment / "server.key"


def _key(home: Home) -> Key:
    path = home.enrollment / "server.key"
    try:
        return read_key(path.read_bytes(), None, str(path))
    except FileNotFoundError:
        pass
    except OSError as reason:
        raise InputError(f"{path}: cannot be read ({reason.strerror})") from None
    make_secret_folder(home.enrollment)
    key = new_key()
    write_secret(path, key_pem(key))
    return key


def _pin(key: Key) -> str:
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def _guessed(port: int) -> tuple[Address, ...]:
    """This machine's address on the way out, then its name."""
    found: list[Address] = []
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
    ):
        probe.connect((SOMEWHERE, 9))
        host = probe.getsockname()[0]
        if not ipaddress.ip_address(host).is_loopback:
            found.append(Address(host, port))
    name = socket.getfqdn()
    if name and not name.startswith("localhost"):
        with contextlib.suppress(InputError):
            found.append(Address.parse(name, port))
    return tuple(found) or (Address("127.0.0.1", port),)
