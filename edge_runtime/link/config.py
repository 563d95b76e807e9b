"""Where the broker is and how to prove who we are: one frozen value, valid by construction.

`BrokerConfig.parse` is the way to make one from text that a person wrote. It reads the secret
from its file, reports every fault in one go, and never turns a security option that lacks what it
needs into a weaker connection. No message and no `repr` holds the password.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from edge_runtime.errors import InputError

PORTS = {"mqtt": 1883, "mqtts": 8883}
VERSIONS = ("auto", "5", "3.1.1")
MAX_SECRET_BYTES = 4096


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """One broker.

    `version` "auto" tries MQTT 5 and falls back to 3.1.1 where the broker refuses it.
    `max_payload_bytes` bounds what is accepted from the broker, `max_outbound_*` what waits for
    it, `max_in_flight` how many publishes may await their acknowledgement.
    """

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    version: str = "auto"
    keepalive_s: int = 30
    connect_timeout_s: float = 10.0
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 60.0
    max_payload_bytes: int = 1 << 20
    max_outbound_messages: int = 1000
    max_outbound_bytes: int = 8 << 20
    max_in_flight: int = 32

    @property
    def address(self) -> str:
        """`host:port`, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        username: str | None = None,
        password_file: Path | None = None,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        version: str = "auto",
    ) -> BrokerConfig:
        """From `mqtt[s]://[user[:password]@]host[:port]` and the options of a configuration.

        Raises:
            InputError: everything that is wrong, in one message.
        """
        faults: list[str] = []
        parts = _split(url.strip(), faults)
        user, password = _credentials(parts, username, password_file, faults)
        # As the scheme was read: MQTTS:// is the same, and never less.
        tls = parts.scheme == "mqtts"
        _check_tls(tls, ca_file, cert_file, key_file, faults)
        if version not in VERSIONS:
            faults.append(f"version is {version!r}, expected one of {', '.join(VERSIONS)}")
        if faults:
            raise InputError(f"broker: {'; '.join(faults)}")
        return cls(
            host=parts.hostname or "",
            port=parts.port or PORTS[parts.scheme],
            tls=tls,
            username=user,
            password=password,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            version=version,
        )

    def tls_context(self) -> ssl.SSLContext:
        """Verifies the broker's certificate and name; TLS 1.2 or later.

        Raises:
            InputError: a file is not what it should be.
        """
        return client_context(self.ca_file, self.cert_file, self.key_file)


def _split(url: str, faults: list[str]) -> SplitResult:
    """The URL's parts; what is wrong goes to `faults`, without quoting what may be a password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as reason:
        faults.append(f"URL is malformed ({'port' if 'ort' in str(reason) else 'host'})")
        return urlsplit("")
    if parts.scheme not in PORTS:
        faults.append(f"URL starts with {parts.scheme or 'no scheme'!r}, expected mqtt or mqtts")
    if not parts.hostname:
        faults.append("URL names no host")
    if parts.port == 0:
        faults.append("port is 0, expected 1..65535")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        faults.append("URL has something after host and port; topics have their own prefix option")
    return parts


def _credentials(
    parts: SplitResult, username: str | None, password_file: Path | None, faults: list[str]
) -> tuple[str | None, str | None]:
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    if username is not None and user is not None:
        faults.append("user name is given twice, in the URL and as an option")
    user = user or username
    if password_file is not None:
        if password is not None:
            faults.append("password is given twice, in the URL and as a file")
        password = _read_secret(password_file, faults)
    if password is not None and not user:
        faults.append("a password is given but no user name")
    return user, password


def _read_secret(path: Path, faults: list[str]) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
        secret = data.decode("utf-8").rstrip("\r\n")
    except OSError as reason:
        faults.append(f"password file {path}: {reason.strerror}")
        return None
    except UnicodeDecodeError:
        faults.append(f"password file {path}: not UTF-8 text")
        return None
    if not secret or len(data) > MAX_SECRET_BYTES:
        faults.append(f"password file {path}: {len(data)} bytes, expected 1..{MAX_SECRET_BYTES}")
    return secret


def _check_tls(
    tls: bool,
    ca_file: Path | None,
    cert_file: Path | None,
    key_file: Path | None,
    faults: list[str],
) -> None:
    given = {"CA": ca_file, "certificate": cert_file, "key": key_file}
    named = [name for name, path in given.items() if path is not None]
    if named and not tls:
        faults.append(f"{' and '.join(named)} given, but only a mqtts:// URL is encrypted")
    if (cert_file is None) != (key_file is None):
        have, lack = ("certificate", "key") if cert_file else ("key", "certificate")
        faults.append(f"a client {have} is given without its {lack}")
    missing = [
        f"{name} file {path} does not exist"
        for name, path in given.items()
        if path is not None and not path.is_file()
    ]
    faults += missing
    if tls and not missing and (cert_file is None) == (key_file is None):
        try:
            client_context(ca_file, cert_file, key_file)
        except InputError as error:
            faults.append(str(error))


def client_context(
    ca_file: Path | None, cert_file: Path | None, key_file: Path | None
) -> ssl.SSLContext:
    """Verifies a server's certificate and name; TLS 1.2 or later.

    Raises:
        InputError: a file is not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (ssl.SSLError, OSError) as reason:
        raise InputError(f"CA file {ca_file}: not usable ({_why(reason)})") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert_file is not None:
        try:
            # A key that wants a passphrase would prompt; an empty one makes that an error.
            context.load_cert_chain(cert_file, key_file, password=lambda: "")
        except (ssl.SSLError, OSError, ValueError) as reason:
            raise InputError(
                f"certificate {cert_file} with key {key_file}: not usable ({_why(reason)})"
            ) from None
    return context


def _why(reason: Exception) -> str:
    return getattr(reason, "reason", None) or getattr(reason, "strerror", None) or str(reason)
