"""Enrolment by a one-time token: the token's text, and what board and server say to each other.

The token carries all that a board needs to trust the server: where it is, the SHA-256 of its public
key, and a secret that is good once. It travels by a person's clipboard, so it is one word of
letters, digits, '-' and '_', and a checksum tells a token that was cut from one that is refused.

The exchange is one JSON object each way, over a connection whose key was held to the token's pin.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field

from edge_runtime.bundle.manifest import NAME
from edge_runtime.errors import EdgeError, IncompatibleError, InputError, UntrustedError
from edge_runtime.fields import Fields, Json, decode_json, encode_json
from edge_runtime.messages.topics import DEVICE_ID

FORMAT = 1
TOKEN_HEAD = "edge1_"
"""Its number is the token's format: another one begins otherwise."""
MAX_TOKEN = 4096
MAX_ADDRESSES = 16
SECRET_BYTES = 32
CHECK_BYTES = 4
DEFAULT_PORT = 8444

ENROLL_PATH = "/v1/enroll"
SCRIPT_PATH = "/v1/setup.sh"
PACKAGES_PATH = "/v1/packages/"

MAX_REQUEST_BYTES = 32 << 10
MAX_ANSWER_BYTES = 4 << 20
MAX_CSR = 8 << 10
MAX_PEM = 64 << 10
MAX_ROOT = 1 << 20
MAX_CONFIG = 64 << 10
MAX_PROFILE = 256 << 10

_HOST = r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]{2,45}\]"
_SHA256 = r"[0-9a-f]{64}"
_SECRET = r"[A-Za-z0-9_-]{43}"


@dataclass(frozen=True, slots=True)
class Address:
    """Where an enrolment server is; an IPv6 host without its brackets."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, default_port: int = DEFAULT_PORT) -> Address:
        """From `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`. Raises InputError."""
        match = re.fullmatch(rf"({_HOST})(?::([0-9]{{1,5}}))?", text)
        port = int(match[3]) if match and match[3] else default_port
        if match is None or not 1 <= port <= 65535:
            raise InputError(
                f"address {text[:300]!r}: expected HOST or HOST:PORT, such as fleet.example:8444; "
                "an IPv6 address in [brackets]"
            )
        return cls(match[1].strip("[]"), port)


@dataclass(frozen=True, slots=True)
class Token:
    """What a board is handed. `pin_sha256` is of the server's public key, as SPKI in DER."""

    device: str
    addresses: tuple[Address, ...]
    pin_sha256: str
    secret: str = field(repr=False)

    @property
    def sha256(self) -> str:
        """Names this token without giving it away."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def text(self) -> str:
        """One word, for a command line."""
        value: Json = {
            "device": self.device,
            "addresses": [str(address) for address in self.addresses],
            "pin": self.pin_sha256,
            "secret": self.secret,
        }
        body = encode_json(value).strip()
        check = hashlib.sha256(body).digest()[:CHECK_BYTES]
        return TOKEN_HEAD + base64.urlsafe_b64encode(check + body).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Token:
        """Of what a person pasted.

        Raises:
            InputError: it is no token, was cut or mistyped.
            IncompatibleError: it is one of another format.
        """
        text = text.strip()
        if len(text) > MAX_TOKEN:
            raise InputError(f"token: {len(text)} characters, at most {MAX_TOKEN} are accepted")
        if not text.startswith(TOKEN_HEAD):
            if re.match(r"edge[0-9]{1,4}_", text):
                raise IncompatibleError(
                    f"token: begins with {text.partition('_')[0]}_, this software reads "
                    f"{TOKEN_HEAD}; install a newer edge-agent, or let edge-fleet of this release "
                    "make the token"
                )
            raise InputError(
                f"token: does not begin with {TOKEN_HEAD}; paste the word that `edge-fleet token` "
                "printed"
            )
        body = _unpacked(text[len(TOKEN_HEAD) :])
        f = Fields(
            decode_json(body, max_bytes=MAX_TOKEN, where="token", error=InputError),
            "token",
            InputError,
        )
        addresses = f.texts("addresses", max_items=MAX_ADDRESSES, max_len=300)
        if not addresses:
            raise InputError("token: names no address of a server")
        return cls(
            device=f.text("device", pattern=DEVICE_ID),
            addresses=tuple(map(Address.parse, addresses)),
            pin_sha256=f.text("pin", pattern=_SHA256),
            secret=_secret(f, "token"),
        )


def _unpacked(text: str) -> bytes:
    """The object inside. Raises InputError."""
    cut = InputError("token: was cut or mistyped; paste it whole, as `edge-fleet token` printed it")
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        raise cut
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise cut from None
    check, body = data[:CHECK_BYTES], data[CHECK_BYTES:]
    if hashlib.sha256(body).digest()[:CHECK_BYTES] != check:
        raise cut
    return body


def _secret(f: Fields, where: str) -> str:
    """The secret, which no message may quote. Raises the fields' error."""
    found = f.text("secret", max_len=1 << 16)
    if not re.fullmatch(_SECRET, found):
        f.fault(f"{where}: secret has {len(found)} characters, expected 43 of base64url")
    return found


@dataclass(frozen=True, slots=True)
class EnrollRequest:
    """A board's: its token's secret, and a certificate request signed by the key that it made.

    `agent_version`, `arch` and `python` are for the operator's eyes.
    """

    device: str
    secret: str = field(repr=False)
    csr: str
    agent_version: str = ""
    arch: str = ""
    python: str = ""

    def to_bytes(self) -> bytes:
        """The body of a POST."""
        return encode_json(
            {
                "format": FORMAT,
                "device": self.device,
                "secret": self.secret,
                "csr": self.csr,
                "agent_version": self.agent_version,
                "arch": self.arch,
                "python": self.python,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> EnrollRequest:
        """On the server.

        Raises:
            InputError: too large or malformed.
            IncompatibleError: another format.
        """
        f = _open(data, "enrolment request", MAX_REQUEST_BYTES, InputError)
        return cls(
            device=f.text("device", pattern=DEVICE_ID),
            secret=_secret(f, "enrolment request"),
            csr=f.text("csr", max_len=MAX_CSR),
            agent_version=f.text("agent_version", "", max_len=64),
            arch=f.text("arch", "", max_len=64),
            python=f.text("python", "", max_len=64),
        )


@dataclass(frozen=True, slots=True)
class OwnProfile:
    """A board's profile that does not ship: the file that agent.toml names, and its content."""

    file: str
    text: str


@dataclass(frozen=True, slots=True)
class EnrollAnswer:
    """The server's: the files of the identity, all but the key, each as text."""

    device: str
    certificate: str
    ca: str
    root: str
    config: str
    profile: OwnProfile | None = None

    def to_bytes(self) -> bytes:
        """The body of the answer."""
        own: Json = None
        if self.profile is not None:
            own = {"file": self.profile.file, "text": self.profile.text}
        return encode_json(
            {
                "format": FORMAT,
                "device": self.device,
                "certificate": self.certificate,
                "ca": self.ca,
                "root": self.root,
                "config": self.config,
                "profile": own,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> EnrollAnswer:
        """On the board.

        Raises:
            UntrustedError: too large or malformed.
            IncompatibleError: another format.
        """
        f = _open(data, "enrolment answer", MAX_ANSWER_BYTES, UntrustedError)
        own: OwnProfile | None = None
        if f.present("profile"):
            p = f.object("profile")
            own = OwnProfile(
                p.text("file", pattern=rf"{NAME}\.toml"), p.text("text", max_len=MAX_PROFILE)
            )
        return cls(
            device=f.text("device", pattern=DEVICE_ID),
            certificate=f.text("certificate", max_len=MAX_PEM),
            ca=f.text("ca", max_len=MAX_PEM),
            root=f.text("root", max_len=MAX_ROOT),
            config=f.text("config", max_len=MAX_CONFIG),
            profile=own,
        )


def refusal_bytes(reason: str) -> bytes:
    """An answer that says no."""
    return encode_json({"format": FORMAT, "error": reason})


def refusal_of(data: bytes) -> str:
    """The sentence in an answer that says no; empty where there is none."""
    try:
        return _open(data, "refusal", MAX_REQUEST_BYTES, UntrustedError).sentence("error", "")
    except EdgeError:
        return ""


def _open(data: bytes, where: str, max_bytes: int, error: type[EdgeError]) -> Fields:
    f = Fields(decode_json(data, max_bytes=max_bytes, where=where, error=error), where, error)
    found = f.integer("format", FORMAT)
    if found != FORMAT:
        raise IncompatibleError(f"{where}: format {found}, this software reads {FORMAT}")
    return f
