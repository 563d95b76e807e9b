"""Enrolment by a one-time token, the board's side: a key made here, and an identity fetched for it.

The key never leaves the board. It is on disk before anybody is asked, with the token that it goes
with: after a power cut or a broken line the same key comes again, and gets the same answer. The
server is known by its public key, which the token names; its certificate says nothing that counts.
What comes is checked as any identity before the folder is taken for one.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import os
import platform
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_runtime.agent.setup.identity import (
    CA,
    CERTIFICATE,
    CONFIG,
    KEY,
    ROOT,
    read_identity,
)
from edge_runtime.agent.setup.place import failing, remove, write
from edge_runtime.bundle.durable import sync_folder
from edge_runtime.errors import EdgeError, InputError, TransferError, UntrustedError
from edge_runtime.messages.enrollment import (
    ENROLL_PATH,
    MAX_ANSWER_BYTES,
    Address,
    EnrollAnswer,
    EnrollRequest,
    Token,
    refusal_of,
)
from edge_runtime.text import plain
from edge_runtime.version import release

MARK = "token.sha256"
"""Which token an identity came by; kept with it, so that the same line may be pasted again."""
TRIES = 4
PAUSE_S = 2.0
ANSWER_S = 30.0


def came_by(token: Token, folder: Path) -> bool:
    """Whether `folder` holds a whole identity that this very token brought."""
    try:
        found = (folder / MARK).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return False
    return hmac.compare_digest(found, token.sha256) and (folder / CONFIG).is_file()


def enroll(token: Token, folder: Path, tell: Callable[[str], None]) -> None:
    """Make `folder` an identity, by asking the token's server, unless the token made it one before.

    Raises:
        UntrustedError: the token is refused, or whoever answers is not the token's server.
        InputError: the server cannot enrol this board.
        TransferError: no server answers.
        DeviceError: the disk failed.
    """
    if came_by(token, folder):
        return
    key = _key(token, folder)
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, token.device)]))
        .sign(key, hashes.SHA256())
    )
    request = EnrollRequest(
        device=token.device,
        secret=token.secret,
        csr=csr.public_bytes(serialization.Encoding.PEM).decode(),
        agent_version=release() or "",
        arch=platform.machine(),
        python=platform.python_version(),
    )
    _keep(_answer(token, request, tell), token, folder)


def _key(token: Token, folder: Path) -> ec.EllipticCurvePrivateKey:
    """The one that goes with this token; made where there is none."""
    path, mark = folder / KEY, folder / MARK
    try:
        if mark.read_text("ascii").strip() == token.sha256:
            found = serialization.load_pem_private_key(path.read_bytes(), None)
            if isinstance(found, ec.EllipticCurvePrivateKey):
                return found
    except (OSError, ValueError, TypeError):
        pass
    remove(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with failing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.mkdir(folder, 0o700)
        write(path, pem, 0o600)
        # After the key: with it the key counts.
        write(mark, f"{token.sha256}\n".encode(), 0o600)
        sync_folder(folder)
        sync_folder(folder.parent)
    return key


def _keep(answer: EnrollAnswer, token: Token, folder: Path) -> None:
    """The answer as files, agent.toml last, and only where all of it holds together."""
    if answer.device != token.device:
        raise UntrustedError(
            f"the server answered for {plain(answer.device)}, the token is for {token.device}"
        )
    files = {CERTIFICATE: answer.certificate, CA: answer.ca, ROOT: answer.root}
    if answer.profile is not None:
        files[answer.profile.file] = answer.profile.text
    files[CONFIG] = answer.config
    try:
        for name, text in files.items():
            remove(folder / name)
            with failing(folder):
                write(folder / name, text.encode(), 0o600)
        with failing(folder):
            sync_folder(folder)
        identity = read_identity(folder)
        if identity.config.device_id != token.device or KEY not in identity.files:
            raise UntrustedError(f"the server's agent.toml is not one for {token.device}")
    except EdgeError:
        with contextlib.suppress(EdgeError):
            remove(folder / CONFIG)
        raise


def _answer(token: Token, request: EnrollRequest, tell: Callable[[str], None]) -> EnrollAnswer:
    """Of the first address that answers; all are tried a few times: a network may be coming up."""
    body = request.to_bytes()
    for left in range(TRIES - 1, -1, -1):
        reasons: list[EdgeError] = []
        for address in token.addresses:
            try:
                return EnrollAnswer.from_bytes(_post(address, token.pin_sha256, body))
            except (TransferError, Stranger) as reason:
                reasons.append(reason)
        said = "; ".join(map(str, reasons))
        if not left:
            strangers = [reason for reason in reasons if isinstance(reason, Stranger)]
            if strangers:
                raise strangers[0]
            raise TransferError(f"no enrolment server answers: {said}")
        tell(f"{said}; trying again")
        time.sleep(PAUSE_S)
    raise RuntimeError("never tried")


class Stranger(UntrustedError):
    """Somebody answers there, but it is not the token's server."""


def _post(address: Address, pin_sha256: str, body: bytes) -> bytes:
    """Ask one server.

    Raises:
        UntrustedError: it refuses the token; `Stranger`: it is another one.
        InputError: it refuses the request.
        TransferError: it does not answer, or is busy.
    """
    end_s = time.monotonic() + ANSWER_S
    try:
        with _connected(address, pin_sha256) as tls:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=ANSWER_S)
            connection.sock = tls
            connection.request("POST", ENROLL_PATH, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = bytearray()
            while piece := answer.read1(64 << 10):
                data += piece
                if len(data) > MAX_ANSWER_BYTES or time.monotonic() > end_s:
                    raise TransferError(f"{address}: the answer is too large, or takes too long")
    except (OSError, http.client.HTTPException) as reason:
        why = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise TransferError(f"{address}: {plain(why)}") from None
    if answer.status == 200:
        return bytes(data)
    refusal = plain(refusal_of(bytes(data))) or f"HTTP status {answer.status}"
    if answer.status == 403:
        raise UntrustedError(refusal)
    if answer.status == 429 or answer.status >= 500:
        raise TransferError(f"{address}: {refusal}")
    raise InputError(f"{address}: refused: {refusal}")


def _connected(address: Address, pin_sha256: str) -> ssl.SSLSocket:
    """A connection to whoever holds the key that the pin is of; nothing was sent over it yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # No authority vouches for the server, and no name matters: the pin below says who it must be.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    raw = socket.create_connection((address.host, address.port), timeout=ANSWER_S)
    try:
        tls = context.wrap_socket(raw, server_hostname=address.host)
    except BaseException:
        raw.close()
        raise
    try:
        found = _pin(tls.getpeercert(binary_form=True) or b"")
        if not hmac.compare_digest(found, pin_sha256):
            raise Stranger(
                f"{address}: is not the server that made the token: its key is {found[:16]}…, "
                f"expected {pin_sha256[:16]}…"
            )
    except BaseException:
        tls.close()
        raise
    return tls


def _pin(certificate: bytes) -> str:
    """SHA-256 of a certificate's public key; empty where it is none."""
    try:
        spki = (
            x509.load_der_x509_certificate(certificate)
            .public_key()
            .public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
    except ValueError:
        return ""
    return hashlib.sha256(spki).hexdigest()
