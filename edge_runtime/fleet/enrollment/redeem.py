"""What a board gets for its token: a certificate for the key that it made, and its configuration.

Order, each step durable before the next: 1 the token is good for this key; 2 the request is signed
by that key; 3 the token is marked as used by it; 4 certificate and folder, as `enroll` writes both,
but for the key; 5 the mark learns the certificate's serial; then the answer goes out. Whoever comes
again with the same key gets the same answer, out of the folder; after a power cut between 3 and 5
it is made anew. The caller holds the home.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_runtime.errors import InputError, UntrustedError
from edge_runtime.fleet.ca import CertificateAuthority
from edge_runtime.fleet.certificates import PublicKey, Role, read_certificate
from edge_runtime.fleet.enroll import CA, CERTIFICATE, CONFIG, ROOT, enroll
from edge_runtime.fleet.enrollment.tokens import Record, Tokens, Use
from edge_runtime.fleet.home import Home
from edge_runtime.fleet.issued import utc
from edge_runtime.messages.enrollment import EnrollAnswer, EnrollRequest, OwnProfile
from edge_runtime.profile import load_profile


@dataclass(frozen=True, slots=True)
class Redeemed:
    """`again`: this board was answered before. `crl`: the broker needs it, to refuse who was it."""

    answer: EnrollAnswer
    again: bool
    crl: Path | None = None


def redeem(
    home: Home, request: EnrollRequest, passphrase: str | None, now: datetime | None = None
) -> Redeemed:
    """Answer a board.

    Raises:
        UntrustedError: its token is not good, or not for this key.
        InputError: its request is faulty, or the home cannot enrol it.
        DeviceError: the disk failed; the board may come again.
    """
    now = utc(now)
    tokens = Tokens(home)
    digest = key_digest(request.csr)
    record = tokens.demand(request.device, request.secret, digest, now)  # 1
    public_key = _proved(request.csr)  # 2
    used = record.used
    if used is not None and used.serial is not None:
        return Redeemed(_answer(home, tokens, record, used.serial, now), again=True)
    if used is None:
        # What is cut from here on belongs to this token alone, and may be replaced by it.
        tokens.write(dataclasses.replace(record, used=Use(now, digest)))  # 3
    made = enroll(  # 4
        home,
        record.device,
        tokens.profile_of(record),
        passphrase=passphrase,
        force=record.force or used is not None,
        public_key=public_key,
        now=now,
    )
    serial = made.entry.serial
    tokens.write(dataclasses.replace(record, used=Use(now, digest, serial)))  # 5
    return Redeemed(
        _answer(home, tokens, record, serial, now),
        again=used is not None,
        crl=made.crl if made.replaced else None,
    )


def key_digest(csr: str) -> str:
    """SHA-256 of the public key in a certificate request. Raises InputError."""
    spki = (
        _request(csr)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return hashlib.sha256(spki).hexdigest()


def _request(csr: str) -> x509.CertificateSigningRequest:
    try:
        found = x509.load_pem_x509_csr(csr.encode())
        found.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError("csr: no certificate request in PEM") from None
    return found


def _proved(csr: str) -> PublicKey:
    """The public key, whose private half the sender has. Names in the request count nothing."""
    request = _request(csr)
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InputError("csr: expected a key on the curve P-256")
    try:
        good = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm):
        good = False
    if not good:
        raise InputError("csr: is not signed by the key that it names")
    return key


def _answer(home: Home, tokens: Tokens, record: Record, serial: int, now: datetime) -> EnrollAnswer:
    """Out of the folder, for as long as that holds the very certificate, and it is good."""
    folder = home.device(record.device)

    def text(name: str) -> str:
        try:
            return (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise InputError(f"{folder / name}: cannot be read") from None

    good = CertificateAuthority(home).issued().good(Role.DEVICE.value, record.device, now)
    certificate = text(CERTIFICATE)
    found = read_certificate(certificate.encode(), CERTIFICATE).serial_number
    if found != serial or serial not in {entry.serial for entry in good}:
        raise UntrustedError(
            f"the certificate that the token of {record.device} led to was revoked or replaced; "
            "ask for another token"
        )
    own: OwnProfile | None = None
    if record.profile.endswith(".toml"):
        file = f"{load_profile(tokens.profile_of(record)).name}.toml"
        own = OwnProfile(file, text(file))
    return EnrollAnswer(record.device, certificate, text(CA), text(ROOT), text(CONFIG), own)
