"""The keys of the TUF roles as files, and as the words by which people name them.

A private key lies in a PEM file of its own (`file:PATH`, relative to the fleet home) or in an
environment variable (`envvar:NAME`); any other URI is one of securesystemslib's (`hsm:`, `gcpkms:`,
`awskms:`, `azurekms:`, `hv:` and others), which `keyring` hands over as it is.

The keys of root and targets are encrypted, those of snapshot and timestamp are not: a timer must be
able to use them. No message holds a passphrase, nor a byte of a key.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.exceptions import Error as SignerError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Key, SSlibKey

from edge_runtime.bundle import durable
from edge_runtime.errors import InputError
from edge_runtime.fleet.home import PASSPHRASE_VARIABLE, make_secret_folder, write_secret

FILE, VARIABLE = "file", "envvar"
MIN_PASSPHRASE = 12
"""Characters: whoever copies the file may guess for as long as they like."""
MAX_PEM_BYTES = 64 << 10
SHORT = 8
"""Characters of a key id that people see."""
_URI = re.compile(r"([a-z][a-z0-9+.-]+):(.*)", re.DOTALL)
_ENCRYPTED = b"ENCRYPTED PRIVATE KEY"


@dataclass(frozen=True, slots=True)
class Held:
    """A public key, and the URI of whoever signs with it; empty where that is somebody else."""

    key: SSlibKey
    uri: str = ""


def keyid_of(key: Key) -> str:
    """The id that a key has by what it is, whatever it is called."""
    named = {"keytype": key.keytype, "scheme": key.scheme, "keyval": key.keyval}
    return hashlib.sha256(str(encode_canonical(named)).encode()).hexdigest()


def matching(start: str, keyids: Iterable[str]) -> str:
    """The one key id that begins with `start`.

    Raises:
        InputError: none does, or several do.
    """
    known = list(keyids)
    found = [keyid for keyid in known if start and keyid.startswith(start)]
    if len(found) != 1:
        shown = ", ".join(keyid[:SHORT] for keyid in known) or "none"
        raise InputError(f"key {start!r}: {len(found)} keys begin so, expected one of {shown}")
    return found[0]


# Making keys.


def check_passphrase(passphrase: str | None) -> bytes:
    """For a key that is about to be made.

    Raises:
        InputError: there is none, or it is short.
    """
    if passphrase is None:
        raise InputError(
            "the new key is to be encrypted: give a passphrase with --passphrase-file FILE or in "
            f"{PASSPHRASE_VARIABLE}"
        )
    if len(passphrase) < MIN_PASSPHRASE:
        raise InputError(
            f"passphrase: {len(passphrase)} characters, expected at least {MIN_PASSPHRASE}"
        )
    return passphrase.encode()


def make_key(folder: Path, role: str, passphrase: bytes | None) -> Held:
    """A new Ed25519 key in `folder`, a folder of a fleet home, as `<role>-<key id>.pem`.

    Raises:
        DeviceError: it cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    key = SSlibKey.from_crypto(private.public_key())
    make_secret_folder(folder)
    path = folder / f"{role}-{key.keyid[:SHORT]}.pem"
    write_secret(path, _private_pem(private, passphrase))
    return Held(key, f"{FILE}:{folder.name}/{path.name}")


def make_key_pair(path: Path, passphrase: bytes | None) -> tuple[SSlibKey, Path]:
    """A new Ed25519 key at `path` and its public half beside it, `<path without .pem>.pub.pem`.

    Raises:
        InputError: there is something at one of these places already.
        DeviceError: it cannot be written.
    """
    public = path.with_name(f"{path.name.removesuffix('.pem')}.pub.pem")
    for each in (path, public):
        if each.exists():
            raise InputError(f"{each}: is there already, and a key is never overwritten")
    private = Ed25519PrivateKey.generate()
    write_secret(path, _private_pem(private, passphrase))
    half = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    durable.replace(public, half)
    return SSlibKey.from_crypto(private.public_key()), public


def _private_pem(private: Ed25519PrivateKey, passphrase: bytes | None) -> bytes:
    how: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        how = BestAvailableEncryption(passphrase)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


# Finding keys.


def read_word(word: str, home: Path, passphrase: str | None) -> Held:
    """A key as people name one.

    `PUBLIC.pem` is somebody else's; `PUBLIC.pem=URI` is one whose signer is found under that URI;
    `file:PRIVATE.pem` and `envvar:NAME` hold the key themselves. A path is relative to where one
    stands, and becomes relative to `home` where it lies in there.

    Raises:
        InputError: no such file, wrong passphrase, or a URI that does not say which key it is.
    """
    if scheme(word) in (FILE, VARIABLE):
        uri = from_home(word, home)
        return Held(open_pem(uri, home, passphrase).public_key, uri)
    if scheme(word):
        raise InputError(
            f"key {word}: does not say which public key it is; write PUBLIC.pem={word}, where "
            "PUBLIC.pem is its public key"
        )
    path, _, uri = word.partition("=")
    key = _public(_read(Path(path).expanduser(), f"key {path}"), path)
    check_scheme(uri)
    return Held(key, from_home(uri, home))


def scheme(uri: str) -> str:
    """What a URI begins with; empty for what is none."""
    found = _URI.fullmatch(uri)
    return found[1] if found else ""


def check_scheme(uri: str) -> None:
    """Raises InputError: `uri` is not empty, and none that anything here signs with."""
    known = sorted({FILE, VARIABLE, *SIGNER_FOR_URI_SCHEME})
    if uri and scheme(uri) not in known:
        raise InputError(
            f"key {uri}: scheme {scheme(uri)!r} is not known; known are {', '.join(known)}"
        )


def from_home(uri: str, home: Path) -> str:
    """A path relative to where one stands, as `fleet.toml` keeps it; any other URI as it is."""
    if scheme(uri) != FILE:
        return uri
    path = Path.cwd() / _path(uri, Path())
    inside = path.resolve()
    if inside.is_relative_to(home.resolve()):
        return f"{FILE}:{inside.relative_to(home.resolve()).as_posix()}"
    return f"{FILE}:{path}"


def is_here(uri: str, home: Path) -> bool:
    """Whether this machine has the signer; it may still fail."""
    if scheme(uri) == FILE:
        return _path(uri, home).is_file()
    if scheme(uri) == VARIABLE:
        return uri.partition(":")[2] in os.environ
    return bool(uri)


def needs_passphrase(uri: str, home: Path) -> bool:
    """Whether it is a PEM that is here and encrypted.

    Raises:
        InputError: it cannot be read.
    """
    return scheme(uri) in (FILE, VARIABLE) and is_here(uri, home) and _ENCRYPTED in _pem(uri, home)


def open_pem(
    uri: str, home: Path, passphrase: str | None, public: SSlibKey | None = None
) -> CryptoSigner:
    """The signer of a `file:` or `envvar:`, which must hold the private half of `public`.

    Raises:
        InputError: unreadable, no private key, another one, or the passphrase is wrong or missing.
    """
    pem = _pem(uri, home)
    encrypted = _ENCRYPTED in pem
    if encrypted and passphrase is None:
        raise InputError(
            f"key {uri}: is encrypted; give its passphrase with --passphrase-file FILE or in "
            f"{PASSPHRASE_VARIABLE}"
        )
    secret = passphrase.encode() if encrypted and passphrase is not None else None
    try:
        private = load_pem_private_key(pem, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if encrypted:
            raise InputError(f"key {uri}: the passphrase does not open it") from None
        raise InputError(f"key {uri}: no private key in PEM (PKCS#8)") from None
    try:
        return CryptoSigner(private, public)
    except (ValueError, SignerError):
        shown = f"the private half of {public.keyid[:SHORT]}" if public else "a key that can sign"
        raise InputError(f"key {uri}: is not {shown}") from None


def _path(uri: str, home: Path) -> Path:
    rest = uri.partition(":")[2]
    return home / Path(rest[2:] if rest.startswith("///") else rest).expanduser()


def _pem(uri: str, home: Path) -> bytes:
    if scheme(uri) == VARIABLE:
        return os.environ.get(uri.partition(":")[2], "").encode()
    return _read(_path(uri, home), f"key {uri}")


def _read(path: Path, where: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_PEM_BYTES + 1)
    except OSError as reason:
        raise InputError(f"{where}: cannot be read ({reason.strerror})") from None
    if len(data) > MAX_PEM_BYTES:
        raise InputError(f"{where}: more than {MAX_PEM_BYTES} bytes, expected a key in PEM")
    return data


def _public(data: bytes, where: str) -> SSlibKey:
    if b"PRIVATE KEY" in data:
        raise InputError(
            f"key {where}: holds a private key, expected a public one; a private key that is here "
            f"is named file:{where}"
        )
    try:
        return SSlibKey.from_crypto(load_pem_public_key(data))
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"key {where}: no public key in PEM that metadata can name") from None
