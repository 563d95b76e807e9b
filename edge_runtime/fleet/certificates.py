"""Certificates and revocation lists as bytes: which fields and extensions each role gets, and why.

Knows no disk and keeps nothing; `ca` does. A certificate says by its extended key usage what it is
good for, so that a device cannot pass for the broker, nor the broker's certificate log in.

Everything is valid from 1970 on. A board without a clock wakes up there and must believe the
broker, or it would never learn the time. The end of a certificate is what counts.
"""

from __future__ import annotations

import enum
import ipaddress
import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_runtime.errors import InputError
from edge_runtime.fleet.home import PASSPHRASE_VARIABLE
from edge_runtime.messages.topics import DEVICE_ID

Key = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

YEAR = timedelta(days=365.25)
CA_VALID = 10 * YEAR
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
OPERATOR = "operator"
"""The common name of the operator's certificate: the broker's rights name it."""
MAX_HOSTS = 32
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"


class Role(enum.Enum):
    """What a certificate is good for."""

    DEVICE = "device"
    OPERATOR = "operator"
    BROKER = "broker"


VALID = {Role.DEVICE: 5 * YEAR, Role.OPERATOR: 2 * YEAR, Role.BROKER: 2 * YEAR}
USAGE = {
    Role.DEVICE: ExtendedKeyUsageOID.CLIENT_AUTH,
    Role.OPERATOR: ExtendedKeyUsageOID.CLIENT_AUTH,
    Role.BROKER: ExtendedKeyUsageOID.SERVER_AUTH,
}


def new_key() -> Key:
    """A private key on P-256: what every TLS library on every board can do."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key, passphrase: str | None = None) -> bytes:
    """PKCS#8, locked where there is a passphrase."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def read_key(data: bytes, passphrase: str | None, where: str) -> Key:
    """What `key_pem` wrote.

    Raises:
        InputError: the passphrase is missing or wrong, or it is no such key.
    """
    encrypted = b"ENCRYPTED" in data
    if encrypted and passphrase is None:
        raise InputError(
            f"{where}: is encrypted; give its passphrase with --passphrase-file FILE or in "
            f"{PASSPHRASE_VARIABLE}"
        )
    secret = passphrase.encode() if encrypted and passphrase is not None else None
    try:
        key = serialization.load_pem_private_key(data, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        why = "the passphrase does not open it" if encrypted else "no private key in PEM"
        raise InputError(f"{where}: cannot be used ({why})") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{where}: is {type(key).__name__}, expected an elliptic-curve key")
    return key


def pem(certificate: x509.Certificate) -> bytes:
    """As files hold it."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def read_certificate(data: bytes, where: str) -> x509.Certificate:
    """One certificate in PEM. Raises InputError."""
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError:
        raise InputError(f"{where}: no certificate in PEM") from None


def alternative_names(role: Role, name: str, hosts: Sequence[str]) -> list[x509.GeneralName]:
    """What a certificate's holder is called: the broker's hosts, or a URN of role and name.

    Raises:
        InputError: `name` cannot be one of this role, or a host is none.
    """
    if role is Role.BROKER:
        if not 1 <= len(hosts) <= MAX_HOSTS:
            raise InputError(f"broker: {len(hosts)} host names, expected 1..{MAX_HOSTS}")
        return list(dict.fromkeys(_host(host) for host in hosts))
    if hosts:
        raise RuntimeError(f"a certificate of a {role.value} names no hosts")
    if not re.fullmatch(DEVICE_ID, name):
        raise InputError(
            f"{role.value} id {name!r}: expected up to 64 letters, digits, '-' or '_', the first "
            "one a letter or digit"
        )
    # Whoever is called this has every right on the broker, and some brokers ignore case.
    if (name.casefold() == OPERATOR) != (role is Role.OPERATOR):
        raise InputError(f"{role.value} id {name}: this name belongs to the fleet's operator")
    return [x509.UniformResourceIdentifier(f"urn:edge-runtime:{role.value}:{name}")]


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    if len(text) > 253 or not re.fullmatch(rf"{_LABEL}(\.{_LABEL})*", text):
        raise InputError(
            f"host {text[:300]!r}: expected a name such as broker.example, or an address"
        )
    return x509.DNSName(text.lower())


def root_certificate(key: Key, end: datetime) -> x509.Certificate:
    """Of a new authority. It signs certificates and revocation lists, no other authorities."""
    # A name of its own: two fleets' authorities in one trust store must not be confused.
    name = _name(f"edge fleet CA {secrets.token_hex(4)}")
    return (
        _builder(name, name, key.public_key(), key, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def leaf_certificate(
    ca: x509.Certificate,
    ca_key: Key,
    public_key: PublicKey,
    role: Role,
    name: str,
    names: list[x509.GeneralName],
    end: datetime,
) -> x509.Certificate:
    """Of a device, an operator or a broker; `names` as of `alternative_names`."""
    return (
        _builder(_name(name), ca.subject, public_key, ca_key, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([USAGE[role]]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def self_signed(
    key: Key, common: str, names: list[x509.GeneralName], end: datetime
) -> x509.Certificate:
    """Of a server that is known by its key alone: nobody vouches for it."""
    name = _name(common)
    return (
        _builder(name, name, key.public_key(), key, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: PublicKey, issuer_key: Key, end: datetime
) -> x509.CertificateBuilder:
    own = x509.SubjectKeyIdentifier.from_public_key(public_key)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(EPOCH)
        .not_valid_after(end)
        .add_extension(own, critical=False)
        .add_extension(_authority(issuer_key), critical=False)
    )


def _authority(key: Key) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def revocation_list(
    ca: x509.Certificate, key: Key, revoked: Iterable[tuple[int, datetime, bool]]
) -> bytes:
    """The list of (serial, when, whether another took its place), in PEM.

    It is valid as long as the authority is: a broker refuses everyone while its list is not, and
    what keeps it fresh is that it is copied there after a revocation.
    """
    entries = [_revoked(*one) for one in revoked]
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(EPOCH)
        .next_update(ca.not_valid_after_utc)
        .add_extension(_authority(key), critical=False)
        # It differs from the one before by having more entries, and never has fewer.
        .add_extension(x509.CRLNumber(len(entries)), critical=False)
    )
    for entry in entries:
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _revoked(serial: int, when: datetime, superseded: bool) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when)
    if superseded:
        builder = builder.add_extension(x509.CRLReason(x509.ReasonFlags.superseded), critical=False)
    return builder.build()
